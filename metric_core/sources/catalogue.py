"""From sources to Faces: give every face an id and every person a split, and write the catalogue.

No image is opened or copied here. Each format has its own module in this folder; a catalogue is read by
``artefacts.faces``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core import counter, storage
from metric_core.artefacts import faces, keys, rows, schema
from metric_core.artefacts.rows import Part
from metric_core.errors import ConfigError, DataError, Missing
from metric_core.sources import folder, listing, naming, parquet, pickled, shards, tables
from metric_core.sources.census import Census
from metric_core.sources.found import Found, Notes, Source


def scan(address: str, level: int | None = None, unlabelled: bool = False) -> Source:
    """The source behind an address: an image folder, a .csv or .parquet list, shards, or a verification set.

    Args:
        address: absolute.
        level: in folders and tars, which folder names the person, see ``naming``.
        unlabelled: whether pictures may show nobody who is named; then no folder names anybody.

    Raises:
        Missing: nothing is there.
        DataError: it is neither a file nor a folder, a file of an unsupported kind, or could be read in two ways.
        ConfigError: a level is given for a source that names people itself, or unlabelled for one that names everybody.
    """
    if not storage.exists(address):
        if shards.is_pattern(address):
            return shards.scan(*shards.matching(address), level, unlabelled)
        raise Missing(f"{address}: there is no such source; give --source a folder of people or a list")
    if storage.is_folder(address):
        files = shards.inside(address)
        return shards.scan(address, files, level, unlabelled) if files else folder.scan(address, level, unlabelled)
    storage.require_file(address)  # others must not be opened
    root, _, file = address.rpartition("/")
    ending = keys.ending(address).lower()
    if ending == ".csv" or (ending == ".parquet" and not parquet.has_images(address)):
        shards.refuse_level(level, address)
        return listing.scan(address, unlabelled)
    if ending == ".bin":
        shards.refuse_level(level, address)
        shards.refuse_unlabelled(unlabelled, address)
        return Source(root, keys.plain(file), [partial(pickled.faces, root, file)])
    return shards.scan(root, [file], level, unlabelled)


def resolve_collisions(
    id_N: np.ndarray, keys_of: Callable[[np.ndarray], list[str]], namespace: str
) -> tuple[dict[int, int], dict[str, int]]:
    """New ids for keys whose unsalted ids collide. The first key in byte order keeps its id; each other key takes the
    next salt whose id is free.

    Only the keys of rows that collide are read, so the ids are all that must fit in memory.

    Args:
        id_N: int64 (N,), the unsalted ids of all rows.
        keys_of: returns the keys of the rows with the given numbers.
        namespace: of the ids.

    Returns:
        {row: id} and {key: salt} of the keys whose salt is not 0.

    Raises:
        DataError: a key occurs twice.
    """
    sorted_N = np.sort(id_N)
    shared = np.unique(sorted_N[1:][sorted_N[1:] == sorted_N[:-1]])
    if not len(shared):
        return {}, {}
    row_M = np.flatnonzero(np.isin(id_N, shared))
    keys = keys_of(row_M)
    repeated = [key for key, count in Counter(keys).items() if count > 1]
    if repeated:
        raise DataError(
            f"the key {repeated[0]!r} and {len(repeated) - 1} more occur twice; rename one, or catalogue the shards "
            f"that repeat keys separately, each with its own --namespace"
        )
    changed: dict[int, int] = {}
    salts: dict[str, int] = {}
    kept: set[int] = set()
    for row, key in sorted(zip(row_M.tolist(), keys), key=lambda pair: pair[1].encode()):
        if id_N[row] not in kept:
            kept.add(int(id_N[row]))
            continue
        salt = 1
        while (number := faces.face_id(namespace, key, salt)) in changed.values() or _contains(sorted_N, number):
            salt += 1
        salts[key], changed[row] = salt, number
    return changed, salts


def seeded_splits(identities: list[str], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """A split for every person, chosen by hash: people keep their split when the corpus grows.

    Raises:
        ConfigError: the shares are not positive or do not add up to 1.
    """
    if min(shares.values(), default=0) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ConfigError(f"shares of splits must be positive and add up to 1, got {dict(shares)}")
    ids_N = np.array([counter.hash63("split", name, 0) for name in identities], dtype=np.int64)
    draw_N = counter.uniform(seed, 0, ids_N, "split", 1)[:, 0]
    edges = np.cumsum(list(shares.values()))
    index_N = np.minimum(np.searchsorted(edges, draw_N, side="right"), len(shares) - 1)
    names = list(shares)
    return {person: names[i] for person, i in zip(identities, index_N)}


def read_splits(address: str) -> dict[str, str]:
    """{identity: split} from a CSV or Parquet table with these two columns; other columns are ignored.

    Identities are in the form in which they are compared, ``naming.compared``.

    Raises:
        DataError: a column or a cell is missing, or a person is in two splits.
        Missing: there is no such file.
    """
    table = tables.read(address)
    if not {"identity", "split"} <= set(table.column_names):
        raise DataError(f"{address} has columns {', '.join(table.column_names)}; expected identity,split")
    table = tables.as_texts(table.select(["identity", "split"]), address)
    for name in table.column_names:
        tables.require(table, name, address)
    out: dict[str, str] = {}
    for row, (person, split) in enumerate(zip(table["identity"].to_pylist(), table["split"].to_pylist()), start=1):
        if (other := out.setdefault(naming.compared(person), split)) != split:
            raise DataError(
                f"{address} row {row}: {person} is in {other} and in {split}; a person must be in one split"
            )
    return out


def to_table(found: list[Found], namespace: str, unlabelled: bool = False) -> pa.Table:
    """Rows of the catalogue in source order, with unsalted ids, which may collide."""
    wanted = schema.UNLABELLED_FACES if unlabelled else schema.FACES
    columns: dict[str, Any] = {field.name: [getattr(f, field.name) for f in found] for field in fields(Found)}
    columns["face_id"] = faces.face_ids(namespace, columns["key"])
    return pa.Table.from_arrays([pa.array(columns[f.name], f.type) for f in wanted], schema=wanted)


def with_splits(table: pa.Table, split_of: Mapping[str, str]) -> pa.Table:
    """The rows with the splits of their people, by their name or by its form ``naming.compared``; where a person has
    none, the row keeps its own split, from a list."""
    people = table["identity"].combine_chunks().dictionary_encode()
    names = people.dictionary.to_pylist()
    given = pa.array([split_of.get(name, split_of.get(naming.compared(name))) for name in names], pa.string())
    place = schema.FACES.get_field_index("split")
    split = pc.coalesce(given.take(people.indices), table["split"].combine_chunks())
    return table.set_column(place, schema.FACES.field(place), split)


def write(
    uri: str, found: Iterable[pa.Table], namespace: str, notes: Notes | None = None, unlabelled: bool = False
) -> dict[str, Any]:
    """Write rows from ``to_table`` into the artefact's folder; at most one part is in memory at a time.

    Args:
        uri: the folder.
        found: the rows.
        namespace: of the ids.
        notes: are told of identities that look alike.
        unlabelled: whether faces may have no name.

    Returns:
        {parts, rows_digest, salts, rows, identities, splits: {name: {rows, identities}}}; in an unlabelled corpus also
        {unnamed}, the number of faces without a name.

    Raises:
        DataError: a key occurs twice, or a person is in two splits.
    """
    digest, census = rows.Digest(), Census()
    ids: list[np.ndarray] = [np.empty(0, np.int64)]

    def while_counting() -> Iterator[pa.Table]:
        for table in digest.over(found):
            ids.append(np.array(table["face_id"]))  # a copy: a view would keep all the other columns in memory
            census.add(table)
            yield table

    columns = schema.UNLABELLED_FACES if unlabelled else schema.FACES
    parts = list(rows.write(uri, while_counting(), columns))
    for stale in set(storage.names(uri)) - {part.name for part in parts}:
        if rows.is_name(stale):  # from an earlier attempt with more faces
            storage.remove(storage.join(uri, stale))
    census.check_splits(rows.read(uri, part, columns) for part in parts)
    if notes is not None:
        notes.alike += census.alike(rows.read(uri, part, columns) for part in parts)
    parts, salts = _resolved(uri, parts, np.concatenate(ids), namespace, columns)
    return {
        "parts": [part.entry for part in parts],
        "rows_digest": digest.hexdigest(),
        "salts": salts,
        **census.summary(),
        **({"unnamed": census.unnamed} if unlabelled else {}),
    }


def _resolved(
    uri: str, parts: list[Part], id_N: np.ndarray, namespace: str, columns: pa.Schema
) -> tuple[list[Part], dict[str, int]]:
    """The parts after ids that collided were replaced, and the salts."""
    edges = np.cumsum([0] + [part.rows for part in parts])

    def keys_of(row_M: np.ndarray) -> list[str]:
        keys: list[str] = []
        for part, first, last in zip(parts, edges, edges[1:]):
            if len(here := row_M[(row_M >= first) & (row_M < last)] - first):
                keys += rows.read(uri, part, columns)["key"].take(here).to_pylist()
        return keys

    changed, salts = resolve_collisions(id_N, keys_of, namespace)
    for number in {int(np.searchsorted(edges, row, side="right")) - 1 for row in changed}:
        table = rows.read(uri, parts[number], columns)
        ids = [changed.get(row, old) for row, old in enumerate(table["face_id"].to_pylist(), start=edges[number])]
        place = schema.FACES.get_field_index("face_id")
        table = table.set_column(place, schema.FACES.field(place), pa.array(ids))
        parts[number] = rows.rewrite(uri, parts[number], table, columns)
    return parts, salts


def _contains(sorted_N: np.ndarray, number: int) -> bool:
    place = np.searchsorted(sorted_N, number)
    return bool(place < len(sorted_N) and sorted_N[place] == number)
