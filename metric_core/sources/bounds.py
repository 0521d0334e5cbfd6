"""How much of a source is read before it is believed: what a file claims, or repeats, can be any number.

Readers call these where a file decides how much they read. Pictures have limits of their own, in ``image.limits``.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from metric_core.errors import DataError

SIDECAR = 1 << 20
"""Most bytes of a picture's .json, .cls or .txt."""
HEADERS = 256 << 10
"""Most bytes of headers in front of one member of a tar."""
DIGITS = re.compile(rb"\d{256}")
NAME = 4096
"""Most bytes of a name, a key, a path or another short text: the longest path that Linux opens."""
ROWS = 65_536
"""Rows of texts that are unpacked at a time."""
TEXTS = (
    pt.is_string,
    pt.is_large_string,
    pt.is_string_view,
    pt.is_binary,
    pt.is_large_binary,
    pt.is_binary_view,
)
"""Arrow's types of text, and of bytes that may be text."""
TABLE = 4 << 30
"""Most bytes of a list of faces in memory."""


def size_of(kind: str, length: int | None, content_tag: str | None) -> int:
    """The bytes of a catalogued image, where its row says them; else 0. The tag of a file begins with its size."""
    if length is not None:
        return length
    size = content_tag.partition("-")[0] if kind == "file" and content_tag else ""
    return int(size) if size.isdecimal() else 0


def require_few(size: int, most: int, what: str) -> None:
    """Raises DataError when ``what`` has more bytes than there can be in one of its kind."""
    if size > most:
        raise DataError(f"{what} has {size} bytes; at most {most} were expected: it is damaged, or something else")


def parquet(f: BinaryIO) -> pq.ParquetFile:
    """A Parquet file whose texts and bytes are read as dictionaries: a value that is stored once and stands in every
    row, so that kilobytes would unpack to gigabytes, is in memory once. It takes less time, too."""
    about = pq.ParquetFile(f).metadata
    columns = (about.schema.column(number) for number in range(about.num_columns))
    names = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    return pq.ParquetFile(f, metadata=about, read_dictionary=names)


def require_short(table: pa.Table, where: str) -> None:
    """Raises DataError when a text in the table is longer than ``NAME``; names the column, the row and the length."""
    for name in table.column_names:
        length_N = _lengths(table[name])
        if length_N is not None and (longest := pc.max(length_N).as_py() or 0) > NAME:
            row = pc.index(length_N, longest).as_py()
            raise DataError(
                f"{where}: {name} has {longest} bytes in row {row}; at most {NAME} were expected: it is damaged, or no "
                f"{name}"
            )


def _lengths(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """int64 (N,): bytes of each text; None for another column."""
    kind = column.type.value_type if pt.is_dictionary(column.type) else column.type
    if not any(is_kind(kind) for is_kind in TEXTS):
        return None
    if not pt.is_dictionary(column.type):
        return pc.binary_length(column.cast(pa.large_binary()))
    chunks = [pc.binary_length(one.dictionary.cast(pa.large_binary())).take(one.indices) for one in column.chunks]
    return pa.chunked_array(chunks, pa.int64())


def texts(file: pq.ParquetFile, columns: list[str], where: str, group: int | None = None) -> Iterator[pa.Table]:
    """Some columns of a Parquet file (from ``parquet``), or of one row group, ``ROWS`` rows at a time.

    Raises:
        DataError: a text is longer than ``NAME``.
    """
    first = 0
    groups = None if group is None else [group]
    for batch in file.iter_batches(batch_size=ROWS, row_groups=groups, columns=columns):
        table = pa.Table.from_batches([batch])
        require_short(table, f"{where}, from row {first}")
        first += table.num_rows
        yield table


def listed(file: pq.ParquetFile, address: str) -> pa.Table:
    """A whole list of faces, of all columns.

    Raises:
        DataError: a text is longer than ``NAME``, or all of them together than ``TABLE``.
    """
    tables, size = [], 0
    for table in texts(file, file.schema_arrow.names, address):
        tables.append(table)
        lengths = (_lengths(column) for column in table.columns)
        size += table.nbytes + sum(pc.sum(length_N).as_py() or 0 for length_N in lengths if length_N is not None)
        require_few(size, TABLE, f"{address}: the list")
    return pa.concat_tables(tables) if tables else file.schema_arrow.empty_table()


def leaf(file: pq.ParquetFile, group: int, name: str, most: int, address: str) -> pa.ChunkedArray:
    """A leaf column of a row group, such as ``image.bytes``. Raises DataError if it has more than ``most`` bytes."""
    if group >= file.num_row_groups:
        raise DataError(f"{address} has {file.num_row_groups} row groups")
    require_few(stored(file, group, [name]), most, f"{address}: {name} of row group {group}")
    table = file.read_row_group(group, columns=[name])
    return (table.flatten() if "." in name else table).column(0)


def stored(file: pq.ParquetFile, group: int, columns: list[str]) -> int:
    """Bytes of some columns of a row group before compression."""
    about = file.metadata.row_group(group)
    chunks = (about.column(at) for at in range(about.num_columns))
    return sum(
        chunk.total_uncompressed_size
        for chunk in chunks
        if any(chunk.path_in_schema == name or chunk.path_in_schema.startswith(f"{name}.") for name in columns)
    )


class Headers(io.RawIOBase):
    """A tar as ``tarfile`` reads it, which reads only headers: no more than ``HEADERS`` bytes of them in front of one
    member, whatever long names and chains of them claim."""

    def __init__(self, file: BinaryIO, address: str) -> None:
        self._file, self._address = file, address
        self.taken = 0
        """Bytes read since the last member; the reader sets it to 0."""

    def read(self, size: int = -1) -> bytes:
        """As of a file. Raises DataError beyond the limit, or for digits in which ``tarfile`` would search for ever."""
        self.taken += size
        data = self._file.read(size) if size >= 0 and self.taken <= HEADERS else None
        if data is None or (size > tarfile.BLOCKSIZE and DIGITS.search(data)):
            raise DataError(
                f"{self._address}, byte {self.tell()}: the headers in front of a member are longer than {HEADERS} "
                f"bytes, or their sizes are not numbers; the tar is damaged"
            )
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell()
