"""Embeddings without erased faces, a warning where it cannot be known who was erased, and how plans name them."""

from collections.abc import Callable

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


def name_in_plans(source: Collection, begun: Callable[[str], bool]) -> str:
    """What a plan calls the collection: its origin. Versions of Likeness without erasures took its digest, which is
    another one where an artefact hides faces of an earlier one; what they began goes on under that name.

    ``begun``: whether there is something of which the plan has this name.
    """
    return source.digest if source.digest != source.origin and begun(source.digest) else source.origin
