"""Whom a command asks to erase, and which faces of the artefacts those are.

Nothing is written here. Shape letters: M sorted ids, N rows.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core import storage
from metric_core.artefacts import faces as face_ids
from metric_core.artefacts import ids, keys, matches, members
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.artefacts.manifest import Manifest
from metric_core.artefacts.tombstones import COLUMNS, Tombstones
from metric_core.errors import ConfigError, DataError
from metric_core.sources import naming, tables
from workflows.erase.config import EraseConfig

_ENDING = r"\.[^./]+/?$"
"""Roughly what ``keys`` takes for an ending, to find rows that may be twins."""
_NAMED = 20
"""Missing names and ids that a message lists."""


@dataclass(frozen=True)
class Asked:
    """The people and faces that a command names."""

    names: tuple[str, ...]
    """Sorted, in the form in which they are compared."""
    face_id_M: np.ndarray
    """int64, sorted"""

    @classmethod
    def of(cls, config: EraseConfig) -> "Asked":
        """From the options and the file that they name.

        Raises:
            DataError: the file is no such list.
            Missing: there is no such file.
        """
        names, numbers = set(map(naming.compared, config.identity)), set(config.face_id)
        if config.list:
            more_names, more_numbers = _listed(storage.absolute(config.list))
            names, numbers = names | more_names, numbers | more_numbers
        return cls(tuple(sorted(names)), np.array(sorted(numbers), np.int64))

    def shown_by(self, identity: pa.ChunkedArray) -> np.ndarray:
        """bool (N,): which rows have one of the names."""
        if not self.names:
            return np.zeros(len(identity), bool)
        wanted, coded = set(self.names), identity.combine_chunks().dictionary_encode()
        # The last entry is for rows without a name, whose index becomes -1.
        named_P = [*(naming.compared(name) in wanted for name in coded.dictionary.to_pylist()), False]
        shown_N: np.ndarray = np.array(named_P, bool)[coded.indices.fill_null(-1).to_numpy()]
        return shown_N


@dataclass
class Resolved:
    """What was found of whom a command names."""

    found: list[np.ndarray] = field(default_factory=lambda: [ids.NONE])
    """Ids of faces that there are, and others that their pictures could have."""
    there: list[np.ndarray] = field(default_factory=lambda: [ids.NONE])
    """Ids of faces that there are."""
    spellings: set[str] = field(default_factory=set)
    """Names as they are stored."""
    keys: set[str] = field(default_factory=set)
    """Keys and addresses of pictures, each in a file of its own."""
    twins: int = 0
    """Pictures that are erased only because another one was named that differs in the ending."""
    left: int = 0
    """Rows of the catalogue that would stay."""

    @property
    def face_id_M(self) -> np.ndarray:
        """int64, sorted: every id to erase."""
        return np.unique(np.concatenate(self.found))

    def take(self, identity: Iterable[str | None], there_N: np.ndarray) -> None:
        """Note rows with these names and ids."""
        self.spellings |= {name for name in identity if name is not None}
        self.found.append(there_N)
        self.there.append(there_N)

    def missing(self, asked: Asked, before: Tombstones, namespace: str) -> list[str]:
        """The names and ids that are nowhere, and were not erased before either."""
        known = {naming.compared(name) for name in self.spellings}
        names = [name for name in asked.names if name not in known and not before.knows(namespace, name)]
        there_M = np.unique(np.concatenate([*self.there, before.face_id_M]))
        numbers = asked.face_id_M[~ids.within(asked.face_id_M, there_M)]
        return [*map(repr, names), *map(str, numbers.tolist())]


def resolve(
    asked: Asked, faces: Faces, embeddings: Sequence[Embeddings], searches: Sequence[Manifest], before: Tombstones
) -> Resolved:
    """Find the faces in the catalogue, with their twins, and in what was made of it; also those that were erased
    ``before`` and are still in it.

    Raises:
        DataError: somebody is not there; the message lists everybody who is not.
        Corrupt: an artefact is damaged.
    """
    out = Resolved()
    _in_catalogue(asked, faces, out)
    for source in embeddings:
        for table in source.iter_columns(["face_id", "identity"]):
            hit_N = asked.shown_by(table["identity"]) | before.erased(table, faces.namespace)
            hit_N |= ids.within(table["face_id"].to_numpy(), asked.face_id_M)
            _take(out, asked, table, hit_N)
        for table in source.iter_tags() if len(asked.face_id_M) else ():
            id_N = table["face_id"].to_numpy()
            out.there.append(id_N[ids.within(id_N, asked.face_id_M)])
    for one in searches:
        table = matches.read(one)
        hit_N = asked.shown_by(table["identity"]) | ids.within(table["face_id"].to_numpy(), asked.face_id_M)
        _take(out, asked, table, hit_N)
    if missing := out.missing(asked, before, faces.namespace):
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise DataError(
            f"{faces.uri}: {len(missing)} of those to erase are not there, nor in the other artefacts: "
            f"{', '.join(missing[:_NAMED])}{more}; nothing was erased; names are compared letter by letter"
        )
    out.found.append(asked.face_id_M)
    return out


def spellings(names: Iterable[str]) -> set[str]:
    """Names as they are, and in Unicode's two canonical forms: a source may have another one next time."""
    return {form for name in names for form in (name, *(unicodedata.normalize(how, name) for how in ("NFC", "NFD")))}


def other_ids(faces: Faces, table: pa.Table) -> np.ndarray:
    """int64: the ids that pictures of the catalogue would have if twins were added to them or removed.

    Args:
        faces: the catalogue.
        table: rows of it, with ``tombstones.COLUMNS``.

    Raises:
        OSError: as ``members.names``.
    """
    found = [ids.NONE]
    named = list(zip(*(table[name].to_pylist() for name in keys.NAMED_BY)))
    found.append(face_ids.face_ids(faces.namespace, [other for row in named for other in keys.others(*row)]))
    hidden = [n for n, (key, kind, _) in enumerate(named) if keys.hides_ending(key, kind)]
    paths = members.names(faces.root, table.select(members.COLUMNS).take(hidden).to_pylist()) if hidden else []
    known = [path for path in paths if path is not None]
    found.append(face_ids.face_ids(faces.namespace, [form for path in known for form in (path, f"{path}/")]))
    if unknown := [named[n][0] for n, path in zip(hidden, paths) if path is None]:
        found.append(face_ids.face_ids_with(faces.namespace, unknown, keys.SPELLINGS).ravel())
    return np.concatenate(found)


def still_erased(faces: Faces, erased: Tombstones) -> tuple[np.ndarray, pa.Table]:
    """The catalogue's rows that the next catalogue would leave out: int64, their sorted ids; and the rows.

    Raises:
        OSError: as ``members.names``.
    """
    found = [faces.columns(COLUMNS).empty_table()]
    for table in faces.iter_columns(COLUMNS):
        found.append(table.filter(erased.erased(table, faces.namespace, faces.root)))
    whole = pa.concat_tables(found)
    return np.unique(whole["face_id"].to_numpy()), whole


def require_bases(embeddings: Sequence[Embeddings]) -> None:
    """Check that no delta is erased from without what it is a delta of: the faces would come out from below it.

    Raises:
        ConfigError: with the addresses that are missing.
    """
    given = {source.manifest.content["plan_id"] for source in embeddings}
    problems = []
    for source in embeddings:
        noted = source.manifest.provenance.get("since")
        for plan_id, uri in zip(source.since, noted if isinstance(noted, list) else ()):
            if plan_id not in given and storage.exists(str(uri)):
                problems.append(
                    f"embeddings: {source.manifest.uri} is a delta of {uri}, in which the same people would stay; "
                    f"give --embeddings {uri} as well"
                )
    if problems:
        raise ConfigError.of(problems)


def _in_catalogue(asked: Asked, faces: Faces, out: Resolved) -> None:
    """Find the rows that are named, and their twins."""
    hits, plain = [], set()
    for table in faces.iter_columns(COLUMNS):
        hit_N = asked.shown_by(table["identity"]) | ids.within(table["face_id"].to_numpy(), asked.face_id_M)
        out.left += table.num_rows - int(hit_N.sum())
        named = table.filter(hit_N)
        out.spellings |= set(named["identity"].filter(asked.shown_by(named["identity"])).to_pylist())
        plain |= set(filter(None, map(_plain, *(named[name].to_pylist() for name in keys.NAMED_BY))))
        hits.append(named)
    hit_M = np.unique(np.concatenate([ids.NONE, *(table["face_id"].to_numpy() for table in hits)]))
    twins = list(_twins(faces, plain, hit_M)) if plain else []
    for table in [*hits, *twins]:
        out.take((), table["face_id"].to_numpy())
        out.found.append(other_ids(faces, table))
    out.twins = sum(table.num_rows for table in twins)
    out.left -= out.twins


def _twins(faces: Faces, plain: set[str], hit_M: np.ndarray) -> Iterator[pa.Table]:
    """Rows, other than those found, of pictures that differ from them in the ending only."""
    wanted = pa.array(sorted(plain), pa.string())
    for table in faces.iter_columns(COLUMNS):
        key = table["key"]
        stem = pc.replace_substring_regex(key, _ENDING, "")
        near_N = pc.or_(pc.is_in(key, value_set=wanted), pc.is_in(stem, value_set=wanted)).to_numpy()
        near = table.filter(near_N & ~ids.within(table["face_id"].to_numpy(), hit_M))
        twin = [_plain(*row) in plain for row in zip(*(near[name].to_pylist() for name in keys.NAMED_BY))]
        if any(twin):
            yield near.filter(pa.array(twin))


def _plain(key: str, kind: str, uri: str) -> str | None:
    """The key that a picture has if it has no twins; None if its key was not made of its path."""
    if keys.hides_ending(key, kind):
        return key
    return keys.plain_of_twin(key, kind, uri) or (key if keys.others(key, kind, uri) else None)


def _take(out: Resolved, asked: Asked, table: pa.Table, hit_N: np.ndarray) -> None:
    some = table.filter(hit_N)
    out.take(some["identity"].filter(asked.shown_by(some["identity"])).to_pylist(), some["face_id"].to_numpy())


def _listed(address: str) -> tuple[set[str], set[int]]:
    """The names and the ids in a list. Raises DataError or Missing."""
    table = tables.read(address)
    there = [name for name in ("identity", "face_id") if name in table.column_names]
    if not there:
        raise DataError(f"{address} has columns {', '.join(table.column_names)}; expected identity, face_id or both")
    texts = tables.as_texts(table.select(there), address)
    columns = {name: [text for text in texts[name].to_pylist() if text] for name in there}
    numbers = columns.get("face_id", [])
    wrong = [text for text in numbers if not (text.isdecimal() and int(text) < 1 << 63)]
    if wrong:
        raise DataError(f"{address}: {len(wrong)} face_ids are no numbers of faces, the first is {wrong[0]!r}")
    return set(map(naming.compared, columns.get("identity", []))), set(map(int, numbers))
