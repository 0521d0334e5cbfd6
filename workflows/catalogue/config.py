"""The options of ``likeness catalogue``."""

from dataclasses import dataclass
from typing import ClassVar

from metric_core.options import out_of_range
from workflows.shared.options import RunOptions


@dataclass(frozen=True, kw_only=True)
class CatalogueConfig(RunOptions):
    """List the faces of a corpus."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input and output": ("source", "person_level", "unlabelled", "out", "tombstones", "namespace"),
        "splits": ("splits", "valid_fraction", "seed"),
    }

    source: str
    """A folder with one folder per person (at any depth); a .csv or .parquet list with columns path,identity and, if
    you have them, key,view,split,landmarks; an MXNet train.rec; a .tar in WebDataset's layout or with one folder per
    person; a .parquet with columns image and identity or label; a folder of .rec, .tar or .parquet files; a pattern,
    'shards-{000..127}.tar'; or InsightFace's lfw.bin, for evaluate --pairs lfw.bin."""
    person_level: int | None = None
    """In folders and tars, which folder names the person, counted from the source: 2 for Images/anna/left/1.jpg;
    default: the innermost one, which must be unambiguous, or the .cls or .json beside the picture."""
    unlabelled: bool = False
    """Take pictures of people who are not named: a flat folder, or a list, .tar or .parquet without names. They can be
    embedded, indexed and searched, not trained on; folders name nobody, and a picture keeps the name that its identity
    or label column, .cls or .json gives it."""
    out: str
    """Folder or object-store address of the Faces artefact to write."""
    tombstones: str | None = None
    """Folder of erased faces and people, which are left out; default: the folder tombstones next to --out."""
    namespace: str | None = None
    """Prefix of the face_ids; default: the source's own name."""
    splits: str | None = None
    """CSV or Parquet file with columns identity,split: the split that each person belongs to."""
    valid_fraction: float = 0.0
    """Share of people, 0 or more and below 1, who are drawn for the split valid; the others form the split train. 0: no
    splits."""
    seed: int = 0
    """Random seed for the split."""

    def problems(self) -> list[str]:
        problems = out_of_range(self, person_level="[1, inf)", valid_fraction="[0, 1)")
        if self.splits and self.valid_fraction:
            problems.append("splits and valid_fraction are both given; choose one")
        if self.unlabelled:
            given = [name for name in ("person_level", "splits", "valid_fraction") if getattr(self, name)]
            problems += [f"{name} is about people, whom --unlabelled does not name; leave one out" for name in given]
        return problems
