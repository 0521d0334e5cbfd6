"""Looks for erased people in what is stored of an artefact: every file in its folder is read and decoded, whether a
manifest lists it or not. Before an erasure the same scan finds everybody, afterwards nobody.

    Parquet   every column of whole numbers for face_ids, columns of names, keys, addresses and queries for theirs,
              vectors for those of erased faces, the file's metadata for face_ids
    JSON      every number for face_ids, salts for keys, conditions and recorded command lines for names

Nothing else here is used to remove anything. Shape letters: M erased faces, N rows, D components.
"""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import ids, partial
from metric_core.artefacts.erasing import Target

_REMEDY = "restore it from a copy, or remove it"
_NUMBER = re.compile(rb"(?<![\w.])\d{1,19}(?![\w.])")
_GROUPS = 16
"""Row groups without vectors that are looked at together: what is looked for is sorted out anew for each look."""
_PREFIX = 8
"""Bytes of a vector that are compared before the vector is hashed."""


@dataclass
class Found:
    """What a scan found."""

    places: Counter[str] = field(default_factory=Counter)
    """Occurrences, by the kind of file and the column that they are in."""
    face_id_M: np.ndarray = field(default_factory=lambda: ids.NONE)
    """int64, sorted: the erased faces that were found."""
    vectors: dict[bytes, set[bytes]] = field(default_factory=dict)
    """Digests of the erased faces' vectors, by their first bytes."""
    copies_M: np.ndarray = field(default_factory=lambda: ids.NONE)
    """int64, sorted: faces that are not erased and have exactly the vector of one that is, as copies of a picture
    do."""
    files: int = 0
    bytes: int = 0
    undecoded: int = 0
    """Files that are neither Parquet nor JSON; there should be none."""

    @property
    def total(self) -> int:
        """Occurrences in all."""
        return self.places.total()

    def figures(self) -> dict[str, Any]:
        """As receipts have them: {occurrences, faces, places, copies, files, bytes, undecoded}."""
        return {
            "occurrences": self.total,
            "faces": len(self.face_id_M),
            "places": dict(sorted(self.places.items())),
            "copies": len(self.copies_M),
            "files": self.files,
            "bytes": self.bytes,
            "undecoded": self.undecoded,
        }


@dataclass(frozen=True)
class _Known:
    """Vectors that are looked for in rows of other faces."""

    vectors: dict[bytes, set[bytes]]
    """as ``Found.vectors``"""
    first_M: np.ndarray
    """int64, sorted: their first bytes"""

    @classmethod
    def of(cls, vectors: dict[bytes, set[bytes]]) -> "_Known":
        first = b"".join(first.ljust(_PREFIX, b"\0") for first in vectors)
        return cls(vectors, np.unique(np.frombuffer(first, np.int64)))


def scan(uri: str, target: Target, vectors: dict[bytes, set[bytes]] | None = None) -> Found:
    """Look for everybody in ``target`` in every file below a folder.

    Args:
        uri: the artefact.
        target: whom to look for.
        vectors: ``Found.vectors`` of earlier scans, which are looked for in rows of other faces.

    Raises:
        Corrupt: a file cannot be decoded.
    """
    found, known = Found(), _Known.of(vectors or {})
    names = sorted(name for name, tag in storage.walk(uri) if tag)
    for name, data in partial.ahead(lambda name: (name, storage.read_bytes(storage.join(uri, name))), names):
        found.files, found.bytes = found.files + 1, found.bytes + len(data)
        if name.endswith(".parquet"):
            with partial.parsed(storage.join(uri, name), _REMEDY):
                _parquet(data, _kind(name), target, known, found)
        elif name.endswith(".json"):
            _json(data, _kind(name), target, found)
        else:
            found.undecoded += 1
    found.face_id_M, found.copies_M = np.unique(found.face_id_M), np.unique(found.copies_M)
    return found


def _kind(name: str) -> str:
    """``tags/part`` of ``tags/part-000042.g2.parquet``."""
    return re.sub(r"(-?\d+)*(\.g\d+)?\.(parquet|json)$", "", name)


def _parquet(data: bytes, kind: str, target: Target, known: _Known, found: Found) -> None:
    file = pq.ParquetFile(io.BytesIO(data))
    for key, text in (file.metadata.metadata or {}).items():
        if key != b"ARROW:schema":
            _numbers(text, f"{kind}: metadata", target, found)
    vectors = any(pa.types.is_fixed_size_list(column.type) for column in file.schema_arrow)
    step = 1 if vectors else _GROUPS
    for first in range(0, file.num_row_groups, step):
        table = file.read_row_groups([*range(first, min(first + step, file.num_row_groups))], use_threads=False)
        own_N = target.has(table["face_id"].to_numpy()) if "face_id" in table.column_names else None
        for column in table.schema:
            hit_N = _column(table[column.name].combine_chunks(), column, target)
            if hit_N is not None and hit_N.any():
                found.places[f"{kind}: {column.name}"] += int(hit_N.sum())
                if pa.types.is_int64(column.type):
                    numbers_N = table[column.name].fill_null(-1).to_numpy()
                    found.face_id_M = np.append(found.face_id_M, numbers_N[hit_N])
            if own_N is not None and len(own_N) and pa.types.is_fixed_size_list(column.type):
                _vectors(table, column, own_N, known, found)


def _column(values: pa.Array, column: pa.Field, target: Target) -> np.ndarray | None:
    """bool (N,): where a column has what is looked for; None for a column of something else."""
    if pa.types.is_int64(column.type):
        return target.has(values.fill_null(-1).to_numpy(zero_copy_only=False))
    words = {"identity": target.names, "key": target.pictures, "uri": target.pictures, "query": target.queries}
    wanted = words.get(column.name)
    if wanted is None or not pa.types.is_string(column.type):
        return None
    hit_N: np.ndarray = pc.is_in(values, value_set=wanted).fill_null(False).to_numpy(zero_copy_only=False)
    return hit_N


def _vectors(table: pa.Table, column: pa.Field, own_N: np.ndarray, known: _Known, found: Found) -> None:
    """Take the vectors of erased faces, and compare those of others with the ones that were taken before."""
    flat = table[column.name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    row_ND = np.ascontiguousarray(flat.reshape(len(own_N), column.type.list_size))
    byte_NB = row_ND.view(np.uint8).reshape(len(own_N), -1)
    for row in np.flatnonzero(own_N):
        data = byte_NB[row].tobytes()
        found.vectors.setdefault(data[:_PREFIX], set()).add(_digest(data))
    if not len(known.first_M):
        return
    width = min(_PREFIX, byte_NB.shape[1])
    first_NB = np.zeros((len(byte_NB), _PREFIX), np.uint8)
    first_NB[:, :width] = byte_NB[:, :width]
    near_n = np.flatnonzero(ids.within(first_NB.view(np.int64).ravel(), known.first_M) & ~own_N)
    id_N = table["face_id"].to_numpy()
    same = [row for row in near_n if _digest(data := byte_NB[row].tobytes()) in known.vectors.get(data[:_PREFIX], ())]
    found.copies_M = np.append(found.copies_M, id_N[same])


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _json(data: bytes, kind: str, target: Target, found: Found) -> None:
    """A file that is no JSON is scanned for numbers only: an unfinished artefact may have damaged records."""
    _numbers(data, f"{kind}: numbers", target, found)
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        found.undecoded += 1
        return
    for name, value in _fields(body):
        if name == "salts" and isinstance(value, dict):
            found.places[f"{kind}: salts"] += len(target.keys & value.keys())
        elif name == "identities" and isinstance(value, list):
            found.places[f"{kind}: identities"] += sum(str(one) in target.identities for one in value)
        elif name == "command" and isinstance(value, str):
            found.places[f"{kind}: command"] += target.without_words(value) != value
    found.places += Counter()  # without the zeros


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Every field of an object, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name, inner
            yield from _fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner)


def _numbers(data: bytes, place: str, target: Target, found: Found) -> None:
    number_N = np.array([n for one in _NUMBER.findall(data) if (n := int(one)) < 1 << 63], np.int64)
    hit_N = target.has(number_N)
    if hit_N.any():
        found.places[place] += int(hit_N.sum())
        found.face_id_M = np.append(found.face_id_M, number_N[hit_N])
