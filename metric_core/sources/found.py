"""What every reader yields: faces that were found in a source, before they have ids.

Each format has its own module in this folder; reading the image bytes later is in ``fetching``.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from metric_core.errors import DataError
from metric_core.sources.naming import Folders

Scan = Callable[["Notes"], Iterator["Found"]]
"""Yields one shard's faces in order, and notes what it does not yield. It can be pickled."""

TWINS, LINKS, SPECIAL, UNLISTED = "(twin)", "(link)", "(special)", "(unlisted)"
"""Names under which a scan counts, beside the endings of ignored files: pictures whose key has the ending of their
file, see ``keys.of``; symbolic links in a tar; named pipes, sockets and devices; bytes of records that an index
leaves out."""


@dataclass
class Notes:
    """What is known of a source beside its faces, complete when they are consumed."""

    ignored: Counter[str] = field(default_factory=Counter)
    """Ignored files, counted by their ending, and what ``TWINS`` and the other names stand for."""
    folders: Folders = field(default_factory=Folders)
    alike: list[tuple[str, str]] = field(default_factory=list)
    """Pairs of identities that differ only in case or in their Unicode form, filled by ``catalogue.write``."""

    def update(self, others: "Notes", where: str) -> None:
        """Add the notes on another shard. Raises DataError if a folder's name is not one person's in both."""
        self.ignored.update(others.ignored)
        self.folders.update(others.folders, where)


@dataclass(frozen=True)
class Found:
    """One face in a source, before it has an id. ``kind`` determines which fields of the locator are set."""

    identity: str | None
    """None only in an unlabelled corpus."""
    key: str
    uri: str
    """Relative to the source's root, or absolute."""
    content_tag: str
    """Changes when the bytes change; for files that have a twin, see ``keys.distinct_tags``."""
    kind: str = "file"
    offset: int | None = None
    length: int | None = None
    row_group: int | None = None
    row: int | None = None
    column: str | None = None
    view: str | None = None
    split: str | None = None
    landmarks: tuple[float, ...] | None = None
    """x1, y1 … x5, y5 in pixels of the upright picture: eyes, nose, mouth corners; of each pair the left one first."""


@dataclass(frozen=True)
class Source:
    """A corpus, ready to be scanned."""

    root: str
    name: str
    """The default namespace of its face_ids."""
    shards: list[Scan]
    """Parts that can be scanned independently; one after the other they give the source's order."""
    notes: Notes = field(default_factory=Notes)
    """Filled as ``faces`` is consumed."""
    unlabelled: bool = False
    """Whether faces may have no name."""

    @property
    def ignored(self) -> Counter[str]:
        """The ignored files among the notes."""
        return self.notes.ignored

    @property
    def faces(self) -> Iterator[Found]:
        """The faces of all shards, in source order. Raises DataError or Missing as the format's reader does."""
        for shard in self.shards:
            yield from shard(self.notes)


def read_landmarks(value: Any, where: str) -> tuple[float, ...] | None:
    """The landmarks in a cell: 10 numbers, five pairs of numbers, or either as text; None for an empty cell.

    Raises:
        DataError: the cell holds something else.
    """
    try:
        words = re.split(r"[\s,;]+", value.strip()) if isinstance(value, str) else value
        if words is None or words == [""]:
            return None
        numbers = tuple(float(number) for pair in words for number in (pair if isinstance(pair, list) else [pair]))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 10 or not all(map(math.isfinite, numbers)):
        raise DataError(f"{where}: {str(value)[:80]!r} are not landmarks; expected 10 numbers x1 y1 … x5 y5")
    return numbers


def first_few(paths: list[str]) -> str:
    """The first three of many paths, for a message."""
    return ", ".join(paths[:3]) + (" …" if len(paths) > 3 else "")
