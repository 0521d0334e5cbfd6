"""The options of ``likeness erase``."""

from dataclasses import dataclass, field
from typing import ClassVar

from metric_core.options import Options

Texts = list[str]
Numbers = list[int]


@dataclass(frozen=True, kw_only=True)
class EraseConfig(Options):
    """Erase people or faces, now and for ever."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "who": ("identity", "face_id", "list", "yes_all"),
        "from what": ("faces", "embeddings", "index", "matches", "tombstones"),
        "receipts": ("receipt", "lift"),
    }

    identity: Texts = field(default_factory=Texts)
    """Names of people, as the catalogue has them; all their pictures are erased, and none is catalogued again."""
    face_id: Numbers = field(default_factory=Numbers)
    """Ids of single faces; pictures whose names differ from theirs in the ending only are erased with them."""
    faces: str
    """The Faces, with the catalogue's names and keys; what is erased is also noted in the folder tombstones beside
    them."""
    embeddings: Texts = field(default_factory=Texts)
    """All Embeddings made of them, deltas as well."""
    index: Texts = field(default_factory=Texts)
    """All indexes made of them; every version is erased from."""
    matches: Texts = field(default_factory=Texts)
    """Results of searches, written by search --out."""
    tombstones: str | None = None
    """Folder of erased faces; default: the folder tombstones next to the Faces."""
    receipt: str | None = None
    """Folder for the receipt, a JSON file and a page; default: the folder receipts next to the tombstones. With --lift
    the receipt's JSON file."""
    lift: bool = False
    """Take back the tombstones of the erasure that --receipt is about, and nothing else. What was removed does not come
    back by that: catalogue again, and embed."""
    yes_all: bool = False
    """Erase even if nobody remains in the Faces."""
    list: str | None = None
    """CSV or Parquet file with a column identity, a column face_id, or both, of more people and faces."""

    def problems(self) -> Texts:
        problems = []
        asked = [name for name in ("identity", "face_id", "list") if getattr(self, name)]
        if self.lift:
            if not self.receipt:
                problems.append("receipt is missing; --lift takes back what one receipt is about: give its JSON file")
            problems += [f"{name} is given with --lift, which only reads a receipt; leave it out" for name in asked]
        elif not asked:
            problems.append("identity, face_id and list are missing; give at least one of them: whom to erase")
        for name in ("embeddings", "index", "matches"):
            given = self.addresses(name)
            twice = sorted({one for one in given if given.count(one) > 1})
            problems += [f"{name} names {one} twice; name it once" for one in twice]
        return problems + [line for one in self.face_id for line in _not_an_id(one)]

    def addresses(self, name: str) -> Texts:
        """Of an option that takes several addresses, which may also be joined by commas."""
        return [one.strip() for text in getattr(self, name) for one in text.split(",") if one.strip()]


def _not_an_id(number: int) -> Texts:
    return [f"face_id {number} is no face_id; expected 0 or more and below 2**63"] if not 0 <= number < 1 << 63 else []
