"""The options of ``likeness pipeline``, and those of the jobs that it runs."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from metric_core.errors import ConfigError
from metric_core.options import out_of_range
from workflows.catalogue.config import CatalogueConfig
from workflows.embed.config import EmbedConfig
from workflows.index.config import AddConfig, Gated, IndexConfig
from workflows.shared.options import PictureOptions


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(PictureOptions, Gated):
    """Keep an index of a source up to date."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input and output": ("source", "model", "work", "person_level", "unlabelled", "namespace"),
        "embeddings": ("dtype", "precision", "unit_size", "max_bad_fraction", "retry_quarantined"),
        "index, when it is built of everything": (
            "target_identity_recall",
            "target_recall",
            "memory_budget",
            "disk_budget",
            "spec",
            "shards",
            "seed",
            "rebuild",
        ),
        "beside the live version": ("upgrade", "max_gone"),
        "what stays": ("keep",),
        "how it runs": ("gpu", "gpu_per_actor", "actors", "decoders", "batch", "tracking_uri"),
    }

    source: str
    """The corpus, as for `likeness catalogue`."""
    model: str
    """Model folder, object-store address, or MLflow model URI (models:/NAME@ALIAS)."""
    work: str
    """Folder or object-store address of everything that the pipeline makes: catalogues, embeddings, the index in
    WORK/index, and a page about the last run that did something, WORK/report.html."""
    person_level: int | None = None
    """In folders and tars, which folder names the person, counted from the source; default: the innermost one."""
    unlabelled: bool = False
    """Take pictures of people who are not named."""
    namespace: str | None = None
    """Prefix of the face_ids; default: that of the catalogue in --work, at first the source's own name."""
    dtype: Literal["float32", "float16"] = "float32"
    """Number format of the stored vectors; float16 halves their size."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Number format that the network computes in."""
    unit_size: int = 2048
    """Faces per unit of work; a worker that dies loses its current units."""
    max_bad_fraction: float = 0.01
    """Largest share of faces in the quarantine before the embedding stops."""
    retry_quarantined: bool = False
    """Try the faces in the quarantine of an embedding that was stopped again, once the source is repaired."""
    target_identity_recall: float = 0.99
    """Share of held-out probes whose person must come first, of those whose person an exact search puts first."""
    target_recall: float | None = None
    """Share of the true 10 nearest vectors that a search must find as well; default: any."""
    memory_budget: str | None = None
    """Memory that a search on one thread may add to its process, such as 4GiB or 500MB; default: no limit."""
    disk_budget: str | None = None
    """Disk that the index may take, such as 40GiB; default: no limit."""
    spec: str | None = None
    """The index to build, for experts; default: the one that reaches the targets with the least work."""
    shards: int | None = None
    """Number of shards of a full build; default: shards of about 1 GiB."""
    seed: int = 0
    """Random seed for the sample, the probes and k-means."""
    rebuild: bool = False
    """Build a version of everything, with the options above, even if adding the changes would do."""
    upgrade: bool = False
    """Let --model be another one than that of the live version: everything is embedded with it beside the old
    embeddings, compared, and published if it finds no less. Back: `likeness index rollback`."""
    force: bool = False
    """Publish a worse version as well; the history says so. Also goes on past --max-gone."""
    max_gone: float = 0.2
    """Share of the live index's faces that the source may no longer have; more stops the run with exit code 3 before
    anything is embedded, as a source that is mounted in part would; --force goes on."""
    keep: int = 3
    """Versions of the index that stay, with the embeddings and catalogues that they are of; the live one always
    does."""
    gpu: bool = False
    """Compute on GPUs."""
    gpu_per_actor: float = 1.0
    """Share of a GPU per embedding process with --gpu, above 0 and at most 1."""
    actors: int | None = None
    """Embedding processes; default: as for `likeness embed`."""
    decoders: int | None = None
    """Processes that only read and decode; default: as for `likeness embed`."""
    batch: int = 128
    """Faces decoded at a time; on a GPU they also go through the network together."""
    tracking_uri: str | None = None
    """Address of the MLflow store for a run with a child run per step; default: MLFLOW_TRACKING_URI, else none."""

    def problems(self) -> list[str]:
        problems = out_of_range(self, keep="[1, inf)", max_gone="[0, 1]")
        checks: tuple[Callable[[], object], ...] = (
            lambda: self.cataloguing("-", self.namespace),
            lambda: self.embedding("-", "-", None),
            lambda: self.building("-", "-"),
        )
        for check in checks:
            try:
                check()
            except ConfigError as error:
                problems += str(error).splitlines()
        return list(dict.fromkeys(problems))

    def cataloguing(self, out: str, namespace: str | None) -> CatalogueConfig:
        """The options of a catalogue."""
        return CatalogueConfig(**self._of(CatalogueConfig) | {"out": out, "namespace": namespace})

    def embedding(self, faces: str, out: str, since: str | None) -> EmbedConfig:
        """The options of an embedding."""
        return EmbedConfig(**self._of(EmbedConfig), faces=faces, out=out, since=since)

    def building(self, embeddings: str, out: str) -> IndexConfig:
        """The options of a full build, which publishes nothing."""
        return IndexConfig(**self._of(IndexConfig), embeddings=embeddings, out=out, publish=False)

    def adding(self, embeddings: str, index: str) -> AddConfig:
        """The options of an addition, which publishes nothing."""
        return AddConfig(**self._of(AddConfig), embeddings=embeddings, index=index, publish=False)

    def _of(self, config_class: type) -> dict[str, Any]:
        """The values of the options that another job has, too."""
        own = {field.name for field in fields(self)}
        return {field.name: getattr(self, field.name) for field in fields(config_class) if field.name in own}
