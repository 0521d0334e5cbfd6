"""What the processes of an embed job get: the faces, the network and how to use it, and where units are committed."""

from dataclasses import dataclass
from typing import Literal

from metric_core.artefacts.delta import Selection
from metric_core.artefacts.faces import Faces
from metric_core.image.limits import Limits
from metric_core.model.embedder import Embedder
from workflows.embed.store import UnitStore

Precision = Literal["float32", "bf16", "fp16"]


@dataclass(frozen=True)
class Setup:
    """What all units of a job have in common; sent to each node once."""

    faces: Faces
    embedder: Embedder
    store: UnitStore
    split: str | None
    selection: Selection
    dtype: str
    """Number format of the stored vectors: float32 or float16."""
    precision: Precision
    """Number format that the network computes in."""
    batch: int
    """Faces decoded together."""
    limits: Limits
    """Of pictures that are read."""
    device: str
    """Where the network runs: cpu or cuda."""
