"""A CSV or Parquet list of images: columns path and identity; optionally key, view, split and landmarks."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import keys
from metric_core.errors import DataError, Missing
from metric_core.sources import bounds
from metric_core.sources.found import TWINS, Found, Source, first_few, read_landmarks

REQUIRED = ("path", "identity")
OPTIONAL = ("key", "view", "split", "landmarks")
READERS, RUN = 32, 64
"""Threads that ask for content tags, and files per task of a thread. A store takes a round trip per file; on a local
disk, a task per file would cost more than the request itself."""


def scan(address: str) -> Source:
    """The listed faces in list order; relative paths start at the list's own folder.

    Keys that are not given are derived from paths by ``keys.of``.

    Raises:
        DataError: columns are missing or unknown, a cell is empty, a path or key occurs twice, or files are missing;
            the message counts these and names the first ones.
    """
    table = _read(address)
    root, _, file = address.rpartition("/")
    return Source(root=root, name=PurePosixPath(file).stem, shards=[partial(_faces, address, root, table)])


def _read(address: str) -> pa.Table:
    with storage.open_read(address) as f:
        try:
            if address.endswith(".parquet"):
                table = bounds.listed(pq.ParquetFile(f), address)
            else:
                # Every column is text, and only an empty cell is null: an identity "007" must not become the number 7,
                # nor a person called "NA" null.
                names = pyarrow.csv.open_csv(f).schema.names
                f.seek(0)
                types = pyarrow.csv.ConvertOptions(
                    column_types={n: pa.string() for n in names}, strings_can_be_null=True, null_values=[""]
                )
                table = pyarrow.csv.read_csv(f, convert_options=types)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise DataError(f"{address} cannot be read as a list of faces: {error}") from error
    bounds.require_short(table, address)
    columns = set(table.column_names)
    if not columns.issuperset(REQUIRED) or columns - {*REQUIRED, *OPTIONAL}:
        raise DataError(
            f"{address} has columns {', '.join(table.column_names)}; expected {', '.join(REQUIRED)} and, if you "
            f"have them, {', '.join(OPTIONAL)}; or, in Parquet, image with the pictures' bytes and identity or label"
        )
    for name in REQUIRED:
        if table[name].null_count:
            raise DataError(f"{address}: {table[name].null_count} rows have no {name}")
    return table


def _faces(address: str, root: str, table: pa.Table, ignored: Counter[str]) -> Iterator[Found]:
    texts = pa.schema([(f.name, f.type if pa.types.is_nested(f.type) else pa.string()) for f in table.schema])
    table = table.cast(texts)
    key_N, twins = _keys(address, root, table)
    tag_of: dict[int, str] = {}
    if twins:
        names = [key_N[row] for row in twins]
        ignored[TWINS] += keys.count_with_ending(list(twins.values()), names)
        found = [tag or "" for _, tag in _tagged(root, table.take(list(twins)))]
        tag_of = dict(zip(twins, keys.distinct_tags(list(twins.values()), names, found)))
    missing: list[str] = []
    for number, (row, tag) in enumerate(_tagged(root, table)):
        path = row["path"]
        if tag is None:
            missing.append(path)
            continue
        points = read_landmarks(row.get("landmarks"), f"{address}, row {number + 1}")
        yield Found(
            identity=row["identity"],
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
        raise DataError(f"{address}: the key {repeated!r} occurs twice; each row needs its own path or key")
    lost = {keys.plain(path) for path, key in zip(paths, found) if key != keys.plain(path)}
    return key_N, {row: path for row, path in zip(derived, paths) if lost and keys.plain(path) in lost}


def _tagged(root: str, table: pa.Table) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Rows, each with the content tag of its file, or None if the file is missing. Tags are requested concurrently."""
    with ThreadPoolExecutor(READERS) as pool:
        for batch in table.to_batches(max_chunksize=READERS * RUN):
            paths = batch["path"].to_pylist()
            runs = [paths[at : at + RUN] for at in range(0, len(paths), RUN)]
            yield from zip(batch.to_pylist(), chain.from_iterable(pool.map(partial(_tags, root), runs)))


def _tags(root: str, paths: list[str]) -> list[str | None]:
    return [_tag(storage.resolve(root, path)) for path in paths]


def _tag(address: str) -> str | None:
    try:
        return storage.content_tag(address)
    except Missing:
        return None
