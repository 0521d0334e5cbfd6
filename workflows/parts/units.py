"""Units of embedding work: which rows each holds, how one is embedded, and how it is committed exactly once.

A unit is a pure function of the catalogue. It counts as done when its record exists, and the record is written last
and by exactly one writer. Spreading units over a cluster is left to the embed job.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from metric_core import embeddings, schema, storage
from metric_core.data import loader
from metric_core.data.loader import Bad
from metric_core.model.embedder import Embedder

ROW_GROUP = 8192


@dataclass(frozen=True)
class Unit:
    """Rows ``first`` to ``last`` (exclusive) of the catalogue."""

    number: int
    first: int
    last: int


@dataclass(frozen=True)
class Record:
    """What is written when a unit is done."""

    name: str
    """Of its part."""
    rows: int
    """Embedded; the unit's other rows are in the quarantine."""
    sha256: str
    quarantined: int
    reasons: dict[str, int]
    seconds: dict[str, float]
    """Spent on decode (reading included), forward and write."""


def units(rows: int, size: int) -> list[Unit]:
    """The units of a catalogue, in order; every row is in exactly one."""
    return [Unit(n, first, min(first + size, rows)) for n, first in enumerate(range(0, rows, size))]


def record_of(out: str, unit: Unit) -> Record | None:
    """The record of a finished unit, else None."""
    address = _record(out, unit)
    return Record(**json.loads(storage.read_bytes(address))) if storage.exists(address) else None


def embed_unit(
    unit: Unit, table: pa.Table, root: str, embedder: Embedder, out: str, *, dtype: str, batch: int, threads: int
) -> Record:
    """Embed a unit's faces and commit them.

    Quarantine and part are put in place first, the record last. A part that is there already without a record, from
    a writer that died in between, stands: parts are never replaced.
    """
    table = table.slice(unit.first, unit.last - unit.first).combine_chunks()
    good_rows = np.zeros(table.num_rows, bool)
    seconds = {"decode": 0.0, "forward": 0.0, "write": 0.0}
    bad: list[Bad] = []
    vectors: list[np.ndarray] = []
    norms: list[np.ndarray] = []
    with ThreadPoolExecutor(threads) as pool:
        for rows, pixels in _decoded(table, root, embedder, batch, pool, bad, seconds):
            start = time.monotonic()
            device = next(embedder.parameters()).device
            vector, norm = embedder.embed(torch.from_numpy(pixels).to(device))
            # A network can answer NaN, and NaN never enters an artefact.
            finite = np.isfinite(vector).all(axis=1) & (norm > 0)
            bad += [
                Bad(row, "no-vector", "the model's answer is not finite") for row in np.array(rows)[~finite].tolist()
            ]
            good_rows[np.array(rows)[finite]] = True
            vectors.append(vector[finite])
            norms.append(norm[finite])
            seconds["forward"] += time.monotonic() - start
    start = time.monotonic()
    dim = embedder.spec.backbone.dim
    kept = table.filter(good_rows)
    part = embeddings.to_table(
        kept["face_id"].to_numpy(),
        kept["identity"].to_pylist(),
        kept["view"].to_pylist(),
        np.concatenate([np.empty((0, dim), np.float32), *vectors]).astype(dtype),
        np.concatenate([np.empty(0, np.float32), *norms]),
    )
    _commit_quarantine(out, unit, table, bad)
    name = embeddings.part_name(unit.number)
    address = storage.join(out, name)
    storage.create_if_absent(address, _parquet(part))
    seconds["write"] = time.monotonic() - start
    record = Record(
        name=name,
        rows=part.num_rows,
        sha256=storage.sha256(address),
        quarantined=len(bad),
        reasons=dict(Counter(b.reason for b in bad)),
        seconds=seconds,
    )
    storage.create_if_absent(_record(out, unit), json.dumps(asdict(record)).encode())
    return record


def _decoded(
    table: pa.Table,
    root: str,
    embedder: Embedder,
    batch: int,
    pool: ThreadPoolExecutor,
    bad: list[Bad],
    seconds: dict[str, float],
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Batches of readable rows, the next one decoding while the caller computes; unreadable ones go to ``bad``."""
    how = embedder.spec.preprocessing
    chunks = [range(i, min(i + batch, table.num_rows)) for i in range(0, table.num_rows, batch)]

    def submit(rows: range) -> list:
        return [pool.submit(loader.load, table, root, row, how) for row in rows]

    ahead = submit(chunks[0]) if chunks else []
    for number in range(len(chunks)):
        start = time.monotonic()
        loaded = [future.result() for future in ahead]
        ahead = submit(chunks[number + 1]) if number + 1 < len(chunks) else []
        seconds["decode"] += time.monotonic() - start
        bad += [item for item in loaded if isinstance(item, Bad)]
        good = [(row, item) for row, item in zip(chunks[number], loaded) if not isinstance(item, Bad)]
        if good:
            yield [row for row, _ in good], np.stack([pixels for _, pixels in good])


def _commit_quarantine(out: str, unit: Unit, table: pa.Table, bad: list[Bad]) -> None:
    if not bad:
        return
    rows = [b.row for b in sorted(bad, key=lambda b: b.row)]
    by_row = {b.row: b for b in bad}
    columns = [
        table["face_id"].take(rows).combine_chunks(),
        table["uri"].take(rows).combine_chunks(),
        pa.array([by_row[row].reason for row in rows], pa.string()),
        pa.array([by_row[row].detail for row in rows], pa.string()),
    ]
    data = _parquet(pa.Table.from_arrays(columns, schema=schema.QUARANTINE))
    storage.write_bytes(storage.join(out, "quarantine", embeddings.part_name(unit.number)), data)


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=ROW_GROUP, compression="zstd")
    return sink.getvalue().to_pybytes()


def _record(out: str, unit: Unit) -> str:
    return storage.join(out, "done", f"{unit.number:06d}.json")
