"""A CSV or Parquet list of images: columns path, identity and, if they are there, key, view, split and landmarks."""

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
from metric_core.errors import DataError, Missing
from metric_core.sources.found import Found, Source, read_landmarks, some

REQUIRED = ("path", "identity")
OPTIONAL = ("key", "view", "split", "landmarks")
READERS, RUN = 32, 64
"""Threads that ask for content tags, of so many files each before rows are handed on: a store takes a round trip for
each, and handing a single file of a disk to a thread would cost more than to ask for it."""


def scan(address: str) -> Source:
    """The listed faces in list order; relative paths start at the list's own folder.

    Raises:
        DataError: columns are missing or unknown, a cell is empty, a path stands twice, or a file is not there;
            all missing files are counted and the first ones named.
    """
    table = _read(address)
    root, _, file = address.rpartition("/")
    return Source(root=root, name=PurePosixPath(file).stem, shards=[partial(_faces, address, root, table)])


def _read(address: str) -> pa.Table:
    with storage.open_read(address) as f:
        try:
            if address.endswith(".parquet"):
                table = pq.read_table(f)
            else:
                # Every column as text, and only an empty cell as nothing: an identity "007" must not become the number
                # 7, nor a person called "NA" nobody.
                names = pyarrow.csv.open_csv(f).schema.names
                f.seek(0)
                types = pyarrow.csv.ConvertOptions(
                    column_types={n: pa.string() for n in names}, strings_can_be_null=True, null_values=[""]
                )
                table = pyarrow.csv.read_csv(f, convert_options=types)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise DataError(f"{address} cannot be read as a list of faces: {error}") from error
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


def _faces(address: str, root: str, table: pa.Table, _: Counter[str]) -> Iterator[Found]:
    missing: list[str] = []
    seen: set[str] = set()
    for number, (row, tag) in enumerate(_tagged(root, table), start=1):
        path = row["path"]
        key = row.get("key") or str(PurePosixPath(path.removeprefix(f"{root}/")).with_suffix(""))
        if key in seen:
            raise DataError(f"{address}: the key {key!r} stands twice; each row needs its own path or key")
        seen.add(key)
        if tag is None:
            missing.append(path)
            continue
        points = read_landmarks(row.get("landmarks"), f"{address}, row {number}")
        yield Found(row["identity"], key, path, tag, view=row.get("view"), split=row.get("split"), landmarks=points)
    if missing:
        raise DataError(
            f"{address} lists {len(missing)} of {table.num_rows} files that are not there: {some(missing)}; paths are "
            f"relative to {root}; mend or remove these rows"
        )


def _tagged(root: str, table: pa.Table) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Rows as texts, and the content tags of their files, many of which are asked for at once; None: not there."""
    texts = pa.schema([(f.name, f.type if pa.types.is_nested(f.type) else pa.string()) for f in table.schema])
    with ThreadPoolExecutor(READERS) as pool:
        for batch in table.cast(texts).to_batches(max_chunksize=READERS * RUN):
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
