"""Tombstones: the faces and people that were erased, so that no catalogue, embedding or index takes them in again.

They are a folder beside the Faces artefacts, ``tombstones``, that all Faces of one parent folder share, with a file for
each erasure. People are kept as keyed hashes of their names: the list says of a name whether it was erased, but not
which names were. Taking vectors out of what is finished already is left to other jobs.

Shape letters: M erased faces, P erased people, N names or faces that are looked up.
"""

import hashlib
import hmac
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import faces, ids, keys, manifest, members, schema
from metric_core.errors import Corrupt, Missing

FOLDER = "tombstones"
KEY = "key"
_BEGINNING, _ENDING = "erased-", ".parquet"
COLUMNS = tuple(dict.fromkeys(("face_id", "identity", *keys.NAMED_BY, *members.COLUMNS)))
"""Columns of a catalogue by which its rows are found to be erased."""
_SLICE = 4096
"""Rows whose other ids are computed at once."""


@dataclass(frozen=True)
class Tombstones:
    """Everything that was erased, as of one moment."""

    face_id_M: np.ndarray = field(default_factory=lambda: ids.NONE)
    """int64, sorted"""
    people: frozenset[str] = frozenset()
    """Keyed hashes of (namespace, identity)."""
    key: bytes = b""
    names: tuple[str, ...] = ()
    """The files they were read from, each named by its digest."""

    def __bool__(self) -> bool:
        return bool(self.names)

    @property
    def digest(self) -> str | None:
        """Equal for equal lists; None when nothing was ever erased."""
        return manifest.digest(self.names) if self.names else None

    def erased(self, table: pa.Table, namespace: str, root: str | None = None) -> np.ndarray:
        """bool (N,): which rows of a table with face_id and identity are erased, or show somebody who is.

        The id of a picture that has a twin can pass to the twin (see ``keys.of``). Of a catalogue's rows, with
        ``COLUMNS``, all are therefore erased whose picture has, has had or will have an erased id: that of its plain
        key, or of its key with the ending. Salted ids are compared as they are.

        Rows of tars with a plain key do not say how their picture ends. If a key with one of ``keys.SPELLINGS`` is
        erased, the tar is asked whether that is the picture's; the row counts as erased when that cannot be found out
        (see ``members.names``). Missed is a picture in a tar that was erased under its key with the ending and has the
        plain key now, if its ending is spelled in yet another way (``.jPg``).

        Args:
            root: the address that a catalogue's ``uri`` is relative to; without it no tar is asked.

        Raises:
            OSError: as ``members.names``.
        """
        gone_N = ids.within(table["face_id"].to_numpy(), self.face_id_M)
        if len(self.face_id_M) and set(keys.NAMED_BY) <= set(table.column_names):
            gone_N |= self._had_erased(table, namespace) | self._ends_as_erased(table, namespace, root)
        if self.people:
            identity = table["identity"].combine_chunks().dictionary_encode()
            gone_P = [_hash(self.key, namespace, name) in self.people for name in identity.dictionary.to_pylist()]
            gone_N |= np.array(gone_P, bool)[identity.indices.to_numpy()]
        return gone_N

    def _had_erased(self, table: pa.Table, namespace: str) -> np.ndarray:
        """bool (N,): whose picture, by the path that the row says, has an erased id when other twins are there."""
        erased_N = np.zeros(table.num_rows, bool)
        for first in range(0, table.num_rows, _SLICE):
            rows = zip(*(table[name].slice(first, _SLICE).to_pylist() for name in keys.NAMED_BY))
            others = [keys.others(*row) for row in rows]
            row_n = np.repeat(np.arange(first, first + len(others)), [len(words) for words in others])
            erased_N[row_n[ids.within(faces.face_ids(namespace, chain.from_iterable(others)), self.face_id_M)]] = True
        return erased_N

    def _ends_as_erased(self, table: pa.Table, namespace: str, root: str | None) -> np.ndarray:
        """bool (N,): whose picture, by its name in the tar, has an erased id when other twins are there."""
        suspects: list[tuple[int, str]] = []
        for first in range(0, table.num_rows, _SLICE):
            rows = zip(*(table[name].slice(first, _SLICE).to_pylist() for name in ("key", "kind")))
            hidden = {first + n: key for n, (key, kind) in enumerate(rows) if keys.hides_ending(key, kind)}
            id_NE = faces.face_ids_with(namespace, list(hidden.values()), keys.SPELLINGS)
            hit_n = np.flatnonzero(ids.within(id_NE.ravel(), self.face_id_M))
            at = list(hidden)
            for row, spelling in zip(*np.unravel_index(hit_n, id_NE.shape)):
                suspects.append((at[row], hidden[at[row]] + keys.SPELLINGS[spelling]))
        paths: list[str | None] = [None] * len(suspects)
        if root is not None and suspects:
            paths = members.names(root, table.select(members.COLUMNS).take([row for row, _ in suspects]).to_pylist())
        erased_N = np.zeros(table.num_rows, bool)
        erased_N[[row for (row, path), found in zip(suspects, paths) if found in (None, path)]] = True
        return erased_N


def beside(faces: str) -> str:
    """Where the tombstones of a Faces artefact are: the folder ``tombstones`` in its own parent folder."""
    return storage.join(storage.absolute(faces).rpartition("/")[0], FOLDER)


def named(folder: str) -> str:
    """The address of tombstones that somebody asks for by name, which an absent folder does not have.

    Raises:
        Missing: no such folder is there, or it holds something else.
    """
    address = storage.absolute(folder)
    if not storage.exists(address):
        raise Missing(
            f"{address}: there is no such folder of tombstones, and nothing would be left out as erased; mend the "
            f"address, mount what it is on, or leave --tombstones out if nothing was erased yet"
        )
    inside = storage.names(address)
    if inside and KEY not in inside:
        raise Missing(
            f"{address} holds {', '.join(inside[:3])} and no {KEY}: no folder of tombstones, and nothing would be "
            f"left out as erased; mend the address, or restore {KEY} from a backup"
        )
    return address


def of(faces: str, folder: str | None) -> Tombstones:
    """What was erased from a Faces artefact, by the tombstones ``folder``, else by those beside it. Raises as ``named``
    and ``read``."""
    return read(named(folder) if folder else beside(faces))


def read(uri: str) -> Tombstones:
    """What was erased so far; an absent folder has nothing.

    Raises:
        Corrupt: a file is not what its name says.
        Missing: the key is gone, without which no name can be looked up.
    """
    names = tuple(n for n in storage.names(uri) if n.startswith(_BEGINNING) and n.endswith(_ENDING))
    if not names:
        return Tombstones()
    if not storage.exists(storage.join(uri, KEY)):
        raise Missing(f"{uri} has no file {KEY}: who was erased cannot be told without it; restore it from a backup")
    tables = [_read(uri, name) for name in names]
    face_ids = [table["face_id"].drop_null().to_numpy() for table in tables]
    people = frozenset(hash for table in tables for hash in table["identity"].drop_null().to_pylist())
    return Tombstones(np.unique(np.concatenate(face_ids)), people, storage.read_bytes(storage.join(uri, KEY)), names)


def add(uri: str, namespace: str, *, face_ids: Iterable[int] = (), identities: Iterable[str] = ()) -> Tombstones:
    """Erase faces, and people with every picture they have or will have in ``namespace``.

    Each call writes a file of its own, named by its content: calls at the same time do not disturb each other, and the
    same call again changes nothing.

    Returns:
        Everything that is erased now.
    """
    storage.create_if_absent(storage.join(uri, KEY), os.urandom(32))
    key = storage.read_bytes(storage.join(uri, KEY))
    hashes = sorted({_hash(key, namespace, name) for name in identities})
    rows: list[dict[str, Any]] = [{"face_id": number, "identity": None} for number in sorted(set(face_ids))]
    rows += [{"face_id": None, "identity": hash} for hash in hashes]
    if rows:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema.TOMBSTONES), sink)
        data = sink.getvalue()
        name = f"{_BEGINNING}{hashlib.sha256(data).hexdigest()}{_ENDING}"
        storage.create_if_absent(storage.join(uri, name), data)
    return read(uri)


def _read(uri: str, name: str) -> pa.Table:
    address = storage.join(uri, name)
    data = storage.read_bytes(address)
    if name != f"{_BEGINNING}{hashlib.sha256(data).hexdigest()}{_ENDING}":
        raise Corrupt(f"{address}: its sha256 is not the one in its name; restore it from a backup")
    return schema.check(pq.read_table(io.BytesIO(data)), schema.TOMBSTONES, address)


def _hash(key: bytes, namespace: str, identity: str) -> str:
    return hmac.new(key, f"{namespace}\0{identity}".encode(), hashlib.sha256).hexdigest()
