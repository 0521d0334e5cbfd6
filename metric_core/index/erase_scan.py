"""Looks for erased people in what is stored of an index: every file in its folder is read and decoded, whether a
version lists it or not. Before an erasure the same scan finds everybody, afterwards nobody.

    .rows, .arrow, .parquet  face_ids and names of every column of these kinds, dictionaries included
    .vectors                 the face_id of each record
    .faiss, .codes           codes of rows that are somebody's by the ``rows`` of the shard; vectors in centroids
    .json, others            numbers for face_ids, fields and words for names

A byte belongs to a decoded value or is searched for the face_ids, as eight bytes, and for the names. So eight bytes of
a vector that happen to be those of a face_id are told from one that is stored. Files of a shard that do not say whose
they are count as found while there is somebody to look for. Nothing here is used to remove anything.
"""

# N: rows of a file, B: bytes, M: erased faces, L: lists, R: some rows, D: components.

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import ids
from metric_core.artefacts.erasing import Target
from metric_core.artefacts.erasing_proof import Found
from metric_core.errors import Corrupt, LikenessError
from metric_core.index import codec, erase_common, erase_lists, erase_shard, layout, shard, template
from metric_core.index import version as versions
from metric_core.index.engine import faiss
from metric_core.index.spec import IndexSpec
from metric_core.index.version import Version

_BLOCK = 1 << 20  # bytes that are searched at a time, and records that are compared
_NUMBER = re.compile(rb"(?<![\w.])\d{1,19}(?![\w.])")
_COUNTS = 1 << 40
"""Numbers in texts below it are counts, sizes and ports: a face_id is a hash, and one in eight million is below it."""
_FIELDS = frozenset({"kind", "needs", "why", "name", "factory", "note", "view"})
"""Fields and columns with words of Likeness or of a source, which may be names of people too."""
_WORDS = {name.encode() for name in ("face_id", "identity", "view", "embedding", "score", "same", "item", "pandas")}
"""Names of columns in the headers of files."""


@dataclass
class FoundIndex(Found):
    """What a scan found in an index."""

    stored_MD: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """float32 (M, D): the vectors of the erased faces as they are stored, which the next scan looks for."""


def scan(
    index_uri: str, face_ids: np.ndarray, identities: Sequence[str], before: FoundIndex | None = None
) -> FoundIndex:
    """Look for faces and people in every file below the folder of an index.

    Args:
        index_uri: folder or object-store address of the index.
        face_ids: int64 (M,), single faces.
        identities: names of people.
        before: what the scan before the erasure found: the ids of all faces of these people, and vectors.

    Raises:
        Missing: there is nothing at the address.
    """
    known = [np.asarray(face_ids, np.int64)] + ([before.face_id_M] if before is not None else [])
    target = Target(np.unique(np.concatenate(known)), frozenset(identities))
    uri = storage.absolute(index_uri)
    stored_MD = np.empty((0, 0), np.float32) if before is None else before.stored_MD
    addresses = sorted(_files(uri))
    if target.identities:  # first the ids of their faces, which other files are searched for
        own = [_own(address, target) for address in addresses if address.endswith(".rows")]
        target = Target(np.unique(np.concatenate([target.face_id_M, *own])), target.identities)
    return _Scan(uri, target, stored_MD).run(addresses)


def _own(address: str, target: Target) -> np.ndarray:
    """int64 (any number,): the ids of the people's faces in a ``rows`` file; none if it is damaged."""
    with storage.local_copy(address) as path:
        try:
            rows = shard.read_rows(path)
            found: np.ndarray = rows["face_id"].to_numpy()[erase_common.named(rows["identity"], target.names)]
        except (KeyError, ValueError, OSError, pa.ArrowException):
            return ids.NONE
        return found


def _files(uri: str) -> Iterator[str]:
    """Every file below a folder, hidden ones too."""
    files, folders = storage.files_and_folders(uri)
    yield from (storage.join(uri, name) for name in files)
    for name in folders:
        yield from _files(storage.join(uri, name))


class _Scan:
    def __init__(self, uri: str, target: Target, stored_MD: np.ndarray) -> None:
        self._uri, self._target, self._stored_MD = uri, target, stored_MD
        self._specs = dict(_specs(uri))
        words = (name.encode() for name in target.identities)
        self._words = [word for word in words if len(word) > 3 and word not in _WORDS]
        self._vectors: list[np.ndarray] = []
        self._found: list[np.ndarray] = [ids.NONE]
        self._prefixes = _prefixes(stored_MD)
        self._centroids: dict[str, tuple[np.ndarray, list[str]]] = {}
        """Distinct centroids by their digest, and the kinds of files that have them."""
        self.found = FoundIndex()

    def run(self, addresses: Sequence[str]) -> FoundIndex:
        """Look in all files; those of a shard are looked at together."""
        shards: dict[str, dict[str, str]] = {}
        for address in addresses:
            name = address.rsplit("/", 1)[-1]
            if of_shard := re.fullmatch(r"([0-9a-f]{32})\.(faiss|rows|vectors|codes)", name):
                shards.setdefault(of_shard[1], {})[of_shard[2]] = address
            else:
                with storage.local_copy(address) as path:
                    self._count(path)
                    self._file(path, re.sub(r"^[0-9a-f]{32}\.|-?\d+(?=\.)", "", name))
        for digest, files in sorted(shards.items()):
            self._shard(digest, files)
        found = self.found
        found.face_id_M = np.unique(np.concatenate(self._found))
        found.stored_MD = np.concatenate(self._vectors) if self._vectors else found.stored_MD
        self._near([found.stored_MD, self._stored_MD])
        found.places += type(found.places)()  # without the zeros
        return found

    def _count(self, path: Path) -> None:
        self.found.files, self.found.bytes = self.found.files + 1, self.found.bytes + path.stat().st_size

    def _hits(self, place: str, id_N: np.ndarray) -> np.ndarray:
        """bool (N,): which ids are looked for; they are noted."""
        hit_N = self._target.has(id_N)
        if hit_N.any():
            self.found.places[place] += int(hit_N.sum())
            self._found.append(id_N[hit_N])
        return hit_N

    def _file(self, path: Path, kind: str) -> None:
        """A file that is not of a shard."""
        try:
            if kind.endswith(".arrow"):
                self.arrow(path, kind)
            elif kind.endswith(".parquet"):
                table = pq.read_table(path)
                for name in table.column_names:
                    self._column(table[name].combine_chunks(), f"{kind}: {name}")
                self._raw(np.fromfile(path, np.uint8), [], kind)
            elif kind == layout.TEMPLATE:
                self._read(path, kind)
            elif kind == layout.CODES:
                position_M = np.load(path, mmap_mode="r", allow_pickle=False)
                self._raw(np.fromfile(path, np.uint8), [(position_M.offset, position_M.nbytes)], kind)
            else:
                self._text(path.read_bytes(), kind)
        except (Corrupt, ValueError, OSError, pa.ArrowException):
            self._undecoded(path, kind)

    def _undecoded(self, path: Path, kind: str) -> None:
        """A file that is not what its name says is searched byte by byte."""
        self.found.undecoded += 1
        self._raw(np.fromfile(path, np.uint8), [], kind)

    def arrow(self, path: Path, kind: str) -> pa.Table:
        """Look in all columns of a file of Arrow IPC, and in its bytes that are no values."""
        byte_B = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
        whole = pa.py_buffer(byte_B)
        reader = pa.ipc.open_file(whole)
        spans = []
        for number in range(reader.num_record_batches):
            for name, column in zip(reader.schema.names, reader.get_batch(number).columns):
                if name not in _FIELDS:
                    self._column(column, f"{kind}: {name}")
                spans += [(b.address - whole.address, b.size) for b in _buffers(column)]
        self._raw(byte_B, spans, kind)
        return reader.read_all()

    def _column(self, values: pa.Array, place: str) -> None:
        kind = values.type
        if pa.types.is_dictionary(kind):
            self._column(values.dictionary, place)
        elif pa.types.is_fixed_size_list(kind):
            self._column(values.flatten(), place)
        elif pa.types.is_int64(kind):
            self._hits(place, values.fill_null(-1).to_numpy(zero_copy_only=False))
        elif pa.types.is_string(kind):
            self.found.places[place] += int(pc.sum(pc.is_in(values, value_set=self._target.names)).as_py() or 0)

    def _shard(self, digest: str, files: Mapping[str, str]) -> None:
        """The files of one shard."""
        hit_N: np.ndarray | None = None
        if "rows" in files:
            with storage.local_copy(files["rows"]) as path:
                self._count(path)
                try:
                    rows = self.arrow(path, "shards rows")
                    hit_N = self._target.has(rows["face_id"].to_numpy())
                    hit_N |= erase_common.named(rows["identity"].combine_chunks(), self._target.names)
                    self._found.append(rows["face_id"].to_numpy()[hit_N])
                except (KeyError, ValueError, OSError, pa.ArrowException):
                    self._undecoded(path, "shards rows")
        spec = self._spec(digest, None if hit_N is None else len(hit_N), files)
        codes: np.ndarray | None = None
        if "faiss" in files:
            with storage.local_copy(files["faiss"]) as path:
                self._count(path)
                codes = self._faiss(path, hit_N, "vectors" in files, "codes" in files)
        for ending in ("vectors", "codes"):
            if ending in files:
                with storage.local_copy(files[ending]) as path:
                    self._count(path)
                    if ending == "vectors":
                        self._records(path, spec)
                    else:
                        self._codes(path, hit_N, codes)

    def _spec(self, digest: str, rows: int | None, files: Mapping[str, str]) -> IndexSpec | None:
        """The spec of a shard; of one that no version lists, the one that its records fit."""
        if digest in self._specs or rows is None or "vectors" not in files:
            return self._specs.get(digest)
        size = storage.size(files["vectors"])
        fit = [spec for spec in self._specs.values() if spec.refine and spec.record_bytes * rows == size]
        return fit[0] if fit else None

    def _whose(self, place: str, rows: int, hit_N: np.ndarray | None) -> bool:
        """Note the rows of a file whose rows are somebody's by their place; whether it is known whose."""
        known = hit_N is not None and len(hit_N) == rows
        self.found.places[place] += int(hit_N.sum()) if known and hit_N is not None else 0
        if not known and rows and (len(self._target.face_id_M) or self._target.identities):
            self.found.places[f"{place} of unknown faces"] += rows
        return known

    def _faiss(self, path: Path, hit_N: np.ndarray | None, records: bool, apart: bool) -> np.ndarray | None:
        """uint8 (N, bytes): the codes of the rows, if they are there ``apart`` as well.

        Without ``records``, the vectors of the erased are those of their codes.
        """
        place = "shards faiss: code"
        try:
            index = self._read(path, "shards faiss")
        except Corrupt:
            self._undecoded(path, "shards faiss")
            return None
        ivf = faiss.try_extract_index_ivf(index)
        known = self._whose(place, index.ntotal, hit_N)
        if ivf is not None and isinstance(faiss.downcast_InvertedLists(ivf.invlists), faiss.BlockInvertedLists):
            self.found.places["shards faiss: padding"] += erase_shard.filled_behind(ivf)
        if known and hit_N is not None and not records and hit_N.any():
            self._vectors.append(erase_shard.reconstructed(index, np.flatnonzero(hit_N)))
        return erase_shard.plain(ivf) if apart else None

    def _read(self, path: Path, kind: str) -> Any:
        """An index, of which all bytes are accounted for. Raises Corrupt."""
        index = codec.read_file(path)
        if not np.array_equal(faiss.serialize_index(index), np.memmap(path, np.uint8, "r")):
            self._undecoded(path, kind)  # there are bytes that FAISS does not read
        self._centroid(index, kind)
        return index

    def _codes(self, path: Path, hit_N: np.ndarray | None, codes: np.ndarray | None) -> None:
        data = np.fromfile(path, np.uint8)
        if codes is None or not np.array_equal(codes.ravel(), data):  # not those of the FAISS file
            self._undecoded(path, "shards codes")
            self.found.places["shards codes: code of unknown faces"] += 1
            return
        self._whose("shards codes: code", len(codes), hit_N)

    def _records(self, path: Path, spec: IndexSpec | None) -> None:
        record = None if spec is None else shard.record_type(spec)
        size = path.stat().st_size
        if record is None or size % record.itemsize:
            self._undecoded(path, "shards vectors")
            self.found.places["shards vectors: record of unknown faces"] += 1
            return
        if not size:
            return
        record_N = np.memmap(path, record, "r")
        for start in range(0, len(record_N), _BLOCK):
            record_B = record_N[start : start + _BLOCK]
            id_B = np.ascontiguousarray(record_B["face_id"])
            hit_B = self._hits("shards vectors: face_id", id_B)
            if hit_B.any():
                self._vectors.append(shard.decoded(record_B[hit_B]))
            if len(self._prefixes):
                first_B = shard.decoded(record_B[["vector", *(n for n in record.names or () if n == "scale")]])
                same_B = _same(first_B, self._stored_MD, self._prefixes) & ~hit_B
                self.found.copies_M = np.union1d(self.found.copies_M, id_B[same_B])

    def _centroid(self, index: Any, kind: str) -> None:
        """Note the centroids of an index; the same ones are in many files."""
        centroid_MD = template.centroids(index)
        if centroid_MD is not None:
            self._centroids.setdefault(versions.digest(centroid_MD.tobytes()), (centroid_MD, []))[1].append(kind)

    def _near(self, stored: Sequence[np.ndarray]) -> None:
        """Count the centroids that are nearly the vector of an erased face."""
        for centroid_MD, kinds in self._centroids.values():
            there = [stored_MD for stored_MD in stored if stored_MD.shape[1] == centroid_MD.shape[1]]
            near = int(erase_lists.near(np.concatenate(there), centroid_MD).sum()) if there else 0
            for kind in kinds:
                self.found.places[f"{kind}: centroid"] += near

    def _raw(self, byte_B: np.ndarray, spans: Sequence[tuple[int, int]], kind: str) -> None:
        """Search the bytes that belong to no value for ids and names."""
        at = 0
        for start, size in [*sorted(spans), (len(byte_B), 0)]:
            if start > at:
                self._bytes(byte_B[at:start], kind)
            at = max(at, start + size)

    def _said(self, command: str) -> bool:
        said = frozenset(name for name in self._target.identities if name in command)  # of ten thousand, few or none
        return replace(self._target, identities=said).without_words(command) != command

    def _bytes(self, byte_B: np.ndarray, kind: str) -> None:
        for first in range(0, len(byte_B), _BLOCK):
            part_B = np.ascontiguousarray(byte_B[first : first + _BLOCK + 7])
            for shift in range(min(8, max(0, len(part_B) - 7))):
                count = (len(part_B) - shift) // 8
                id_N = part_B[shift : shift + 8 * count].view("<i8")
                self._hits(f"{kind}: bytes", id_N)
        text = byte_B.tobytes()
        self.found.places[f"{kind}: bytes"] += sum(map(text.count, self._words))

    def _text(self, data: bytes, kind: str) -> None:
        """JSON and other text: numbers for face_ids, fields and words of a command line for names.

        Raises:
            ValueError: it looks like JSON and is none.
        """
        number_N = np.array([n for one in _NUMBER.findall(data) if _COUNTS <= (n := int(one)) < 1 << 63], np.int64)
        self._hits(f"{kind}: numbers", number_N)
        if not data.strip().startswith(b"{"):
            self._raw(np.frombuffer(data, np.uint8), [], kind)
            return
        for name, value in _strings(json.loads(data)):
            named = name not in _FIELDS and value in self._target.identities
            if named or (name == "command" and self._said(value)):
                self.found.places[f"{kind}: {name}"] += 1


def _specs(uri: str) -> Iterator[tuple[str, IndexSpec]]:
    """The spec of each shard that a version lists or has a receipt of."""
    for name in storage.names(storage.join(uri, layout.VERSIONS)):
        version = Version(uri, name)
        try:
            content = version.content()
        except LikenessError:  # unfinished, damaged, or of the first format, which has no records
            continue
        yield from ((one.digest, content.spec) for one in content.shards)


def _buffers(values: pa.Array) -> list[pa.Buffer]:
    """Of an array and its dictionary."""
    found = [buffer for buffer in values.buffers() if buffer is not None]
    return found + (_buffers(values.dictionary) if pa.types.is_dictionary(values.type) else [])


def _strings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON value, and the field that it is in."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for inner, one in value.items():
            yield from _strings(one, inner)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one, name)


def _prefixes(vector_ND: np.ndarray) -> np.ndarray:
    """The first eight bytes of each vector, sorted."""
    if vector_ND.size == 0 or vector_ND.shape[1] < 2:
        return ids.NONE
    return np.unique(np.ascontiguousarray(vector_ND[:, :2]).view(np.int64).ravel())


def _same(vector_BD: np.ndarray, stored_MD: np.ndarray, prefix_M: np.ndarray) -> np.ndarray:
    """bool (B,): which vectors are exactly one of the stored ones."""
    same_B = ids.within(np.ascontiguousarray(vector_BD[:, :2]).view(np.int64).ravel(), prefix_M)
    known = {vector_D.tobytes() for vector_D in stored_MD} if same_B.any() else set()
    for row in np.flatnonzero(same_B).tolist():
        same_B[row] = vector_BD[row].tobytes() in known
    return same_B
