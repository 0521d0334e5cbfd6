"""Tables that people give: CSV and Parquet, with every column as text. What the columns mean is left to the callers."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.types as pt

from metric_core import storage
from metric_core.artefacts import keys
from metric_core.errors import DataError
from metric_core.sources import bounds
from metric_core.sources.found import first_few

BLOCK = 16 << 20
"""Bytes of a CSV that are parsed at a time; a row must fit in."""
NESTED = ("landmarks",)
"""Columns that may be lists of numbers instead of text."""


def read(address: str) -> pa.Table:
    """The columns of a .parquet file as they are, or of any other file as CSV, all of them text and empty cells null.

    Raises:
        DataError: it cannot be parsed, is not in UTF-8, has a column twice, or is no file.
        Missing: there is no such file.
    """
    ending = keys.ending(address).lower()
    storage.require_file(address)
    with storage.open_read(address) as f:
        try:
            return _read_parquet(f, address) if ending == ".parquet" else _read_csv(f, address)
        except (pa.ArrowException, csv.Error, ValueError, OSError) as error:
            if storage.is_storage_error(error):
                raise
            what = " ".join(str(error).split())
            if isinstance(error, UnicodeDecodeError) or "invalid UTF8" in what:
                raise DataError(f"{address} is not in UTF-8 ({what[:200]}); save it in that encoding") from error
            raise DataError(f"{address} cannot be read as a list of faces: {what[:300]}") from error


def as_texts(table: pa.Table, address: str) -> pa.Table:
    """The table with all columns as text, except landmarks that are nested. Not a number (NaN) becomes null.

    Raises:
        DataError: a column is neither text nor whole numbers, or its text is not UTF-8 or too long.
    """
    columns = [_as_text(table[name], name, address) for name in table.column_names]
    texts = pa.table(dict(zip(table.column_names, columns)))
    bounds.require_short(texts, address)
    return texts


def require(table: pa.Table, name: str, address: str) -> None:
    """Check that no cell of a text column is empty or blank.

    Raises:
        DataError: with the number of such cells and the first row, counted from 1.
    """
    column = table[name].combine_chunks()
    blank_N = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)
    if count := blank_N.true_count:
        first = blank_N.index(True).as_py()
        raise DataError(
            f"{address}: {count} rows have no {name}, the first is row {first + 1} ({column[first].as_py()!r}); each "
            f"row needs one"
        )


def require_no_nul(table: pa.Table, name: str, address: str) -> None:
    """Check that no cell of a text column has a NUL in it. Raises DataError with the first row, counted from 1."""
    column = table[name].combine_chunks()
    nul_N = pc.match_substring(column, "\0")
    if nul_N.true_count:
        first = nul_N.index(True).as_py()
        raise DataError(f"{address}: row {first + 1} has the {name} {column[first].as_py()!r}, which holds a NUL byte")


def with_blanks_as_null(table: pa.Table, name: str) -> pa.Table:
    """The table with nulls for the empty and blank cells of a text column."""
    column = table[name]
    blank_N = pc.equal(pc.utf8_trim_whitespace(column), "")
    return table.set_column(table.schema.get_field_index(name), name, pc.if_else(blank_N, None, column))


def require_once(names: Sequence[str], address: str) -> None:
    """Check that no column's name occurs twice. Raises DataError."""
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{address} has the column {first_few(twice)} twice: which one counts? Rename or remove one")


def _read_parquet(f: BinaryIO, address: str) -> pa.Table:
    file = bounds.parquet(f)
    require_once(file.schema_arrow.names, address)
    return bounds.listed(file, address)


def _read_csv(f: BinaryIO, address: str) -> pa.Table:
    """Only an empty cell is null: an identity "007" must not become the number 7, nor a person called "NA" null."""
    names = _header(f, address)
    require_once(names, address)
    f.seek(0)
    table = pyarrow.csv.read_csv(
        f,
        read_options=pyarrow.csv.ReadOptions(block_size=BLOCK),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )
    last = table.slice(max(table.num_rows - 1, 0)).to_pylist()
    if any("\n" in (cell or "") or "\r" in (cell or "") for row in last for cell in row.values()):
        _require_closed(f, address)
    return table


def _require_closed(f: BinaryIO, address: str) -> None:
    """Check that the number of quotes is even; otherwise the last row can have swallowed others. Raises DataError."""
    f.seek(0)
    quotes = 0
    while piece := f.read(BLOCK):
        quotes += piece.count(b'"')
    if quotes % 2:
        raise DataError(f"{address}: a quote that is opened in the last row is not closed; close or remove it")


def _header(f: BinaryIO, address: str) -> list[str]:
    text = io.TextIOWrapper(f, "utf-8-sig", newline="")
    try:
        names = next((row for row in csv.reader(text) if row), None)
    finally:
        text.detach()
    if names is None:
        raise DataError(f"{address} is empty; expected a line with the names of the columns, and one per face")
    return names


def _as_text(column: pa.ChunkedArray, name: str, address: str) -> pa.ChunkedArray:
    kind = column.type.value_type if pt.is_dictionary(column.type) else column.type
    if name in NESTED and pt.is_nested(kind):
        return column
    try:
        texts = pa.chunked_array([_text(chunk) for chunk in column.chunks], pa.string())
        texts.validate(full=True)
    except _NoTextError:
        raise DataError(f"{address}: the column {name} is {kind}; expected names or whole numbers") from None
    except (pa.ArrowException, ValueError) as error:
        what = " ".join(str(error).split())
        raise DataError(f"{address}: the column {name} ({kind}) is not text in UTF-8: {what[:200]}") from error
    return texts


class _NoTextError(Exception):
    """A type of column has no obvious form as text."""


def _text(chunk: Any) -> pa.Array:
    kind = chunk.type
    if pt.is_dictionary(kind):
        return _text(chunk.dictionary).take(chunk.indices)
    if pt.is_floating(kind):
        return _whole(chunk).cast(pa.string())
    if not any(is_kind(kind) for is_kind in _TEXTS):
        raise _NoTextError
    return chunk.cast(pa.string())


def _whole(chunk: Any) -> pa.Array:
    """Floats as whole numbers, as which they are stored where some are missing."""
    known = pc.if_else(pc.is_nan(chunk), None, chunk)
    try:
        return known.cast(pa.int64())
    except pa.ArrowInvalid:
        raise _NoTextError from None


_TEXTS = (*bounds.TEXTS, pt.is_integer, pt.is_null)
