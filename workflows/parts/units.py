"""Units of embedding work: which rows each holds, and how one is committed exactly once.

A unit is a pure function of the catalogue's manifest. Its part, vectors and rejects in one file, is put in place by
the first writer to get there; its quarantine file and its record are functions of that part, so that writers who come
later, or back from the dead, can only repeat them. How vectors are made is in ``embedding``.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import embeddings, schema, storage
from metric_core.data.rows import Part

ROW_GROUP = 8192
REJECTS = b"likeness.rejects"
"""Key in a part's metadata of the faces of the unit that could not be embedded."""


@dataclass(frozen=True)
class Unit:
    """Rows ``first`` to ``last`` (exclusive) of one part of the catalogue."""

    number: int
    part: Part
    first: int
    last: int
    retry: int = 0
    """0: all its rows; n: those that were rejected by retry n - 1."""

    @property
    def name(self) -> str:
        """Of its part, and of its file in the quarantine."""
        return embeddings.part_name(self.number, self.retry)

    def __str__(self) -> str:
        return f"rows {self.first} to {self.last} of {self.part.name}"


class Reject(NamedTuple):
    """A face that could not be embedded."""

    face_id: int
    uri: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Record:
    """What is written when a unit is done."""

    rows: int
    """Embedded."""
    sha256: str | None
    """Of the part; None when the unit has neither vectors nor rejects, and hence no part."""
    reasons: dict[str, int]
    """Rejects by reason."""
    quarantine_sha256: str | None
    seconds: dict[str, float]
    """Spent on read, decode, forward and write."""

    @property
    def rejected(self) -> int:
        """Faces that went into the quarantine."""
        return sum(self.reasons.values())


def units(parts: Iterable[Part], size: int) -> list[Unit]:
    """The units of a catalogue, in order; every row is in exactly one, and no unit crosses a part."""
    spans = ((part, first) for part in parts for first in range(0, part.rows, size))
    return [Unit(n, part, first, min(first + size, part.rows)) for n, (part, first) in enumerate(spans)]


def settled(out: str, unit: Unit) -> Record | None:
    """The record of a unit that is done. A part whose writer died before the record gets its record now."""
    if storage.exists(_record(out, unit)):
        return read_record(out, unit)
    address = storage.join(out, unit.name)
    return _put_record(out, unit, _settle(out, unit, storage.read_bytes(address))) if storage.exists(address) else None


def commit(out: str, unit: Unit, table: pa.Table, rejects: list[Reject], seconds: Mapping[str, float]) -> Record:
    """Put a unit's vectors and rejects in place. The record that comes back is of the part that is there, whoever
    wrote it.

    Raises:
        StorageFull: nothing half-written is left.
    """
    start = time.monotonic()
    if table.num_rows or rejects:
        marked = table.replace_schema_metadata({REJECTS: json.dumps(sorted(rejects))})
        data, address = to_parquet(marked), storage.join(out, unit.name)
        if not storage.create_if_absent(address, data):
            data = storage.read_bytes(address)
        record = _settle(out, unit, data)
    else:
        record = Record(0, None, {}, None, {})
    return _put_record(out, unit, replace(record, seconds={**seconds, "write": time.monotonic() - start}))


def to_parquet(table: pa.Table) -> bytes:
    """A part's bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=ROW_GROUP, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_record(out: str, unit: Unit) -> Record:
    """The record of a unit that is done. Raises Missing."""
    return Record(**json.loads(storage.read_bytes(_record(out, unit))))


def rejects_of(out: str, unit: Unit) -> np.ndarray:
    """int64 (N,): the face_ids in a unit's quarantine file."""
    address = storage.join(out, "quarantine", unit.name)
    return pq.read_table(pa.BufferReader(storage.read_bytes(address)), columns=["face_id"])["face_id"].to_numpy()


def _settle(out: str, unit: Unit, data: bytes) -> Record:
    """The record that a part's bytes ask for, after the quarantine file that they ask for was put in place."""
    footer = pq.read_metadata(pa.BufferReader(data))
    rejects = [Reject(*row) for row in json.loads(footer.metadata[REJECTS])]
    quarantine = None
    if rejects:
        columns = [pa.array(column, f.type) for column, f in zip(zip(*rejects), schema.QUARANTINE)]
        quarantine = to_parquet(pa.Table.from_arrays(columns, schema=schema.QUARANTINE))
        storage.create_if_absent(storage.join(out, "quarantine", unit.name), quarantine)
    return Record(
        rows=footer.num_rows,
        sha256=hashlib.sha256(data).hexdigest(),
        reasons=dict(Counter(reject.reason for reject in rejects)),
        quarantine_sha256=hashlib.sha256(quarantine).hexdigest() if quarantine else None,
        seconds={},
    )


def _put_record(out: str, unit: Unit, record: Record) -> Record:
    storage.create_if_absent(_record(out, unit), json.dumps(asdict(record)).encode())
    return record


def _record(out: str, unit: Unit) -> str:
    return storage.join(out, "done", unit.name.removeprefix("part-").replace(".parquet", ".json"))
