"""The options of ``likeness embed``."""

from dataclasses import dataclass
from typing import Literal

from metric_core.options import out_of_range
from workflows.shared.options import RunOptions


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(RunOptions):
    """Embed every face of a catalogue."""

    faces: str
    """The Faces artefact to embed."""
    model: str
    """Model folder, object-store address, or MLflow model URI (models:/NAME@ALIAS)."""
    out: str
    """Folder or object-store address of the Embeddings to write."""
    since: str | None = None
    """Earlier Embeddings of the same model, A or A,B: embed only faces that are new or have changed since, and list
    those that are gone; other commands then read all of them as one, --embeddings A,B,OUT."""
    tombstones: str | None = None
    """Folder that lists erased faces, which are left out; default: the folder tombstones beside the Faces."""
    split: str | None = None
    """Embed only this split; default: all faces."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the stored components; float16 halves the bytes."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Precision of the network's arithmetic; a faster one is refused unless a sample of vectors keeps a cosine of at
    least 0.9999 to float32."""
    unit_size: int = 2048
    """Faces per unit of work, which is also a part: what is lost when a worker dies."""
    batch: int = 128
    """Faces decoded together; on a GPU they also go through the network together."""
    actors: int | None = None
    """Embedding processes; default: one per CPU that does not decode, or as many as the GPUs hold with --gpu."""
    decoders: int | None = None
    """Processes that only read and decode, one per CPU; default: none without --gpu (the actors decode beside the
    network), with it all CPUs that the actors do not use."""
    gpu: bool = False
    """Compute on GPUs."""
    gpu_per_actor: float = 1.0
    """Share of a GPU that an actor takes with --gpu, above 0 and at most 1; 0.5 puts two on one."""
    max_bad_fraction: float = 0.01
    """Largest share of faces that may end in the quarantine before the job stops."""
    retry_quarantined: bool = False
    """Try the faces in the quarantine once more, also of a finished artefact."""
    tracking_uri: str | None = None
    """MLflow store for the figures of the run; default: MLFLOW_TRACKING_URI, else none."""
    dry_run: bool = False
    """Embed a sample, write nothing, and estimate what the whole would take."""
    price_per_hour: float | None = None
    """Price of everything that the job runs on, per hour, in any currency; --dry-run then estimates the cost."""

    def problems(self) -> list[str]:
        count = "[1, inf)"
        return out_of_range(
            self,
            unit_size=count,
            batch=count,
            actors=count,
            decoders="[0, inf)",
            gpu_per_actor="(0, 1]",
            max_bad_fraction="[0, 1]",
            price_per_hour="[0, inf)",
        )
