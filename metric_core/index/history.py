"""Which versions of an index were live, in ``INDEX/HISTORY``: where going back leads to.

    [{"version": "…", "when": "…", "forced": ["…"]}, …]     the latest last; a version is in it once

``CURRENT`` alone says what is live; this file is written after it, so a job that was killed in between left out its own
entry only. When and why a version was published is left to the job.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from metric_core import storage
from metric_core.errors import ArtefactError

HISTORY = "HISTORY"
_MOST = 16 << 20


@dataclass(frozen=True)
class Published:
    """A version that was made the live one."""

    version: str
    when: str | None = None
    """as its job wrote it"""
    forced: list[str] = field(default_factory=list)
    """what the comparison with the version before found, if it was published all the same"""


def read(index_uri: str) -> list[Published]:
    """The versions that were live, the latest last; none if the file is missing or damaged: it is no part of any
    version, and the next publication writes it anew."""
    address = storage.join(index_uri, HISTORY)
    return _parsed(storage.read_bytes(address, most=_MOST)) if storage.exists(address) else []


def push(index_uri: str, entry: Published) -> None:
    """Note that a version became the live one, unless it is that already. Raises ArtefactError as ``_change``."""

    def pushed(before: list[Published]) -> list[Published]:
        if before and before[-1].version == entry.version:
            return before
        return [*(one for one in before if one.version != entry.version), entry]

    _change(index_uri, pushed)


def back_to(index_uri: str, version: str) -> None:
    """Forget what was published after a version, which is the live one again. Raises ArtefactError as ``_change``."""
    _change(index_uri, lambda before: before[: _position(before, version) + 1])


def before(entries: Sequence[Published], live: str) -> list[str]:
    """The ids of the versions that were live before the live one, the latest first."""
    return [one.version for one in reversed(entries[: _position(entries, live)]) if one.version != live]


def _position(entries: Sequence[Published], version: str) -> int:
    """Where a version is; behind the last where it is not."""
    return next((at for at, one in enumerate(entries) if one.version == version), len(entries))


def _change(index_uri: str, change: Callable[[list[Published]], list[Published]]) -> None:
    """Raises ArtefactError if other jobs publish all the time."""
    address = storage.join(index_uri, HISTORY)
    if not storage.change(address, lambda old: _written(change(_parsed(old or b"")))):
        raise ArtefactError(f"{address} keeps changing because another job publishes all the time; stop it")


def _written(entries: list[Published]) -> bytes:
    return json.dumps([asdict(one) for one in entries], indent=2).encode() + b"\n"


def _parsed(data: bytes) -> list[Published]:
    try:
        found = [Published(**one) for one in json.loads(data)]
    except (ValueError, TypeError):
        return []
    sound = all(isinstance(one.version, str) and isinstance(one.forced, list) for one in found)
    return found if sound else []
