"""Parquet files with the images' bytes in a column, as Hugging Face writes them. Images are read by row group.

Lists of image files in Parquet are another format, read by ``listing``.
"""

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from metric_core import storage
from metric_core.errors import DataError, ImageUnreadable
from metric_core.sources import bounds
from metric_core.sources.found import Found, read_landmarks

WHO = ("identity", "label")
"""Columns that name the person; the first one that exists is used."""

OPTIONAL = ("key", "view", "split", "landmarks")
MAX_GROUP = 1 << 30
"""Most bytes of images per row group: to read one image, its whole group must be read."""

CACHE = 256 << 20
"""Bytes of row groups that a process keeps in memory; the last group is kept whatever its size."""


def has_images(address: str) -> bool:
    """Whether a Parquet file holds images rather than a list of them. Raises DataError, Missing."""
    with _open(address) as f:
        return _image_column(f.schema_arrow) is not None


def faces(root: str, file: str, ignored: Counter[str]) -> Iterator[Found]:
    """The faces of one file in row order.

    Images are in the column ``image`` (or the only column with bytes): bytes, or Hugging Face's struct of bytes and
    path. ``identity`` or ``label`` names the person; numbers are replaced by the file's ClassLabel names if it has any.
    The key is the column ``key`` if there is one, else the file's name without its ending and the row's number.
    ``view``, ``split`` and ``landmarks`` are as in a list.

    Raises:
        DataError: columns are missing, a cell is empty, or a row group is too large.
        Missing: there is no such file.
    """
    address = storage.join(root, file)
    tag = storage.content_tag(address)
    with _open(address) as f:
        schema = f.schema_arrow
        image = _image_column(schema)
        who = next((name for name in WHO if name in schema.names), None)
        if image is None or who is None:
            raise DataError(
                f"{address} has columns {', '.join(schema.names)}; expected image, with the pictures' bytes, and "
                f"identity or label; a list of files with columns path,identity is given to --source by itself"
            )
        names, number = _class_names(schema, who), 0
        for group in range(f.num_row_groups):
            _check_size(f, group, image, address)
            wanted = [who, *(name for name in OPTIONAL if name in schema.names)]
            tables = bounds.texts(f, wanted, f"{address}, row group {group}", group)
            for row, cells in enumerate(cells for table in tables for cells in _texts(table, address).to_pylist()):
                person, key = cells[who], cells.get("key", f"{PurePosixPath(file).with_suffix('')}/{number}")
                if not person or not key:
                    raise DataError(f"{address}: row {number} has no {'key' if person else who}; every face needs one")
                if names is not None and person not in names:
                    raise DataError(f"{address}: row {number} has the {who} {person}, but only {len(names)} have names")
                yield Found(
                    identity=person if names is None else names[person],
                    key=key,
                    uri=file,
                    content_tag=tag,
                    kind="parquet",
                    row_group=group,
                    row=row,
                    column=image,
                    view=cells.get("view"),
                    split=cells.get("split"),
                    landmarks=read_landmarks(cells.get("landmarks"), f"{address}, row {number}"),
                )
                number += 1


def fetch(address: str, row_group: int, row: int, column: str) -> bytes:
    """The bytes in one cell; empty if the cell is.

    Raises:
        Missing: there is no such file.
        ImageUnreadable: the row group is damaged, or the file has no such cell.
    """
    try:
        return _groups.get(address, row_group, column)[row].as_py() or b""
    except (DataError, IndexError) as error:
        raise ImageUnreadable(
            f"corrupt: {address}, row group {row_group}, row {row}: {error}; if the file was changed since it was "
            f"catalogued, catalogue again to another --out"
        ) from error


class _Groups:
    """A cache of the row groups read last. Safe for threads; when several want the same group, only one reads it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[str, int, str], pa.ChunkedArray] = OrderedDict()

    def get(self, *which: Any) -> pa.ChunkedArray:
        with self._lock:
            if which not in self._held:
                self._held[which] = _read(*which)
            self._held.move_to_end(which)
            while len(self._held) > 1 and sum(column.nbytes for column in self._held.values()) > CACHE:
                self._held.popitem(last=False)
            return self._held[which]


_groups = _Groups()


def _read(address: str, row_group: int, column: str) -> pa.ChunkedArray:
    with _open(address) as f:
        table = bounds.pictures(f, row_group, column, MAX_GROUP, address)
    return (table.flatten() if "." in column else table).column(0)


@contextmanager
def _open(address: str) -> Iterator[pq.ParquetFile]:
    with storage.open_read(address, ahead=False) as f:
        try:
            yield pq.ParquetFile(f)
        except (pa.ArrowInvalid, OSError) as error:
            if storage.is_storage_error(error):
                raise
            what = " ".join(str(error).split())
            raise DataError(f"{address} cannot be read as Parquet: {what}; it is damaged or was cut short") from error


def _image_column(schema: pa.Schema) -> str | None:
    """The leaf column with the bytes: ``image``, ``image.bytes``, or the only one with bytes; else None."""
    leaves = []
    for field in schema:
        inner = field.type.get_field_index("bytes") if pt.is_struct(field.type) else -1
        if inner >= 0 and _is_bytes(field.type[inner].type):
            leaves.append(f"{field.name}.bytes")
        elif _is_bytes(field.type):
            leaves.append(field.name)
    named = [leaf for leaf in leaves if leaf in ("image", "image.bytes")] or leaves
    return named[0] if len(named) == 1 else None


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind))


def _class_names(schema: pa.Schema, column: str) -> dict[str, str] | None:
    """{number as text: name} of a ClassLabel column; None if the file has no names for it."""
    try:
        body = json.loads((schema.metadata or {})[b"huggingface"])
        names = body["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return {str(number): name for number, name in enumerate(names)} if names else None


def _check_size(f: pq.ParquetFile, group: int, column: str, address: str) -> None:
    size = bounds.stored(f, group, [column])
    if size > MAX_GROUP:
        raise DataError(
            f"{address}: row group {group} has {size / 2**30:.1f} GiB of pictures, at most {MAX_GROUP / 2**30:.0f} are "
            f"possible, because a picture is read with its whole group; write the file again with a row_group_size of "
            f"a few hundred rows"
        )


def _texts(table: pa.Table, address: str) -> pa.Table:
    """The table with all columns except the landmarks as text."""
    as_texts = []
    for field in table.schema:
        kind = field.type.value_type if pt.is_dictionary(field.type) else field.type
        if not (pt.is_integer(kind) or pt.is_string(kind) or pt.is_large_string(kind)) and field.name != "landmarks":
            raise DataError(f"{address}: the column {field.name} is {field.type}; expected names or whole numbers")
        as_texts.append((field.name, field.type if field.name == "landmarks" else pa.string()))
    return table.cast(pa.schema(as_texts))
