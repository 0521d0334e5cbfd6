"""Embeddings without what was erased, and a word where nobody can know what that was."""

from metric_core.artefacts.collection import Collection
from workflows.shared.console import say


def left_out(source: Collection, folder: str | None = None) -> Collection:
    """The collection without what is erased, by the tombstones in ``folder``, else by those beside its Faces.

    Raises:
        Missing: ``folder`` is not there.
    """
    for one in [] if folder else source.unguarded():
        faces = one.manifest.provenance.get("faces") or "(not recorded)"
        say(
            f"{one.manifest.uri}: its Faces {faces} are not there any more, nor are tombstones beside them: whatever "
            f"was erased since is still in"
        )
    return source.without_erased(folder)
