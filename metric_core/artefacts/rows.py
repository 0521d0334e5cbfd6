"""A catalogue's rows in storage: written as a stream of Parquet parts, read as whole parts or as ranges of rows.

A part holds at most ``ROWS_PER_PART`` rows, and the manifest has its rows and sha256. Beside its content, it has the
sha256 of each row group and of the footer as well, so that a range can be checked without reading the whole part. The
columns are described in ``schema``; ``sources.catalogue`` turns a source into rows.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import partial, schema
from metric_core.errors import Corrupt

ROW_GROUP = 8192
"""Rows per row group, the smallest range that a reader fetches. A multiple of the default embedding unit size."""
ROWS_PER_PART = 128 * ROW_GROUP

LAYOUT: dict[str, Any] = {
    "compression": "zstd",
    # Keys and addresses are all different, but many have common prefixes, which delta encoding saves.
    "use_dictionary": ["identity", "kind", "column", "view", "split"],
    "column_encoding": {"key": "DELTA_BYTE_ARRAY", "uri": "DELTA_BYTE_ARRAY", "content_tag": "DELTA_BYTE_ARRAY"},
    "write_page_checksum": True,  # for other readers; this one compares sha256
}
REMEDY = "catalogue again to another --out"


@dataclass(frozen=True)
class Part:
    """One file of rows."""

    name: str
    rows: int
    sha256: str
    pieces: tuple[tuple[int, str], ...] = field(default=(), compare=False, repr=False)
    """Of each row group and of the footer, which follow one another: where it ends in the file, and its sha256. Empty
    in older Faces, whose parts are checked whole."""
    erased: tuple[int, ...] = field(default=(), compare=False, repr=False)
    """Sorted numbers, in the part as it was catalogued, of the rows that were erased from it: the others keep theirs,
    by which work on them is divided."""

    @property
    def numbers(self) -> np.ndarray:
        """int64 (rows,): the number that each row had when the part was catalogued."""
        return np.delete(np.arange(self.rows + len(self.erased)), np.array(self.erased, np.int64))

    @property
    def entry(self) -> dict[str, Any]:
        """The part as the manifest's content lists it."""
        return {"name": self.name, "rows": self.rows, "sha256": self.sha256}


def pieces(uri: str, parts: Iterable[Part]) -> dict[str, Any]:
    """What ``Manifest.files`` has of some parts, which are read back from storage: {name: {sha256, pieces}}.

    Raises:
        Corrupt: a part is not what was written.
    """
    found = {}
    for part in parts:
        data = memoryview(_checked(uri, part))
        footer = pq.read_metadata(pa.BufferReader(data))
        ends = [_end(footer.row_group(number)) for number in range(footer.num_row_groups)] + [len(data)]
        digests = [hashlib.sha256(data[first:last]).hexdigest() for first, last in pairwise([0, *ends])]
        found[part.name] = {"sha256": part.sha256, "pieces": list(zip(ends, digests))}
    return found


def with_pieces(part: Part, found: Any) -> Part:
    """The part with its pieces, as ``Manifest.files`` has them; without, if those are missing or of other bytes."""
    try:
        if found["sha256"] != part.sha256:
            return part
        listed = tuple((int(end), str(sha256)) for end, sha256 in found["pieces"])
        erased = tuple(map(int, found.get("erased", ())))
    except (TypeError, KeyError, ValueError, AttributeError):
        return part
    sound = len(listed) > 1 and all(one < other for one, other in pairwise([0, *(end for end, _ in listed)]))
    sound = sound and all(one < other < part.rows + len(erased) for one, other in pairwise([-1, *erased]))
    return replace(part, pieces=listed, erased=erased) if sound else part


def write(uri: str, tables: Iterable[pa.Table], columns: pa.Schema = schema.FACES) -> Iterator[Part]:
    """Write tables of Faces rows, of any length, as parts; each part is yielded when it is in place.

    ``columns``, here and below: ``schema.FACES``, or ``schema.UNLABELLED_FACES`` of an unlabelled corpus.
    """
    groups = _groups(tables)
    group = next(groups, None)
    number = 0
    while group is not None:
        sink, rows = pa.BufferOutputStream(), 0
        with pq.ParquetWriter(sink, columns, **LAYOUT) as writer:
            while group is not None and rows < ROWS_PER_PART:
                writer.write_table(schema.check(group, columns, uri), row_group_size=ROW_GROUP)
                rows += group.num_rows
                group = next(groups, None)
        yield _put(uri, name(number), sink.getvalue(), rows)
        number += 1


def rewrite(uri: str, part: Part, table: pa.Table, columns: pa.Schema = schema.FACES, name: str | None = None) -> Part:
    """Write a part with other values or fewer rows: under another name, or in an unfinished artefact in its place."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.check(table, columns, part.name), sink, row_group_size=ROW_GROUP, **LAYOUT)
    return _put(uri, name or part.name, sink.getvalue(), table.num_rows)


def name(number: int) -> str:
    """``faces-000042.parquet``"""
    return f"faces-{number:06d}.parquet"


def is_name(text: str) -> bool:
    """Whether a file name is that of a part."""
    return text.startswith("faces-") and text.endswith(".parquet")


def read(uri: str, part: Part, columns: pa.Schema = schema.FACES) -> pa.Table:
    """All rows of a part.

    Raises:
        Corrupt: its sha256 differs from the manifest's, or it is no Parquet file.
        SchemaMismatch: it has other columns.
    """
    address = storage.join(uri, part.name)
    data = _checked(uri, part)
    with partial.parsed(address, REMEDY):
        return schema.check(pq.read_table(pa.BufferReader(data)), columns, address)


def read_range(uri: str, part: Part, first: int, last: int, columns: pa.Schema) -> pa.Table:
    """Some columns of a part's rows ``first`` to ``last`` (exclusive); only the row groups that hold them are fetched,
    and used if their sha256 is the manifest's. A part without ``pieces`` is hashed whole, once per machine.

    Raises:
        Missing: there is no such file.
        Corrupt: the bytes, or the part's number of rows, differ from the manifest's.
        SchemaMismatch: these columns are not as in ``columns``.
    """
    return schema.check(_read_range(uri, part, first, last, columns.names), columns, storage.join(uri, part.name))


def _read_range(uri: str, part: Part, first: int, last: int, columns: list[str]) -> pa.Table:
    if not part.pieces:
        address = storage.join(uri, part.name)
        with storage.verified(address, part.sha256) as path, open(path, "rb") as f, partial.parsed(address, REMEDY):
            file = pq.ParquetFile(f, pre_buffer=True)
            groups, start = _groups_of(file.metadata, uri, part, first, last)
            return file.read_row_groups(groups, columns=columns).slice(first - start, last - first)
    number = len(part.pieces) - 1
    data = _read_pieces(uri, part, number, number)
    with partial.parsed(storage.join(uri, part.name), REMEDY):
        footer = pq.read_metadata(pa.BufferReader(data))
    groups, start = _groups_of(footer, uri, part, first, last)
    # The offsets in the footer are those of the file: what is not needed stays zero, in pages that take no memory.
    file_B = np.zeros(part.pieces[-1][0], np.uint8)
    data = _read_pieces(uri, part, groups[0], groups[-1])
    offset = _start(part, groups[0])
    file_B[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
    with partial.parsed(storage.join(uri, part.name), REMEDY):
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(file_B)), metadata=footer)
        return file.read_row_groups(groups, columns=columns).slice(first - start, last - first)


def _groups_of(footer: pq.FileMetaData, uri: str, part: Part, first: int, last: int) -> tuple[list[int], int]:
    """The row groups that hold the rows ``first`` to ``last``, and the number of the row that they start with."""
    edges = np.cumsum([0, *(footer.row_group(n).num_rows for n in range(footer.num_row_groups))])
    if edges[-1] != part.rows:
        raise Corrupt(f"{storage.join(uri, part.name)}: {edges[-1]} rows, the manifest says {part.rows}; {REMEDY}")
    start, stop = np.searchsorted(edges, first, side="right") - 1, np.searchsorted(edges, last)
    return list(range(start, stop)), int(edges[start])


def _read_pieces(uri: str, part: Part, first: int, last: int) -> bytes:
    """The bytes of the pieces ``first`` to ``last`` (inclusive). Raises Corrupt, or Missing."""
    address, start = storage.join(uri, part.name), _start(part, first)
    data = storage.read_bytes(address, start, part.pieces[last][0] - start)
    view, begin = memoryview(data), start
    for end, sha256 in part.pieces[first : last + 1]:
        if hashlib.sha256(view[begin - start : end - start]).hexdigest() != sha256:
            raise Corrupt(f"{address}: the sha256 of bytes {begin} to {end} is not the manifest's; {REMEDY}")
        begin = end
    return data


def _start(part: Part, piece: int) -> int:
    return part.pieces[piece - 1][0] if piece else 0


def _end(group: pq.RowGroupMetaData) -> int:
    """Where a row group ends in its file."""
    chunks = [group.column(number) for number in range(group.num_columns)]
    starts = [c.dictionary_page_offset if c.has_dictionary_page else c.data_page_offset for c in chunks]
    return int(max(start + chunk.total_compressed_size for start, chunk in zip(starts, chunks)))


def _checked(uri: str, part: Part) -> bytes:
    """All bytes of a part. Raises Corrupt, or Missing."""
    address = storage.join(uri, part.name)
    data = storage.read_bytes(address)
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise Corrupt(f"{address}: its sha256 is not the manifest's; {REMEDY}")
    return data


class Digest:
    """sha256 of the values of a stream of rows; it does not depend on how they are cut into tables or encoded.

    ``face_id`` is left out: it follows from the key, the namespace and the salts, which the manifest has.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def over(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same rows, cut differently; each is added to the digest as it passes."""
        for table in _groups(tables):
            for name in schema.FACES.names:
                if name != "face_id":
                    self._feed(table[name].combine_chunks())
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
