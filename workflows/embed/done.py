"""Which units of an embed job are done, according to their records, and which files the artefact consists of.

A unit has one record of its first run and one of each retry of its rejects. Records are written in ``store``.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from workflows.embed.store import UnitStore
from workflows.embed.units import Unit, UnitRecord

READERS = 16
"""Number of records that are read at the same time: on an object store each takes a round trip."""


def remove_damaged(store: UnitStore, units: list[Unit]) -> list[str]:
    """Remove the units of an unfinished artefact whose files are not what was written, so that they are done again;
    returns what was wrong with each. All files that were written so far are read once."""
    recorded = store.recorded_runs()
    done = [unit for unit in units if recorded[unit.number]]
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda unit: store.unsound(unit, recorded[unit.number]), done))
    for unit, problem in zip(done, found):
        if problem:
            store.remove(unit)
    return [problem for problem in found if problem]


class DoneUnits:
    """The history of every unit: its records so far, in order."""

    def __init__(self, store: UnitStore, units: list[Unit]) -> None:
        """Read the records of ``units`` that are in the folder."""
        recorded = store.recorded_runs()
        runs = [replace(unit, retry=n) for unit in units for n in range(recorded[unit.number])]
        self._history: dict[Unit, list[UnitRecord]] = {unit: [] for unit in units}
        with ThreadPoolExecutor(READERS) as pool:
            for unit, record in zip(runs, pool.map(store.record, runs)):
                self.add(unit, record)

    def add(self, unit: Unit, record: UnitRecord) -> None:
        """Add the record of a unit's run, the first one or a retry."""
        self._history[replace(unit, retry=0)].append(record)

    def todo(self, retry: bool) -> list[Unit]:
        """Units that are still to run; with ``retry`` also a retry of every finished unit with rejects."""
        return [
            replace(unit, retry=len(records))
            for unit, records in self._history.items()
            if not records or (retry and records[-1].rejected)
        ]

    def runs(self) -> Iterator[tuple[Unit, UnitRecord, bool]]:
        """Every run, in order, with its record and whether it is the last of its unit."""
        for unit, records in self._history.items():
            for n, record in enumerate(records):
                yield replace(unit, retry=n), record, n == len(records) - 1

    def content(self) -> dict[str, Any]:
        """{parts, tags, quarantine}: the files that make up the artefact, each {name, rows, sha256}."""
        runs = list(self.runs())
        return {
            "parts": [_file(u.name, r.rows, r.sha256) for u, r, _ in runs if r.sha256],
            "tags": [_file(u.name, r.rows + r.rejected, r.tags_sha256) for u, r, _ in runs if r.tags_sha256],
            "quarantine": [
                _file(u.name, r.rejected, r.quarantine_sha256) for u, r, last in runs if last and r.rejected
            ],
        }

    def superseded(self) -> list[Unit]:
        """Runs whose quarantine file is not part of the artefact, because a retry followed them."""
        return [unit for unit, record, last in self.runs() if record.rejected and not last]


def _file(name: str, rows: int, sha256: str | None) -> dict[str, Any]:
    return {"name": name, "rows": rows, "sha256": sha256}
