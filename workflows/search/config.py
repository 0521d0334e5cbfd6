"""The options of ``likeness search``."""

from dataclasses import dataclass, field

from metric_core.options import Options, out_of_range


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Options):
    """Find whom pictures show."""

    index: str
    """The Index to search; its live version."""
    model: str | None = None
    """The Model that embeds --image; not needed with --embeddings."""
    image: list[str] = field(default_factory=list)
    """Pictures, or folders of pictures, to look for."""
    embeddings: str | None = None
    """Embeddings to look for instead of pictures, A or A,B read as one; faces that are in the index do not find
    themselves."""
    top: int = 5
    """People to list for each probe."""
    out: str | None = None
    """Folder or object-store address of the Matches artefact to write."""
    gallery: str | None = None
    """PNG to write: each probe beside the people found."""
    faces: str | None = None
    """The Faces that were indexed, for the gallery's pictures; default: where the index remembers them."""

    def problems(self) -> list[str]:
        problems = out_of_range(self, top="[1, inf)")
        if bool(self.image) == bool(self.embeddings):
            problems.append("give either --image or --embeddings")
        if self.image and not self.model:
            problems.append("--image needs --model, the one whose embeddings were indexed")
        return problems
