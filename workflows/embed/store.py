"""The output folder of an embed job, in which every unit is committed exactly once.

    tags/part-NNNNNN.parquet        what went into the unit
    part-NNNNNN.parquet             its vectors, with its rejects in the file's metadata
    quarantine/part-NNNNNN.parquet  its rejects
    done/NNNNNN.json                its record

They are written in this order. The part of the first writer counts; quarantine file and record are functions of that
part, so that later writers, even one that was taken for dead, can only repeat them. A retry of a unit's rejects adds
files of the same kinds except tags, with the retry's number in the name.
"""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count, takewhile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import embeddings, ids, partial, schema
from metric_core.artefacts.embeddings import GONE, REJECTS, REMEDY
from metric_core.artefacts.layout import to_parquet
from metric_core.artefacts.rows import Part
from metric_core.errors import ArtefactError, Corrupt
from workflows.embed.units import Reject, Unit, UnitRecord, UnitResult


@dataclass(frozen=True)
class UnitStore:
    """The files of all units. Its methods can be called from any process and node."""

    out: str
    """Absolute path or object-store address of the folder."""

    @property
    def quarantine(self) -> str:
        """The folder that lists the faces that could not be embedded, for messages."""
        return storage.join(self.out, "quarantine")

    def unsound(self, unit: Unit, runs: int) -> str | None:
        """What is wrong with a unit of which ``runs`` runs have a record: a record is lost, damaged or another unit's,
        or a file is not what was written. None if nothing is."""
        for one in (replace(unit, retry=n) for n in range(runs)):
            try:
                record = self.record(one)
                if record.sha256 is None and storage.exists(self._part(one)):
                    return f"{self._record(one)} is not the record of {self._part(one)}"
                if record.sha256 is not None and (problem := self._differs(one, record)):
                    return problem
                # The quarantine files of earlier runs are superseded, and may be removed already.
                if one.retry == runs - 1 and record.quarantine_sha256 is not None:
                    address = self._quarantine_file(one)
                    if storage.sha256(address) != record.quarantine_sha256:
                        return f"{address} is not what its record describes"
            except ArtefactError as error:
                return str(error)
        return None

    def _differs(self, unit: Unit, record: UnitRecord) -> str | None:
        """What is not as it follows from the part that is there. Raises Missing."""
        part = storage.read_bytes(self._part(unit))
        if hashlib.sha256(part).hexdigest() != record.sha256:
            return f"{self._part(unit)} is not what its record describes"
        rows, rejects = _counted(part, self._part(unit))
        if (rows, _reasons(rejects)) != (record.rows, record.reasons):
            return f"{self._record(unit)} does not describe {self._part(unit)}"
        if not unit.retry and storage.sha256(self._tags(unit)) != record.tags_sha256:
            return f"{self._tags(unit)} is not what its record describes"
        return None

    def finished(self, unit: Unit) -> UnitRecord | None:
        """The record of a unit that is done, else None. It is written now if the part's writer died before that."""
        if storage.exists(self._record(unit)):
            return self.record(unit)
        if not storage.exists(self._part(unit)):
            return None
        return self._put_record(unit, self._complete(unit, storage.read_bytes(self._part(unit))))

    def commit(self, unit: Unit, result: UnitResult) -> UnitRecord:
        """Write the files of a unit. The returned record describes the files that are there, whoever wrote them.

        Raises:
            StorageFull: the disk or a quota is full; no partial file is left.
        """
        start = time.monotonic()
        if result.vectors.num_rows or result.rejects:
            if not unit.retry:
                storage.create_if_absent(self._tags(unit), to_parquet(result.tags))
            data = to_parquet(result.vectors.replace_schema_metadata({REJECTS: json.dumps(sorted(result.rejects))}))
            if not storage.create_if_absent(self._part(unit), data):
                data = storage.read_bytes(self._part(unit))  # another writer was first, and its part counts
            record = self._complete(unit, data)
        else:
            record = UnitRecord(0, None, {}, None, None, {})
        return self._put_record(unit, replace(record, seconds={**result.seconds, "write": time.monotonic() - start}))

    def discard(self, unit: Unit, erased_M: np.ndarray) -> bool:
        """Remove all files of a unit if any of these faces went into it, so that it is done again.

        Tags and parts may be of two writers, so all of them are checked, and a part without tags is removed in any
        case. The tags are removed last: after a kill, the next call completes the removal.

        Returns:
            Whether anything was removed.
        """
        parts = self._parts(unit)
        if storage.exists(self._tags(unit)):
            went_in = (_face_ids(self._tags(unit)), *map(_faces_of, parts))
            if not any(ids.within(id_N, erased_M).any() for id_N in went_in):
                return False
        elif not parts:
            return False
        self.remove(unit)
        return True

    def discard_others(self, expected: Mapping[Unit, np.ndarray]) -> int:
        """Remove all files of every unit that has other faces than expected: the catalogue was rewritten since it was
        done, or while it was. Returns their number.

        ``expected``: int64 (N,) for each unit, the faces that are to go into it.
        """
        by_number = {unit.number: (unit, id_N) for unit, id_N in expected.items()}
        undone = 0
        for name in storage.names(storage.join(self.out, "tags")):
            found = re.fullmatch(r"part-(\d{6,})\.parquet", name)
            if not found:
                continue
            number = int(found[1])
            unit, id_N = by_number.get(number, (_stray(number), ids.NONE))
            if not np.array_equal(_face_ids(self._tags(unit)), np.sort(id_N)):
                self.remove(unit)
                undone += 1
        return undone

    def remove(self, unit: Unit) -> None:
        """Remove all files of a unit, so that it is done again; its tags last."""
        for folder in ("", "done/", "quarantine/"):
            for name in storage.names(storage.join(self.out, folder)):
                if re.fullmatch(rf"(part-)?{_stem(unit)}(-\d+)?\.(parquet|json)", name):
                    storage.remove(storage.join(self.out, folder + name))
        storage.remove(self._tags(unit))

    def record(self, unit: Unit) -> UnitRecord:
        """The record of a unit that is done. Raises Missing, or Corrupt if it is damaged."""
        address = self._record(unit)
        try:
            return UnitRecord.parse(json.loads(storage.read_bytes(address)))
        except (ValueError, TypeError) as error:
            raise Corrupt(f"{address} is no record of a unit ({error}); {REMEDY}") from error

    def rejects(self, unit: Unit) -> np.ndarray:
        """int64 (N,): the face_ids in a unit's quarantine file. Raises Missing, Corrupt or SchemaMismatch."""
        return _face_ids(self._quarantine_file(unit))

    def recorded_runs(self) -> Counter[int]:
        """Number of runs with a record, first runs and retries, by the unit's number."""
        names = storage.names(storage.join(self.out, "done"))
        found = (re.fullmatch(r"(\d{6,})(-\d+)?\.json", name) for name in names)
        return Counter(int(name[1]) for name in found if name)

    def put_gone(self, gone_M: np.ndarray) -> dict[str, Any] | None:
        """Write the file that lists the faces that are gone. ``gone_M``: int64 (M,), sorted.

        Returns:
            {name, rows, sha256} of the file; None if there are no such faces, and no file.
        """
        if not len(gone_M):
            return None
        data = to_parquet(pa.Table.from_arrays([pa.array(gone_M)], schema=schema.GONE))
        storage.write_bytes(storage.join(self.out, GONE), data)
        return {"name": GONE, "rows": len(gone_M), "sha256": hashlib.sha256(data).hexdigest()}

    def sweep(self, superseded: Iterable[Unit]) -> None:
        """Remove the quarantine files of runs that a retry superseded, and unfinished files."""
        for unit in superseded:
            storage.remove(self._quarantine_file(unit))
        for folder in ("done", "tags", "quarantine"):
            storage.remove_unfinished(storage.join(self.out, folder))
        storage.remove_unfinished(self.out)

    def _complete(self, unit: Unit, part: bytes) -> UnitRecord:
        """Write the quarantine file that follows from a part's bytes; returns the record that follows from them."""
        rows, rejects = _counted(part, self._part(unit))
        quarantine = None
        if rejects:
            columns = [pa.array(column, f.type) for column, f in zip(zip(*rejects), schema.QUARANTINE)]
            quarantine = to_parquet(pa.Table.from_arrays(columns, schema=schema.QUARANTINE))
            address = self._quarantine_file(unit)
            if not storage.create_if_absent(address, quarantine) and storage.read_bytes(address) != quarantine:
                storage.write_bytes(address, quarantine)
        return UnitRecord(
            rows=rows,
            sha256=hashlib.sha256(part).hexdigest(),
            reasons=_reasons(rejects),
            quarantine_sha256=hashlib.sha256(quarantine).hexdigest() if quarantine else None,
            tags_sha256=None if unit.retry else storage.sha256(self._tags(unit)),
            seconds={},
        )

    def _put_record(self, unit: Unit, record: UnitRecord) -> UnitRecord:
        storage.create_if_absent(self._record(unit), json.dumps(asdict(record)).encode())
        return record

    def _record(self, unit: Unit) -> str:
        return storage.join(self.out, "done", f"{_stem(unit)}.json")

    def _part(self, unit: Unit) -> str:
        return storage.join(self.out, unit.name)

    def _parts(self, unit: Unit) -> list[str]:
        """The parts of all runs of a unit."""
        runs = (self._part(replace(unit, retry=n)) for n in count())
        return list(takewhile(storage.exists, runs))

    def _tags(self, unit: Unit) -> str:
        return storage.join(self.out, "tags", embeddings.part_name(unit.number))

    def _quarantine_file(self, unit: Unit) -> str:
        return storage.join(self.out, "quarantine", unit.name)


def _stray(number: int) -> Unit:
    """A unit that is not in the plan any more, as a handle of its files."""
    return Unit(number, Part("", 0, ""), 0, 0)


def _counted(part: bytes, address: str) -> tuple[int, list[Reject]]:
    """The number of vectors in a part, and the rejects in its metadata. Raises Corrupt."""
    with partial.parsed(address, REMEDY):
        footer = pq.read_metadata(pa.BufferReader(part))
    return footer.num_rows, _rejects(footer, address)


def _rejects(footer: pq.FileMetaData, address: str) -> list[Reject]:
    """The rejects in a part's metadata. Raises Corrupt."""
    try:
        rejects = [Reject(*row) for row in json.loads(footer.metadata[REJECTS])]
        if not all(list(map(type, reject)) == [int, str, str, str] for reject in rejects):
            raise ValueError("a face's number and three texts were expected")
        return rejects
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt(f"{address} does not list the faces that were rejected ({error}); {REMEDY}") from error


def _face_ids(address: str) -> np.ndarray:
    """int64 (N,): the face_ids in a file. Raises Missing, Corrupt or SchemaMismatch."""
    data = storage.read_bytes(address)
    with partial.parsed(address, REMEDY):
        table = schema.check(pq.read_table(pa.BufferReader(data), columns=["face_id"]), schema.GONE, address)
    id_N: np.ndarray = table["face_id"].to_numpy()
    return id_N


def _reasons(rejects: list[Reject]) -> dict[str, int]:
    return dict(Counter(reject.reason for reject in rejects))


def _stem(unit: Unit) -> str:
    return unit.name.removeprefix("part-").removesuffix(".parquet")


def _faces_of(part: str) -> np.ndarray:
    """int64 (N,): face_ids in a part, embedded or rejected. Raises Missing or Corrupt."""
    with partial.opened(part, REMEDY) as file:
        rejected = [reject.face_id for reject in _rejects(file.metadata, part)]
        table = schema.check(file.read(["face_id"]), schema.GONE, part)
        return np.concatenate([table["face_id"].to_numpy(), np.array(rejected, np.int64)])
