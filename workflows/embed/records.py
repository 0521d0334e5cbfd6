"""Which units of an embed job are done, by the records beside the parts, and what the artefact consists of.

A unit has one record of its first run and one of each retry of its rejects. How records come to be is in ``units``.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from metric_core import storage
from workflows.embed import units
from workflows.embed.units import Record, Unit

READERS = 16
"""Records that are read at once: on an object store each takes a round trip."""


class Ledger:
    """The records of an output folder."""

    def __init__(self, out: str, everything: list[Unit]) -> None:
        self._out = out
        count: Counter[int] = Counter()
        for name in storage.names(storage.join(out, "done")):
            if name.endswith(".json") and not name.startswith("."):
                count[int(name.removesuffix(".json").partition("-")[0])] += 1
        done = [replace(unit, retry=n) for unit in everything for n in range(count[unit.number])]
        self._history: dict[Unit, list[Record]] = {unit: [] for unit in everything}
        with ThreadPoolExecutor(READERS) as pool:
            for unit, record in zip(done, pool.map(lambda unit: units.read_record(out, unit), done)):
                self.enter(unit, record)

    def enter(self, unit: Unit, record: Record) -> None:
        """A run of a unit, its first one or a retry."""
        self._history[replace(unit, retry=0)].append(record)

    def todo(self, retry: bool) -> list[Unit]:
        """What is to be run: units that were not yet, and with ``retry`` the rejects of those that were."""
        return [
            replace(unit, retry=len(history))
            for unit, history in self._history.items()
            if not history or (retry and history[-1].rejected)
        ]

    @property
    def runs(self) -> Iterator[tuple[Unit, Record, bool]]:
        """Every run in order, and whether it is its unit's last."""
        for unit, history in self._history.items():
            for n, record in enumerate(history):
                yield replace(unit, retry=n), record, n == len(history) - 1

    def content(self) -> dict[str, Any]:
        """{parts, tags, quarantine}: the files that make up the artefact, each {name, rows, sha256}."""
        parts = [_file(u.name, r.rows, r.sha256) for u, r, _ in self.runs if r.sha256]
        rejects = [_file(u.name, r.rejected, r.quarantine_sha256) for u, r, last in self.runs if last and r.rejected]
        tags = [_file(u.name, r.rows + r.rejected, r.tags_sha256) for u, r, _ in self.runs if r.tags_sha256]
        return {"parts": parts, "tags": tags, "quarantine": rejects}

    def sweep(self) -> None:
        """Remove what is not part of the artefact: quarantine files that a retry superseded, and unfinished files."""
        for unit, record, last in self.runs:
            if record.rejected and not last:
                storage.remove(storage.join(self._out, "quarantine", unit.name))
        for folder in ("done", "tags", "quarantine"):
            storage.remove_unfinished(storage.join(self._out, folder))
        storage.remove_unfinished(self._out)


def _file(name: str, rows: int, sha256: str | None) -> dict[str, Any]:
    return {"name": name, "rows": rows, "sha256": sha256}
