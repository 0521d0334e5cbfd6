"""Tombstones: the faces and people that were erased, so that no catalogue, embedding or index includes them again.

They are in the folder ``tombstones`` beside the Faces artefacts, shared by all Faces of a parent folder:

    key                     what the names of people are hashed with; readable by the account that made it alone
    erased-<sha256>.parquet one file per erasure
    manifest.json           the files that must be there, and a check value of the key: neither is lost without notice

People are kept as keyed hashes of their names, which tell whether a given name was erased but not which names were. A
file may name, as another keyed hash, the request that made it, by which it can be lifted. Removing what is erased from
finished artefacts is left to ``erasing``.

Shape letters: M erased faces, P erased people, N names or faces that are looked up.
"""

import errno
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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import faces, ids, keys, manifest, members, partial, schema
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ArtefactError, ConfigError, Corrupt, Missing, NotReadable, Occupied

FOLDER = KIND = "tombstones"
KEY = "key"
_KEY_BYTES = 32
_REQUEST = b"likeness.request"
"""Key in a list's metadata, whose value is the keyed hash of the request that made it."""
_BEGINNING, _ENDING = "erased-", ".parquet"
COLUMNS = tuple(dict.fromkeys(("face_id", "identity", *keys.NAMED_BY, *members.COLUMNS)))
"""Columns of a catalogue by which its rows are found to be erased."""
_REMEDY = "restore it from a backup"
_TRIES = 100
"""How often the manifest is replaced again when other processes replace it meanwhile."""
_OF_PICTURE = r"([^/])\.[^./]+$"
"""As ``keys.ending``, with the character before it."""
_SLICE = 4096
"""Rows per batch when the other ids of pictures are computed."""


@dataclass(frozen=True)
class Tombstones:
    """Everything that was erased, as of one moment."""

    face_id_M: np.ndarray = field(default_factory=lambda: ids.NONE)
    """int64, sorted"""
    people: frozenset[str] = frozenset()
    """Keyed hashes of (namespace, identity)."""
    key: bytes = b""
    names: tuple[str, ...] = ()
    """The files that were read, each named by its digest."""

    def __bool__(self) -> bool:
        return bool(self.names)

    def knows(self, namespace: str, identity: str) -> bool:
        """Whether a person is erased."""
        return bool(self.people) and _hash(self.key, namespace, identity) in self.people

    @property
    def digest(self) -> str | None:
        """Equal for equal lists; None when nothing was ever erased."""
        return manifest.digest(self.names) if self.names else None

    def erased(self, table: pa.Table, namespace: str, root: str | None = None) -> np.ndarray:
        """bool (N,): which rows of a table with face_id and identity are erased, or show a person who is.

        The id of a picture that has a twin can pass to the twin (see ``keys.of``). So a catalogue's row, with
        ``COLUMNS``, is also erased if another possible id of its picture is: that of its plain key, or of its key with
        the ending. Salted ids are only compared as they are.

        Rows of tars with a plain key do not say how their picture ends. If a key with one of ``keys.SPELLINGS`` is
        erased, the tar is read to see whether it is the picture's. If that cannot be determined, see ``members.names``,
        the row counts as erased. A picture in a tar is missed if it was erased under its key with the ending, has the
        plain key now, and its ending is spelled in yet another way (``.jPg``).

        Args:
            root: the address that a catalogue's ``uri`` is relative to; without it no tar is read.

        Raises:
            OSError: as ``members.names``.
        """
        gone_N = ids.within(table["face_id"].to_numpy(), self.face_id_M)
        if len(self.face_id_M) and set(keys.NAMED_BY) <= set(table.column_names):
            gone_N |= self._had_erased(table, namespace) | self._ends_as_erased(table, namespace, root)
        if self.people:
            identity = table["identity"].combine_chunks().dictionary_encode()
            gone_P = [_hash(self.key, namespace, name) in self.people for name in identity.dictionary.to_pylist()]
            # The last entry is for rows without a name, whose index becomes -1.
            gone_N |= np.array([*gone_P, False], bool)[identity.indices.fill_null(-1).to_numpy()]
        return gone_N

    def _had_erased(self, table: pa.Table, namespace: str) -> np.ndarray:
        """bool (N,): whether the row's picture, by its path, would have an erased id if it had other twins."""
        erased_N = np.zeros(table.num_rows, bool)
        # Of most rows, those of a file without twins, the other keys are the uri, and the uri with a slash.
        stem = pc.replace_substring_regex(table["uri"], _OF_PICTURE, r"\1")
        file = pc.and_(pc.equal(table["kind"], "file"), pc.not_equal(stem, table["uri"]))
        file_n = np.flatnonzero(pc.and_(file, pc.equal(stem, table["key"])).to_numpy())
        for first in range(0, len(file_n), _SLICE):
            at_n = file_n[first : first + _SLICE]
            id_nE = faces.face_ids_with(namespace, table["uri"].take(at_n).to_pylist(), ("", "/"))
            erased_N[at_n] = ids.within(id_nE.ravel(), self.face_id_M).reshape(id_nE.shape).any(axis=1)
        other_n = np.setdiff1d(np.arange(table.num_rows), file_n, assume_unique=True)
        erased_N[other_n] = self._had_erased_slowly(table.select(keys.NAMED_BY).take(other_n), namespace)
        return erased_N

    def _had_erased_slowly(self, table: pa.Table, namespace: str) -> np.ndarray:
        """The same, for rows of any kind."""
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
    """The address of the tombstones of a Faces artefact: the folder ``tombstones`` in its parent folder."""
    return storage.join(storage.absolute(faces).rpartition("/")[0], FOLDER)


def existing(folder: str) -> str:
    """The address of a folder of tombstones that the user named, which must exist.

    Raises:
        Missing: the folder does not exist, or it holds something else.
    """
    address = storage.absolute(folder)
    if not storage.exists(address):
        raise Missing(
            f"{address}: there is no such folder of tombstones, so erased faces would not be left out; correct the "
            f"address, mount its storage, or omit --tombstones if nothing was erased yet"
        )
    inside = storage.names(address)
    if inside and KEY not in inside:
        raise Missing(
            f"{address} holds {', '.join(inside[:3])} and no {KEY}, so it is not a folder of "
            f"tombstones; correct the address, or restore {KEY} from a backup"
        )
    return address


def of(faces: str, folder: str | None) -> Tombstones:
    """What was erased from a Faces artefact: the tombstones in ``folder`` if given, else those beside it. Raises as
    ``existing`` and ``read``."""
    return read(existing(folder) if folder else beside(faces))


def read(uri: str) -> Tombstones:
    """What was erased so far; nothing if the folder does not exist.

    Raises:
        Corrupt: the sha256 of a file is not the one in its name, a file that the manifest lists is gone, the key is
            another one, or a link leads out of the folder.
        Missing: the key is missing, without which no name can be looked up.
        NotReadable: this account may not see what was erased.
    """
    try:
        return _read_all(uri)
    except PermissionError as error:
        raise NotReadable(
            f"{error.filename or uri}: this account may not read what was erased, so erased faces would not be left "
            f"out; run the job as the account that owns {uri}"
        ) from error


def _read_all(uri: str) -> Tombstones:
    if storage.is_local(uri) and os.path.lexists(uri) and not os.access(uri, os.R_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), uri)  # else it would count as empty
    manifest.require_own(uri)
    listed = _listed(uri)  # before the files: who adds one meanwhile writes its file first
    names = _names(uri)
    if not names and not listed:
        return Tombstones()
    key = _key(uri, listed)
    if lost := sorted(set(listed.content["lists"] if listed else ()) - set(names)):
        raise Corrupt(
            f"{uri}: {len(lost)} lists of what was erased are gone, {lost[0]} among them, so what they list would be "
            f"found again; restore them from a backup"
        )
    tables = [_read(uri, name) for name in names]
    face_ids = [table["face_id"].drop_null().to_numpy() for table in tables]
    people = frozenset(hash for table in tables for hash in table["identity"].drop_null().to_pylist())
    return Tombstones(np.unique(np.concatenate([ids.NONE, *face_ids])), people, key, names)


def prepare(uri: str) -> bytes:
    """The key, which is made if nothing was erased yet. Raises as ``read``."""
    if not _names(uri) and not _listed(uri):
        storage.create_if_absent(storage.join(uri, KEY), os.urandom(_KEY_BYTES), private=True)
    return _key(uri, _listed(uri))


def add(
    uri: str, namespace: str, *, face_ids: Iterable[int] = (), identities: Iterable[str] = (), request: str = ""
) -> Tombstones:
    """Erase faces, and people with all their present and future pictures in ``namespace``.

    Each call writes its own file, named by its content: concurrent calls do not affect each other, and repeating a call
    changes nothing.

    Args:
        uri: the folder of tombstones.
        namespace: of the faces.
        face_ids: of the faces.
        identities: names of the people.
        request: keyed hash of what was asked for, to find the file by; see ``lists_of``.

    Returns:
        Everything that is erased now.

    Raises:
        Corrupt, Missing: as ``read``; nothing is added to what is damaged.
    """
    prepare(uri)
    read(uri)
    key = _key(uri, _listed(uri))
    hashes = sorted({_hash(key, namespace, name) for name in identities})
    numbers = sorted(set(face_ids))
    if numbers or hashes:
        columns = [[*numbers, *([None] * len(hashes))], [*([None] * len(numbers)), *hashes]]
        table = pa.table(dict(zip(("face_id", "identity"), columns)), schema.TOMBSTONES)
        sink = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({_REQUEST: request}) if request else table, sink)
        data = sink.getvalue()
        name = f"{_BEGINNING}{hashlib.sha256(data).hexdigest()}{_ENDING}"
        storage.create_if_absent(storage.join(uri, name), data)
    _list(uri, key)
    return read(uri)


def keyed(key: bytes, value: Any) -> str:
    """HMAC-SHA256 of a value's canonical JSON, in hexadecimal digits: who has no key learns nothing from it."""
    return hmac.digest(key, manifest.canonical(value), "sha256").hex()


def person(key: bytes, namespace: str, identity: str) -> str:
    """The keyed hash of a person, as lists have it."""
    return _hash(key, namespace, identity)


def lists_of(uri: str, request: str) -> dict[str, pa.Table]:
    """The files that a request made, by name, each with columns face_id and identity. Raises as ``read``."""
    tables = {name: _read(uri, name) for name in _names(uri)}
    return {
        name: table
        for name, table in tables.items()
        if (table.schema.metadata or {}).get(_REQUEST, b"").decode(errors="replace") == request
    }


def check_value(uri: str) -> str:
    """Tells which tombstones these are; the key does not follow from it. Raises as ``read``."""
    return _check_value(_key(uri, _listed(uri)))


def lift(uri: str, names: Iterable[str]) -> int:
    """Take back some of the files, so that who is in no other one can be catalogued and embedded again. Killed and
    called again, it completes.

    Args:
        uri: the folder of tombstones.
        names: of the files; those that are not there were lifted before.

    Returns:
        The number of files that were lifted now.

    Raises:
        Corrupt, Missing: as ``read``; nothing is lifted from what is damaged.
        ArtefactError: other jobs erase all the time.
    """
    lifted = set(names)
    there = lifted & set(_names(uri))
    if not there:
        return 0
    read(uri)
    for _ in range(_TRIES):
        before = _listed(uri)
        left = sorted(set(before.content["lists"]) - lifted) if before else []
        try:
            if before and left != before.content["lists"]:
                manifest.replace(before, before.content | {"lists": left}, {})
            break
        except Occupied:  # another process lists its own
            continue
    else:
        raise ArtefactError(f"{uri}/{manifest.NAME} keeps changing because other jobs erase all the time; lift again")
    for name in sorted(there):  # last: until then they are honoured, and the next call lifts them
        storage.remove(storage.join(uri, name))
    return len(there)


def _names(uri: str) -> tuple[str, ...]:
    """The files of what was erased."""
    return tuple(n for n in storage.names(uri) if n.startswith(_BEGINNING) and n.endswith(_ENDING))


def _listed(uri: str) -> Manifest | None:
    """The manifest; None where older versions of Likeness wrote none. Raises Corrupt."""
    if not storage.exists(storage.join(uri, manifest.NAME)):
        return None
    found = manifest.read(uri, KIND)
    if not isinstance(found.content.get("lists"), list) or not isinstance(found.content.get("key"), str):
        raise Corrupt(f"{uri}/{manifest.NAME} does not list what was erased; restore it from a backup")
    return found


def _key(uri: str, listed: Manifest | None) -> bytes:
    """The key, if it is the one that names were hashed with. Raises Missing or Corrupt."""
    address = storage.join(uri, KEY)
    if not storage.exists(address):
        raise Missing(
            f"{uri} has no file {KEY}: erased people cannot be recognised without it; restore it from a backup"
        )
    key = storage.read_bytes(address)
    storage.make_private(address)  # under older versions of Likeness, others could read it
    if len(key) != _KEY_BYTES or (listed and listed.content["key"] != _check_value(key)):
        raise Corrupt(
            f"{address} is not the key that the names of erased people were hashed with, so they would not be "
            f"recognised; restore it from a backup"
        )
    return key


def _list(uri: str, key: bytes) -> None:
    """Add the files that are there to the manifest; what it lists already stays listed."""
    for _ in range(_TRIES):
        before, names = _listed(uri), set(_names(uri))
        content = {"key": _check_value(key), "lists": sorted(names.union(before.content["lists"] if before else ()))}
        try:
            if not before:
                if names:
                    manifest.write(uri, KIND, content, {})
                return
            if content != before.content:
                manifest.replace(before, content, {})
            return
        except Occupied:  # another process lists its own
            continue
        except ConfigError:  # a store without conditional writes: a list that another process adds now stays unlisted
            storage.write_bytes(storage.join(uri, manifest.NAME), manifest.body(Manifest.of(uri, KIND, content, {})))
            return
    raise ArtefactError(f"{uri}/{manifest.NAME} keeps changing because other jobs erase all the time; erase again")


def _check_value(key: bytes) -> str:
    """Tells whether a key is the same; the key does not follow from it."""
    return hashlib.sha256(b"likeness-tombstones\0" + key).hexdigest()


def _read(uri: str, name: str) -> pa.Table:
    address = storage.join(uri, name)
    data = storage.read_bytes(address)
    if name != f"{_BEGINNING}{hashlib.sha256(data).hexdigest()}{_ENDING}":
        raise Corrupt(f"{address}: its sha256 is not the one in its name; {_REMEDY}")
    with partial.parsed(address, _REMEDY):
        return schema.check(pq.read_table(io.BytesIO(data)), schema.TOMBSTONES, address)


def _hash(key: bytes, namespace: str, identity: str) -> str:
    return hmac.digest(key, f"{namespace}\0{identity}".encode(), "sha256").hex()
