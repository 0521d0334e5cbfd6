"""A CSV or Parquet list of images: columns path and identity; optionally key, view, split and landmarks.

In an unlabelled corpus, the column identity may be missing, and its cells empty.
"""

import errno
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from metric_core import storage
from metric_core.artefacts import keys
from metric_core.errors import DataError, Missing, NotReadable
from metric_core.sources import naming, tables
from metric_core.sources.found import TWINS, Found, Notes, Scan, Source, first_few, read_landmarks

REQUIRED = ("path", "identity")
OPTIONAL = ("key", "view", "split", "landmarks")
READERS, RUN = 32, 64
"""Threads that ask for content tags, and files per task of a thread. A store takes a round trip per file; on a local
disk, a task per file would cost more than the request itself."""

Tag = str | Missing | NotReadable


def scan(address: str, unlabelled: bool = False) -> Source:
    """The listed faces in list order; relative paths start at the list's own folder.

    Keys that are not given are derived from paths by ``keys.of``.

    Raises:
        DataError: columns are missing, unknown or twice, a cell is empty or no text, a key occurs twice, a path is
            of two people, or paths are not those of files; the message counts these and names the first ones.
    """
    table = _checked(tables.read(address), address, unlabelled)
    root, _, file = address.rpartition("/")
    scan_all: Scan = partial(_faces, address, root, table)
    return Source(root, PurePosixPath(file).stem, [scan_all], unlabelled=unlabelled)


def _checked(table: pa.Table, address: str, unlabelled: bool) -> pa.Table:
    columns = set(table.column_names)
    required = REQUIRED[:1] if unlabelled else REQUIRED
    if not columns.issuperset(required) or columns - {*REQUIRED, *OPTIONAL}:
        instead = f"; or {naming.UNLABELLED}" if "path" in columns and "identity" not in columns else ""
        raise DataError(
            f"{address} has columns {', '.join(table.column_names)}; expected {', '.join(REQUIRED)} and, if you "
            f"have them, {', '.join(OPTIONAL)}; or, in Parquet, image with the pictures' bytes and identity or label"
            f"{instead}"
        )
    table = tables.as_texts(table, address)
    if unlabelled and "identity" in columns:
        table = tables.with_blanks_as_null(table, "identity")
    for name in required:
        tables.require(table, name, address)
    for name in columns.intersection(REQUIRED):
        tables.require_no_nul(table, name, address)
    place = table.schema.get_field_index("path")
    paths = [_path(path, row, address) for row, path in enumerate(table["path"].to_pylist(), start=1)]
    return table.set_column(place, "path", pa.array(paths, pa.string()))


def _path(given: str, row: int, address: str) -> str:
    """The path in a row, which may be a file:// address."""
    path = given
    if given.startswith("file://"):
        path = unquote("/" + given.removeprefix("file://").partition("/")[2])
    if path.rstrip("/").rpartition("/")[2] in ("", ".", "..") and "://" not in path:
        raise DataError(f"{address}: row {row} has the path {given!r}, which names no file; expected a picture's path")
    return path


def _faces(address: str, root: str, table: pa.Table, notes: Notes) -> Iterator[Found]:
    key_N, twins = _keys(address, root, table)
    tag_of: dict[int, str] = {}
    if twins:
        names = [key_N[row] for row in twins]
        notes.ignored[TWINS] += keys.count_with_ending(list(twins.values()), names)
        found = [tag if isinstance(tag, str) else "" for _, tag in _tagged(root, table.take(list(twins)))]
        tag_of = dict(zip(twins, keys.distinct_tags(list(twins.values()), names, found)))
    missing: list[str] = []
    for number, (row, tag) in enumerate(_tagged(root, table)):
        path = row["path"]
        if isinstance(tag, NotReadable):
            raise DataError(f"{address}: row {number + 1} has the path {path!r}: {tag}")
        if isinstance(tag, Missing):
            missing.append(path)
            continue
        points = read_landmarks(row.get("landmarks"), f"{address}, row {number + 1}")
        yield Found(
            identity=row.get("identity"),
            key=key_N[number],
            uri=path,
            content_tag=tag_of.get(number, tag),
            view=row.get("view"),
            split=row.get("split"),
            landmarks=points,
        )
    if missing:
        raise DataError(
            f"{address} lists {len(missing)} of {table.num_rows} files that are not there: {first_few(missing)}; paths "
            f"are relative to {root}; correct or remove these rows"
        )


def _keys(address: str, root: str, table: pa.Table) -> tuple[list[str], dict[int, str]]:
    """The rows' keys, and {row: path} of the twins among the rows whose key is not given."""
    key_N: list[Any] = table["key"].to_pylist() if "key" in table.column_names else [None] * table.num_rows
    derived = [row for row, key in enumerate(key_N) if not key]
    path_N = [str(PurePosixPath(path.removeprefix(f"{root}/"))) for path in table["path"].to_pylist()]
    paths = [path_N[row] for row in derived]
    found = keys.of(paths, {key for key in key_N if key})
    for row, key in zip(derived, found):
        key_N[row] = key
    if len(set(key_N)) < len(key_N):
        repeated = next(key for key, count in Counter(key_N).items() if count > 1)
        which = first_few([path for path, key in zip(path_N, key_N) if key == repeated])
        raise DataError(
            f"{address}: the key {repeated!r} occurs twice, for the paths {which}; each row needs its own path or key"
        )
    _require_one_person(path_N, table, address)
    lost = {keys.plain(path) for path, key in zip(paths, found) if key != keys.plain(path)}
    return key_N, {row: path for row, path in zip(derived, paths) if lost and keys.plain(path) in lost}


def _require_one_person(path_N: list[str], table: pa.Table, address: str) -> None:
    """Check that no picture is of two people, unless landmarks tell its faces apart. A picture may be there more than
    once, each time with its own key."""
    if len(set(path_N)) == len(path_N) or "identity" not in table.column_names:
        return
    points = table["landmarks"].to_pylist() if "landmarks" in table.column_names else [None] * len(path_N)
    seen: dict[tuple[str, str], tuple[int, str]] = {}
    for row, (face, person) in enumerate(zip(zip(path_N, map(str, points)), table["identity"].to_pylist()), start=1):
        first, other = seen.setdefault(face, (row, person))
        if other != person:
            raise DataError(
                f"{address}: the path {face[0]!r} occurs twice, in row {first} of {other!r} and in row {row} of "
                f"{person!r}; remove one, or give each face of the picture its landmarks"
            )


def _tagged(root: str, table: pa.Table) -> Iterator[tuple[dict[str, Any], Tag]]:
    """Rows, each with the content tag of its file, or why it has none."""
    with ThreadPoolExecutor(READERS) as pool:
        for batch in table.to_batches(max_chunksize=READERS * RUN):
            yield from zip(batch.to_pylist(), content_tags(root, batch["path"].to_pylist(), pool))


def content_tags(root: str, paths: list[str], pool: Executor) -> Iterator[Tag]:
    """The content tag of each file, or why it has none. Tags are requested concurrently."""
    runs = [paths[at : at + RUN] for at in range(0, len(paths), RUN)]
    yield from chain.from_iterable(pool.map(partial(_tags, root), runs))


def _tags(root: str, paths: list[str]) -> list[Tag]:
    return [_tag(storage.resolve(root, path)) for path in paths]


def _tag(address: str) -> Tag:
    try:
        return storage.content_tag(address)
    except (Missing, NotReadable) as error:
        return error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR):
            return Missing(f"{address}: {error.strerror}")
        raise
