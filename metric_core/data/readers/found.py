"""What every reader yields: faces that were found in a source, before they have ids.

How each format is read is in the modules beside this one; getting at the bytes again is in ``fetching``.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from metric_core import storage

Scan = Callable[[Counter[str]], Iterator["Found"]]
"""Yields one shard's faces in order, and counts the files that it passes over by their ending. It can be pickled."""


@dataclass(frozen=True)
class Found:
    """One face in a source, before it has an id. ``kind`` says which of the locator's fields are set."""

    identity: str
    key: str
    uri: str
    """Relative to the source's root, or absolute."""
    content_tag: str
    """Changes when the bytes change."""
    kind: str = "file"
    offset: int | None = None
    length: int | None = None
    row_group: int | None = None
    row: int | None = None
    column: str | None = None
    view: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Source:
    """A corpus, ready to be scanned."""

    root: str
    name: str
    """The default namespace of its face_ids."""
    shards: list[Scan]
    """Parts that can be scanned apart; one after the other they give the source's order."""
    ignored: Counter[str] = field(default_factory=Counter)
    """Files that were passed over, counted by their ending; filled as ``faces`` is consumed."""

    @property
    def faces(self) -> Iterator[Found]:
        """The faces of all shards, in source order. Raises DataError or Missing as the format's reader does."""
        for shard in self.shards:
            yield from shard(self.ignored)


def resolve(root: str, uri: str) -> str:
    """The address of a row's bytes."""
    return uri if uri.startswith("/") or "://" in uri else storage.join(root, uri)
