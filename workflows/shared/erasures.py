"""Embeddings without erased faces, and a warning where it cannot be known which faces were erased."""

from metric_core.artefacts.collection import Collection
from workflows.shared.console import say


def without_erased(source: Collection, folder: str | None = None) -> Collection:
    """The collection without faces that are erased, by the tombstones in ``folder`` or else those next to its Faces.

    Raises:
        Missing: ``folder`` does not exist.
    """
    for one in [] if folder else source.unguarded():
        faces = one.manifest.noted("faces") or "(not recorded)"
        say(
            f"{one.manifest.uri}: its Faces {faces} do not exist any more, nor do tombstones next to them; faces that "
            f"were erased since then are still included"
        )
    return source.without_erased(folder)
