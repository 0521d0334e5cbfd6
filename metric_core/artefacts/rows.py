"""A catalogue's rows in storage: written as a stream of Parquet parts, read as whole parts or as ranges of rows.

A part holds at most ``ROWS_PER_PART`` rows, and the manifest has its rows and sha256. The columns are described in
``schema``; ``sources.catalogue`` turns a source into rows.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import schema
from metric_core.errors import Corrupt

ROW_GROUP = 8192
"""Rows per row group, the smallest range that a reader fetches. A multiple of the default embedding unit size."""
ROWS_PER_PART = 128 * ROW_GROUP

LAYOUT: dict[str, Any] = {
    "compression": "zstd",
    # Keys and addresses are all different, but many have common prefixes, which delta encoding saves.
    "use_dictionary": ["identity", "kind", "column", "view", "split"],
    "column_encoding": {"key": "DELTA_BYTE_ARRAY", "uri": "DELTA_BYTE_ARRAY", "content_tag": "DELTA_BYTE_ARRAY"},
    "write_page_checksum": True,  # the sha256 of a whole part cannot check a range of it
}


@dataclass(frozen=True)
class Part:
    """One file of rows."""

    name: str
    rows: int
    sha256: str


def write(uri: str, tables: Iterable[pa.Table]) -> Iterator[Part]:
    """Write tables of Faces rows, of any length, as parts; each part is yielded when it is in place."""
    groups = _groups(tables)
    group = next(groups, None)
    number = 0
    while group is not None:
        sink, rows = pa.BufferOutputStream(), 0
        with pq.ParquetWriter(sink, schema.FACES, **LAYOUT) as writer:
            while group is not None and rows < ROWS_PER_PART:
                writer.write_table(schema.check(group, schema.FACES, uri), row_group_size=ROW_GROUP)
                rows += group.num_rows
                group = next(groups, None)
        yield _put(uri, name(number), sink.getvalue(), rows)
        number += 1


def rewrite(uri: str, part: Part, table: pa.Table) -> Part:
    """Replace a part of an unfinished artefact with other values of the same rows."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.check(table, schema.FACES, part.name), sink, row_group_size=ROW_GROUP, **LAYOUT)
    return _put(uri, part.name, sink.getvalue(), table.num_rows)


def name(number: int) -> str:
    """``faces-000042.parquet``"""
    return f"faces-{number:06d}.parquet"


def is_name(text: str) -> bool:
    """Whether a file name is that of a part."""
    return text.startswith("faces-") and text.endswith(".parquet")


def read(uri: str, part: Part) -> pa.Table:
    """All rows of a part.

    Raises:
        Corrupt: its sha256 differs from the manifest's.
    """
    address = storage.join(uri, part.name)
    data = storage.read_bytes(address)
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise Corrupt(f"{address}: its sha256 is not the manifest's; catalogue again to another --out")
    return schema.check(pq.read_table(pa.BufferReader(data)), schema.FACES, address)


def read_range(uri: str, part: Part, first: int, last: int, columns: list[str]) -> pa.Table:
    """Some columns of a part's rows ``first`` to ``last`` (exclusive); only the row groups that hold them are fetched.

    Raises:
        Corrupt: a page's checksum does not match, or the part's number of rows differs from the manifest's.
    """
    address = storage.join(uri, part.name)
    with storage.open_read(address, ahead=False) as f:
        try:
            file = pq.ParquetFile(f, page_checksum_verification=True, pre_buffer=True)
            sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            edges = np.cumsum([0, *sizes])
            if edges[-1] != part.rows:
                raise Corrupt(
                    f"{address}: {edges[-1]} rows, the manifest says {part.rows}; catalogue again to another --out"
                )
            start, stop = np.searchsorted(edges, first, side="right") - 1, np.searchsorted(edges, last)
            table = file.read_row_groups(list(range(start, stop)), columns=columns)
        except (OSError, pa.ArrowInvalid) as error:
            if storage.is_storage_error(error):
                raise
            raise Corrupt(f"{address}: {error}; catalogue again to another --out") from error
    return table.slice(first - edges[start], last - first)


class Digest:
    """sha256 of the values of a stream of rows; it does not depend on how they are cut into tables or encoded.

    ``face_id`` is left out: it follows from the key, the namespace and the salts, which the manifest has.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def over(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same rows, cut differently; each is added to the digest as it passes."""
        for table in _groups(tables):
            for field in schema.FACES:
                if field.name != "face_id":
                    self._feed(table[field.name].combine_chunks())
            yield table

    def hexdigest(self) -> str:
        """The digest of all rows so far."""
        return self._sha256.hexdigest()

    def _feed(self, array: pa.Array) -> None:
        self._sha256.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
        if pa.types.is_list(array.type):
            self._feed(pc.list_value_length(array))
            self._feed(pc.list_flatten(array))
        elif pa.types.is_string(array.type):
            filled = array.fill_null("")
            edges = np.frombuffer(filled.buffers()[1], np.int32)[filled.offset : filled.offset + len(filled) + 1]
            self._sha256.update(np.diff(edges).tobytes())
            if edges[-1] > edges[0]:
                self._sha256.update(memoryview(filled.buffers()[2])[edges[0] : edges[-1]])
        else:
            self._sha256.update(array.fill_null(0).to_numpy(zero_copy_only=False).tobytes())


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of ``ROW_GROUP``; the last one may be shorter."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        if count >= ROW_GROUP:
            whole = pa.concat_tables(waiting)
            for start in range(0, count - count % ROW_GROUP, ROW_GROUP):
                yield whole.slice(start, ROW_GROUP)
            waiting, count = [whole.slice(count - count % ROW_GROUP)], count % ROW_GROUP
    if count:
        yield pa.concat_tables(waiting)


def _put(uri: str, name: str, data: pa.Buffer, rows: int) -> Part:
    storage.write_bytes(storage.join(uri, name), data.to_pybytes())
    return Part(name, rows, hashlib.sha256(data).hexdigest())
