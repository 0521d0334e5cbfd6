"""Parquet files with the images' bytes in a column, as Hugging Face writes them. Images are read by row group.

Lists of image files in Parquet are another format, read by ``listing``.
"""

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from metric_core import storage
from metric_core.artefacts import keys
from metric_core.errors import DataError, ImageUnreadable
from metric_core.options import storable
from metric_core.sources import bounds, listing, naming, tables
from metric_core.sources.found import Found, Notes, first_few, read_landmarks

WHO = ("identity", "label")
"""Columns that name the person; the first one that exists is used."""

OPTIONAL = ("key", "view", "split", "landmarks")
TEXTS = {"path", *WHO, *OPTIONAL}
"""Columns that hold text, even where it is stored as bytes."""

NO_LABEL = "-1"
"""The number of a ClassLabel that was not given (Hugging Face ``datasets``)."""

FEW_BYTES = 64
"""Bytes per cell, of a column whose empty cells are not counted, up to which it is read to count them."""
MAX_GROUP = 1 << 30
"""Most bytes of images per row group: to read one image, its whole group must be read."""

CACHE = 256 << 20
"""Bytes of row groups that a process keeps in memory; the last group is kept whatever its size."""


def has_images(address: str) -> bool:
    """Whether a Parquet file holds images rather than a list of them. Raises DataError, Missing."""
    with _open(address) as f:
        return _image_column(f.schema_arrow) is not None


def faces(root: str, file: str, notes: Notes, unlabelled: bool = False) -> Iterator[Found]:
    """The faces of one file in row order.

    Images are in the column ``image`` (or the only column with bytes): bytes, or Hugging Face's struct of bytes and
    path. A row that has a path and no bytes is the file there, relative to the Parquet file's folder. ``identity`` or
    ``label`` names the person; numbers are replaced by the file's ClassLabel names if it has any. The key is the column
    ``key`` if there is one, else the file's name without its ending and the row's number. ``view``, ``split`` and
    ``landmarks`` are as in a list. In an unlabelled corpus, ``identity`` and ``label`` may be missing, and cells empty.

    Raises:
        DataError: columns are missing, twice or of another type, a cell is empty, names of labels are not sound, a file
            of a path is not there, or a row group is too large.
        Missing: there is no such file.
    """
    address = storage.join(root, file)
    tag = storage.content_tag(address)
    with _open(address) as f:
        image, who = _columns(f.schema_arrow, address, unlabelled)
        names, number = _class_names(f.schema_arrow, who, address) if who else None, 0
        wanted = [name for name in (who, *OPTIONAL) if name in f.schema_arrow.names]
        for group in range(f.num_row_groups):
            _check_size(f, group, image, address)
            files = _files(f, group, image, root, file)
            for row, cells in enumerate(_cells(f, group, wanted, address)):
                where = f"{address}: row {number}"
                place: dict[str, Any] = {"kind": "parquet", "row_group": group, "row": row, "column": image}
                uri, tag_of_row = files.get(row, (file, tag))
                yield Found(
                    identity=_identity(cells.get(who), who, names, where, unlabelled),
                    key=_required(cells.get("key", f"{keys.plain(file)}/{number}"), "key", where),
                    uri=uri,
                    content_tag=tag_of_row,
                    view=cells.get("view"),
                    split=cells.get("split"),
                    landmarks=read_landmarks(cells.get("landmarks"), f"{address}, row {number}"),
                    **({} if row in files else place),
                )
                number += 1


def _cells(f: pq.ParquetFile, group: int, wanted: list[str], address: str) -> Iterator[dict[str, Any]]:
    """The texts in some columns of each row of a group; there may be no column."""
    if not wanted:
        return iter([{}] * f.metadata.row_group(group).num_rows)
    texts = bounds.texts(f, wanted, f"{address}, row group {group}", group)
    return (row for table in texts for row in tables.as_texts(table, address).to_pylist())


def _columns(schema: pa.Schema, address: str, unlabelled: bool) -> tuple[str, str]:
    """The leaf column with the pictures, and the column that names people, empty where an unlabelled corpus has none.

    Raises:
        DataError: there are no such columns.
    """
    tables.require_once(schema.names, address)
    image = _image_column(schema)
    who = next((name for name in WHO if name in schema.names), "")
    if image is None or not (who or unlabelled):
        instead = f"; or {naming.UNLABELLED}" if image else ""
        raise DataError(
            f"{address} has columns {', '.join(schema.names)}; expected image, with the pictures' bytes, and "
            f"identity or label; a list of files with columns path,identity is given to --source by itself{instead}"
        )
    return image, who


def _identity(cell: str | None, who: str, names: dict[str, str] | None, where: str, unlabelled: bool) -> str | None:
    nobody = NO_LABEL if names is not None else ""
    if unlabelled and (not cell or cell.strip() in ("", nobody)):
        return None
    person = _required(cell, who, where)
    if names is None:
        return person
    if person not in names:
        raise DataError(f"{where} has the {who} {person}, but only {len(names)} have names")
    return names[person]


def _required(cell: str | None, name: str, where: str) -> str:
    if not cell or not cell.strip():
        raise DataError(f"{where} has no {name}; every face needs one")
    if "\0" in cell:
        raise DataError(f"{where} has the {name} {cell!r}, which holds a NUL byte")
    return cell


def _files(f: pq.ParquetFile, group: int, image: str, root: str, file: str) -> dict[int, tuple[str, str]]:
    """{row: (uri, content tag)} of the rows of a group whose picture is not in it but in a file of its own.

    Raises:
        DataError: a file is not there; the message says what is stored instead of pictures.
    """
    column = image.rpartition(".")[0]
    if not column or not _may_be_empty(f, group, image):
        return {}
    kind = f.schema_arrow.field(column).type
    if kind.get_field_index("path") < 0:
        return {}
    where = storage.join(root, file)
    empty_n = pc.is_null(bounds.leaf(f, group, image, MAX_GROUP, where)).to_pylist()
    path_N = bounds.leaf(f, group, f"{column}.path", MAX_GROUP, where)
    bounds.require_short(pa.table({f"{column}.path": path_N}), where)
    paths = path_N.to_pylist()
    folder = file.rpartition("/")[0] or "."
    named = {row: path for row, (empty, path) in enumerate(zip(empty_n, paths)) if empty and path}
    uris = {row: storage.resolve(folder, path).removeprefix("./") for row, path in named.items()}
    with ThreadPoolExecutor(listing.READERS) as pool:
        tags = list(listing.content_tags(root, list(uris.values()), pool))
    absent = [uri for uri, tag in zip(uris.values(), tags) if not isinstance(tag, str)]
    if absent:
        raise DataError(
            f"{where} stores paths instead of pictures in {len(uris)} rows of row group {group}, "
            f"and {len(absent)} of these files are not there: {first_few(absent)}; put them beside it, or write it "
            f"again with the pictures' bytes"
        )
    return {row: (uri, str(tag)) for (row, uri), tag in zip(uris.items(), tags)}


def _may_be_empty(f: pq.ParquetFile, group: int, image: str) -> bool:
    """Whether cells of the column may be empty; pictures are not read to find that out."""
    chunk = _chunk(f, group, image)
    if chunk.statistics is not None and chunk.statistics.has_null_count:
        return bool(chunk.statistics.null_count)
    return bool(chunk.total_uncompressed_size <= FEW_BYTES * chunk.num_values)


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
        self._held: OrderedDict[tuple[str, int, str], tuple[pa.ChunkedArray, int]] = OrderedDict()
        """Columns and their bytes: adding up those of all chunks takes longer than finding a picture."""

    def get(self, *which: Any) -> pa.ChunkedArray:
        with self._lock:
            if which not in self._held:
                column = _read(*which)
                self._held[which] = column, column.nbytes
            self._held.move_to_end(which)
            while len(self._held) > 1 and sum(size for _, size in self._held.values()) > CACHE:
                self._held.popitem(last=False)
            return self._held[which][0]


_groups = _Groups()


def _read(address: str, row_group: int, column: str) -> pa.ChunkedArray:
    with _open(address) as f:
        return bounds.leaf(f, row_group, column, MAX_GROUP, address)


@contextmanager
def _open(address: str) -> Iterator[pq.ParquetFile]:
    with storage.open_read(address, ahead=False) as f:
        try:
            yield bounds.parquet(f)
        except (pa.ArrowException, ValueError, OSError) as error:
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
        elif _is_bytes(field.type) and field.name not in TEXTS:
            leaves.append(field.name)
    named = [leaf for leaf in leaves if leaf in ("image", "image.bytes")] or leaves
    return named[0] if len(named) == 1 else None


def _is_bytes(kind: pa.DataType) -> bool:
    kind = kind.value_type if pt.is_dictionary(kind) else kind
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind))


def _class_names(schema: pa.Schema, column: str, address: str) -> dict[str, str] | None:
    """{number as text: name} of a ClassLabel column; None if the file has no names for it.

    Raises:
        DataError: two labels have one name, or one has none.
    """
    try:
        body = json.loads((schema.metadata or {})[b"huggingface"])
        names = body["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    if not names:
        return None
    if not isinstance(names, list) or not all(
        isinstance(name, str) and name.strip() and storable(name) for name in names
    ):
        raise DataError(f"{address}: names of the {column}s are empty or no texts: {str(names)[:80]}; expected a list")
    if len(set(names)) < len(names):
        twice = first_few([name for name, count in Counter(names).items() if count > 1])
        raise DataError(f"{address}: several {column}s have the name {twice}; expected a name for each")
    return {str(number): name for number, name in enumerate(names)}


def _check_size(f: pq.ParquetFile, group: int, column: str, address: str) -> None:
    size = bounds.stored(f, group, [column])
    if size > MAX_GROUP:
        raise DataError(
            f"{address}: row group {group} has {size / 2**30:.1f} GiB of pictures, at most {MAX_GROUP / 2**30:.0f} are "
            f"possible, because a picture is read with its whole group; write the file again with a row_group_size of "
            f"a few hundred rows"
        )


def _chunk(f: pq.ParquetFile, group: int, column: str) -> Any:
    about = f.metadata.row_group(group)
    for chunk in (about.column(i) for i in range(about.num_columns)):
        if chunk.path_in_schema == column:
            return chunk
    raise pa.ArrowInvalid(f"row group {group} has no column {column}")
