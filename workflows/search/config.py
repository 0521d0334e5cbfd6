"""The options of ``likeness search``."""

from dataclasses import dataclass, field
from typing import ClassVar

from metric_core.options import Options, out_of_range


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Options):
    """Find whom pictures show."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input": ("index", "image", "model", "embeddings", "verify"),
        "whom to find": ("identities", "face_ids", "views", "split", "faces"),
        "output": ("top", "out", "gallery"),
    }

    index: str
    """The Index to search, in its live version."""
    model: str | None = None
    """The Model that embeds the pictures of --image; it must be the one that the index was built with."""
    image: list[str] = field(default_factory=list)
    """Pictures, or folders of pictures, to look for."""
    embeddings: str | None = None
    """Embeddings to look for instead of pictures, A or A,B read as one; a face that is in the index does not find
    itself."""
    verify: bool = False
    """Hash the index's files again, also those that have not changed since this machine hashed them."""
    identities: list[str] = field(default_factory=list)
    """Find these people only."""
    face_ids: list[int] = field(default_factory=list)
    """Find these faces only."""
    views: list[str] = field(default_factory=list)
    """Find faces of these views only, as the catalogue has them."""
    split: str | None = None
    """Find faces of this split of the Faces only. A face must meet all of these conditions, and a search finds the best
    of those which do, however few they are."""
    top: int = 5
    """People listed per probe."""
    out: str | None = None
    """Folder or object-store address of the Matches artefact to write."""
    gallery: str | None = None
    """PNG file to write, with each probe next to the people found."""
    faces: str | None = None
    """The Faces that were indexed, for --split, the pictures of --gallery and the keys of faces without a name;
    default: the address that the index recorded."""

    def problems(self) -> list[str]:
        problems = out_of_range(self, top="[1, inf)")
        if any(face_id < 0 for face_id in self.face_ids):
            problems.append(f"face_ids is {min(self.face_ids)}; it must be 0 or more")
        if bool(self.image) == bool(self.embeddings):
            problems.append("give either --image or --embeddings")
        if self.image and not self.model:
            problems.append("--image needs --model, the one whose embeddings were indexed")
        return problems
