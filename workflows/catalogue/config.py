"""The options of ``likeness catalogue``."""

from dataclasses import dataclass

from metric_core.options import out_of_range
from workflows.shared.options import RunOptions


@dataclass(frozen=True, kw_only=True)
class CatalogueConfig(RunOptions):
    """List the faces of a corpus."""

    source: str
    """A folder with one folder a person (any nesting above it); a .csv or .parquet list with columns path,identity
    and, if you have them, key,view,split,landmarks; an MXNet train.rec; a .tar, in WebDataset's layout or with one
    folder a person; a .parquet with columns image and identity or label; a folder of .rec, .tar or .parquet files; a
    pattern, 'shards-{000..127}.tar'; or InsightFace's lfw.bin, for evaluate --pairs lfw.bin."""
    out: str
    """Folder or object-store address of the Faces artefact to write."""
    tombstones: str | None = None
    """Folder of erased faces and people, which are left out; default: the folder tombstones beside --out."""
    namespace: str | None = None
    """Prefix of the face_ids; default: the source's own name."""
    splits: str | None = None
    """CSV with columns identity,split: which people belong to which split."""
    valid_fraction: float = 0.0
    """Share of people that a seeded draw puts into the split valid; the others go into train. 0: no splits."""
    seed: int = 0
    """Of that draw."""

    def problems(self) -> list[str]:
        problems = out_of_range(self, valid_fraction="[0, 1)")
        if self.splits and self.valid_fraction:
            problems.append("splits and valid_fraction are both given; choose one")
        return problems
