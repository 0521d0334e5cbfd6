"""Sources to Faces: gives every face an id, every person a split, and writes the catalogue.

No image is opened or copied here. Formats are in ``readers``; reading a catalogue back is in ``faces``.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import counter, schema, storage
from metric_core.data import faces
from metric_core.data.readers import Found, Source, folder, listing, parquet, pickled, shards
from metric_core.errors import ConfigError, DataError, Missing

ROW_GROUP = 65536


def scan(address: str) -> Source:
    """The source behind an address: an image folder, a .csv or .parquet list, shards, or a verification set.

    Raises:
        Missing: nothing is there.
        DataError: it is a file of a kind that is not read, or could be two things.
    """
    if not storage.exists(address):
        if shards.is_pattern(address):
            return shards.scan(*shards.matching(address))
        raise Missing(f"{address}: there is no such source; give --source a folder of people or a list")
    if storage.is_file(address):
        if address.endswith(".csv") or (address.endswith(".parquet") and not parquet.has_images(address)):
            return listing.scan(address)
        root, _, file = address.rpartition("/")
        if address.endswith(".bin"):
            return Source(root, file.removesuffix(".bin"), [partial(pickled.faces, root, file)])
        return shards.scan(root, [file])
    files = shards.inside(address)
    return shards.scan(address, files) if files else folder.scan(address)


def identify(keys: list[str], namespace: str) -> tuple[np.ndarray, dict[str, int]]:
    """Ids of keys, and the salts of those that collided.

    On a collision the later key in byte order takes the next salt.

    Returns:
        int64 (N,) face_ids in the order of ``keys``, and {key: salt} where the salt is not 0.

    Raises:
        DataError: a key stands twice.
    """
    id_of: dict[str, int] = {}
    salts: dict[str, int] = {}
    taken: set[int] = set()
    for key in sorted(keys, key=str.encode):
        if key in id_of:
            raise DataError(
                f"the key {key!r} stands twice in the source; rename one, or catalogue the shards that repeat keys by "
                f"themselves, each with a --namespace of its own"
            )
        salt = 0
        while (number := faces.face_id(namespace, key, salt)) in taken:
            salt += 1
        if salt:
            salts[key] = salt
        taken.add(number)
        id_of[key] = number
    return np.array([id_of[key] for key in keys], dtype=np.int64), salts


def seeded_splits(identities: list[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """A split for every person, by hash: people keep their split when the corpus grows.

    Raises:
        ConfigError: the shares are not positive or do not add up to 1.
    """
    if min(shares.values(), default=0) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ConfigError(f"shares of splits must be positive and add up to 1, got {dict(shares)}")
    ids_N = np.array([faces.face_id("split", name) for name in identities], dtype=np.int64)
    draw_N = counter.uniform(seed, 0, ids_N, "split", 1)[:, 0]
    edges = np.cumsum(list(shares.values()))
    index_N = np.minimum(np.searchsorted(edges, draw_N, side="right"), len(shares) - 1)
    names = list(shares)
    return {person: names[i] for person, i in zip(identities, index_N)}


def read_splits(address: str) -> dict[str, str]:
    """A CSV with columns identity and split; others are ignored. Raises DataError naming what does not fit."""
    text = storage.read_bytes(address).decode("utf-8-sig")
    reader = csv.DictReader(io.StringIO(text))
    if not {"identity", "split"} <= set(reader.fieldnames or []):
        raise DataError(f"{address}: columns {','.join(reader.fieldnames or ['(none)'])}; expected identity,split")
    out: dict[str, str] = {}
    for row in reader:
        person, split = row["identity"], row["split"]
        if not person or not split:
            raise DataError(f"{address} line {reader.line_num}: identity {person!r}, split {split!r}; both are needed")
        if out.setdefault(person, split) != split:
            raise DataError(
                f"{address} line {reader.line_num}: {person} is in {out[person]} and in {split}; splits are by person"
            )
    return out


def to_table(found: list[Found], namespace: str, split_of: Mapping[str, str]) -> tuple[pa.Table, dict[str, int]]:
    """Rows of the catalogue in source order, and the salts.

    A row's own split, from a list, stands unless ``split_of`` names the person.

    Raises:
        DataError: nothing was found, or a person is in two splits.
    """
    if not found:
        raise DataError("no images were found; expected one folder a person with pictures in it")
    id_N, salts = identify([f.key for f in found], namespace)
    columns: dict[str, Any] = dict.fromkeys(schema.FACES.names)
    columns |= {field.name: [getattr(f, field.name) for f in found] for field in fields(Found)}
    columns |= {"face_id": id_N, "split": [split_of.get(f.identity, f.split) for f in found]}
    first: dict[str, str | None] = {}
    for person, split in zip(columns["identity"], columns["split"]):
        if first.setdefault(person, split) != split:
            raise DataError(f"{person} is in split {first[person]} and in {split}; splits are by person")
    arrays = [
        pa.nulls(len(found), f.type) if columns[f.name] is None else pa.array(columns[f.name], f.type)
        for f in schema.FACES
    ]
    return pa.Table.from_arrays(arrays, schema=schema.FACES), salts


def summary(table: pa.Table) -> dict[str, Any]:
    """{rows, identities, splits: {name: {rows, identities}}}"""
    rows = Counter(table["split"].to_pylist())
    people = Counter(split for _, split in set(zip(table["identity"].to_pylist(), table["split"].to_pylist())))
    splits = {name: {"rows": rows[name], "identities": people[name]} for name in sorted(n for n in rows if n)}
    return {"rows": table.num_rows, "identities": sum(people.values()), "splits": splits}


def write_rows(uri: str, table: pa.Table) -> None:
    """Put the rows beside where the manifest will be."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.check(table, schema.FACES, uri), sink, row_group_size=ROW_GROUP, compression="zstd")
    storage.write_bytes(storage.join(uri, faces.ROWS), sink.getvalue().to_pybytes())
