"""Units of embedding work: which rows each holds, and how one is committed exactly once.

A unit is a pure function of the catalogue's manifest and, of a delta, of the earlier embeddings'. What goes into it,
its tags, is put in place first. Its part, vectors and rejects in one file, is put in place by the first writer to get
there; its quarantine file and its record are functions of that part, so that writers who come later, or back from the
dead, can only repeat them. How vectors are made is in ``embedding``.
"""

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count, takewhile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import embeddings, ids, schema
from metric_core.artefacts.rows import Part

LAYOUT: dict[str, Any] = {
    # A unit of the usual size is one group: a reader of a few columns makes a request for each column and group.
    "row_group_size": 8192,
    # Chosen on 2,048 vectors of 512 components of LFW faces. The file's bytes for each of the plain numbers', and the
    # CPU time to write and to read it:
    #                                  float32                      float16
    #   none, as pyarrow does it       1.16   38 ms    8 ms         0.98   43 ms   24 ms
    #   snappy                         1.16   36 ms    9 ms         0.98   45 ms   24 ms
    #   zstd                           1.08   48 ms   14 ms         0.97   45 ms   24 ms
    #   none, no dictionary            1.01    9 ms    6 ms         1.02   17 ms    5 ms
    #   zstd, no dictionary            0.93   14 ms   13 ms         0.93   18 ms    7 ms
    #   zstd, byte stream split        0.85   15 ms    8 ms         0.86   19 ms    6 ms
    # Components are all different, so that a dictionary of them only costs; their signs and exponents are alike.
    "compression": "zstd",
    "use_dictionary": ["identity", "view", "reason"],
}
SPLIT = ["embedding.list.element", "norm"]
"""Columns whose bytes are split by place when they are float32; of float16, DuckDB 2.0 cannot read that."""
REJECTS = b"likeness.rejects"
"""Key in a part's metadata of the faces of the unit that could not be embedded."""


@dataclass(frozen=True)
class Unit:
    """Rows ``first`` to ``last`` (exclusive) of one part of the catalogue, or those of them that a delta wants."""

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
    tags_sha256: str | None
    """None, too, for a retry: what goes in then has its tags already."""
    seconds: dict[str, float]
    """Spent on read, decode, forward and write."""

    @property
    def rejected(self) -> int:
        """Faces that went into the quarantine."""
        return sum(self.reasons.values())


def units(parts: Iterable[Part], size: int, wanted: Mapping[str, np.ndarray] | None = None) -> list[Unit]:
    """The units of a catalogue, in order, of ``size`` rows; every row is in exactly one, and no unit crosses a part.

    ``wanted``, as in ``Selection``: units then hold ``size`` rows that are wanted and span whatever lies between.
    """
    spans = []
    for part in parts:
        at_M = np.arange(part.rows) if wanted is None else np.flatnonzero(wanted[part.name])
        spans += [(part, int(at_M[n]), int(at_M[n : n + size][-1]) + 1) for n in range(0, len(at_M), size)]
    return [Unit(n, part, first, last) for n, (part, first, last) in enumerate(spans)]


def settled(out: str, unit: Unit) -> Record | None:
    """The record of a unit that is done. A part whose writer died before the record gets its record now."""
    if storage.exists(_record(out, unit)):
        return read_record(out, unit)
    address = storage.join(out, unit.name)
    return _put_record(out, unit, _settle(out, unit, storage.read_bytes(address))) if storage.exists(address) else None


def commit(
    out: str, unit: Unit, tags: pa.Table, table: pa.Table, rejects: list[Reject], seconds: Mapping[str, float]
) -> Record:
    """Put what went into a unit, its vectors and its rejects in place. The record that comes back is of the files that
    are there, whoever wrote them.

    Raises:
        StorageFull: nothing half-written is left.
    """
    start = time.monotonic()
    if table.num_rows or rejects:
        if not unit.retry:
            _put_once(_tags(out, unit), to_parquet(tags))
        marked = table.replace_schema_metadata({REJECTS: json.dumps(sorted(rejects))})
        record = _settle(out, unit, _put_once(storage.join(out, unit.name), to_parquet(marked)))
    else:
        record = Record(0, None, {}, None, None, {})
    return _put_record(out, unit, replace(record, seconds={**seconds, "write": time.monotonic() - start}))


def discard(out: str, unit: Unit, erased_M: np.ndarray) -> bool:
    """Take a unit that took in any of these faces back, all its runs, so that it is done again; whether it did.

    Tags and parts may be of two writers, one of them back from the dead: all of them are looked at, and a part that
    has no tags is taken back anyway. The tags go last: killed in the middle, the next call ends what this one began.
    """
    parts = _parts(out, unit)
    if storage.exists(_tags(out, unit)):
        tags = pq.read_table(pa.BufferReader(storage.read_bytes(_tags(out, unit))), columns=["face_id"])
        if not any(ids.within(id_N, erased_M).any() for id_N in (tags["face_id"].to_numpy(), *map(_took_in, parts))):
            return False
    elif not parts:
        return False
    number = _stem(unit)
    for folder in ("", "done/", "quarantine/"):
        for name in storage.names(storage.join(out, folder)):
            if re.fullmatch(rf"(part-)?{number}(-\d+)?\.(parquet|json)", name):
                storage.remove(storage.join(out, folder + name))
    storage.remove(_tags(out, unit))
    return True


def to_parquet(table: pa.Table) -> bytes:
    """A part's bytes, or those of what lies beside it."""
    half = any(f.name == "embedding" and f.type.value_type == pa.float16() for f in table.schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, use_byte_stream_split=SPLIT[1:] if half else SPLIT, **LAYOUT)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_record(out: str, unit: Unit) -> Record:
    """The record of a unit that is done. Raises Missing."""
    return Record(**json.loads(storage.read_bytes(_record(out, unit))))


def rejects_of(out: str, unit: Unit) -> np.ndarray:
    """int64 (N,): the face_ids in a unit's quarantine file."""
    address = storage.join(out, "quarantine", unit.name)
    table = pq.read_table(pa.BufferReader(storage.read_bytes(address)), columns=["face_id"])
    id_N: np.ndarray = table["face_id"].to_numpy()
    return id_N


def _settle(out: str, unit: Unit, data: bytes) -> Record:
    """The record that a part's bytes ask for, after the quarantine file that they ask for was put in place."""
    footer = pq.read_metadata(pa.BufferReader(data))
    rejects = [Reject(*row) for row in json.loads(footer.metadata[REJECTS])]
    quarantine = None
    if rejects:
        columns = [pa.array(column, f.type) for column, f in zip(zip(*rejects), schema.QUARANTINE)]
        quarantine = to_parquet(pa.Table.from_arrays(columns, schema=schema.QUARANTINE))
        storage.create_if_absent(storage.join(out, "quarantine", unit.name), quarantine)
    tags = None if unit.retry else storage.sha256(_tags(out, unit))
    return Record(
        rows=footer.num_rows,
        sha256=hashlib.sha256(data).hexdigest(),
        reasons=dict(Counter(reject.reason for reject in rejects)),
        quarantine_sha256=hashlib.sha256(quarantine).hexdigest() if quarantine else None,
        tags_sha256=tags,
        seconds={},
    )


def _put_record(out: str, unit: Unit, record: Record) -> Record:
    storage.create_if_absent(_record(out, unit), json.dumps(asdict(record)).encode())
    return record


def _put_once(address: str, data: bytes) -> bytes:
    """What is in place afterwards: these bytes, or those of a writer who was first."""
    return data if storage.create_if_absent(address, data) else storage.read_bytes(address)


def _record(out: str, unit: Unit) -> str:
    return storage.join(out, "done", f"{_stem(unit)}.json")


def _tags(out: str, unit: Unit) -> str:
    return storage.join(out, "tags", embeddings.part_name(unit.number))


def _parts(out: str, unit: Unit) -> list[str]:
    """The addresses of its parts, one a run."""
    runs = (storage.join(out, replace(unit, retry=n).name) for n in count())
    return list(takewhile(storage.exists, runs))


def _took_in(part: str) -> np.ndarray:
    """int64 (N,): the faces of a part, embedded or rejected."""
    with storage.open_read(part, ahead=False) as f:
        file = pq.ParquetFile(f, pre_buffer=True)
        rejected = [reject[0] for reject in json.loads(file.metadata.metadata[REJECTS])]
        return np.concatenate([file.read(["face_id"])["face_id"].to_numpy(), np.array(rejected, np.int64)])


def _stem(unit: Unit) -> str:
    return unit.name.removeprefix("part-").removesuffix(".parquet")
