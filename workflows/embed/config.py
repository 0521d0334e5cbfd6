"""The options of ``likeness embed``."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from metric_core.options import out_of_range
from workflows.shared.options import PictureOptions


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(PictureOptions):
    """Embed every face of a catalogue."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input and output": ("faces", "model", "out", "since", "split", "tombstones", "dtype"),
        "units and quarantine": ("unit_size", "max_bad_fraction", "retry_quarantined"),
        "how it runs": ("gpu", "gpu_per_actor", "actors", "decoders", "batch", "precision", "tracking_uri"),
        "estimate": ("dry_run", "price_per_hour"),
    }

    faces: str
    """The Faces artefact to embed."""
    model: str
    """Model folder, object-store address, or MLflow model URI (models:/NAME@ALIAS)."""
    out: str
    """Folder or object-store address of the Embeddings to write."""
    since: str | None = None
    """Earlier Embeddings of the same model, A or A,B: embed only faces that are new or have changed since then, and
    list those that are gone. Later jobs then take all of them together: A,B,OUT."""
    tombstones: str | None = None
    """Folder of erased faces, which are left out; default: the folder tombstones next to the Faces."""
    split: str | None = None
    """Embed only this split; default: all faces."""
    dtype: Literal["float32", "float16"] = "float32"
    """Number format of the stored vectors; float16 halves their size."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Number format that the network computes in; a faster one is refused if the cosine between its vectors and those
    of float32 falls below 0.9999 in a sample."""
    unit_size: int = 2048
    """Faces per unit of work, which is also a part of the result; a worker that dies loses its current units."""
    batch: int = 128
    """Faces decoded at a time; on a GPU they also go through the network together."""
    actors: int | None = None
    """Embedding processes; default: one per CPU that does not decode, and with --gpu as many as fit on the GPUs."""
    decoders: int | None = None
    """Processes that only read and decode, with one CPU each; default: none without --gpu, where actors decode as well,
    and with --gpu one per CPU that no actor uses."""
    gpu: bool = False
    """Compute on GPUs."""
    gpu_per_actor: float = 1.0
    """Share of a GPU per actor with --gpu, above 0 and at most 1; 0.5 puts two actors on each GPU."""
    max_bad_fraction: float = 0.01
    """Largest share of faces in the quarantine before the job stops."""
    retry_quarantined: bool = False
    """Try the faces in the quarantine again, even if the artefact is finished."""
    tracking_uri: str | None = None
    """Address of the MLflow store for the metrics of the run; default: MLFLOW_TRACKING_URI, else none."""
    dry_run: bool = False
    """Embed only a sample, write nothing, and estimate time and size of the whole job."""
    price_per_hour: float | None = None
    """Price per hour of all machines that the job runs on, in any currency; --dry-run then estimates the cost."""

    def problems(self) -> list[str]:
        count = "[1, inf)"
        return super().problems() + out_of_range(
            self,
            unit_size=count,
            batch=count,
            actors=count,
            decoders="[0, inf)",
            gpu_per_actor="(0, 1]",
            max_bad_fraction="[0, 1]",
            price_per_hour="[0, inf)",
        )
