"""The files of one shard, and how they are built from its parts: each row is seen once, its files are written once.

    <digest>.faiss     FAISS index; its ids are positions 0, 1, 2 ... in the shard's own order
    <digest>.rows      Arrow IPC: face_id, identity and view in that order, to be mapped
    <digest>.vectors   records of vector, face_id and identity in that order, to be read one by one for reranking;
                       only where the spec has a Refine
    <digest>.codes     the codes of the FAISS index without its ids, to be mapped; only where these take more memory
                       (``IndexSpec.codes_apart``)

The order is by inverted list, then by face_id, so that what a search looks at lies together. FAISS's fast scan cannot
tell where in its lists a result was found, so a position takes the place of the face_id there: it finds the row in the
other files without a lookup, and it lets a filter be a bitmap.

A shard is sorted outside memory: its rows go to temporary files, each of a range of lists, which are then read one by
one. Its digest is that of its files, so equal rows and options give an equal digest.
"""

# N: rows of the shard, B: rows of a block, D: components.

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core import storage
from metric_core.errors import IndexBuildError
from metric_core.index import codec, template
from metric_core.index.assign import ROWS, Assigner
from metric_core.index.corpus import Rows
from metric_core.index.engine import faiss
from metric_core.index.nearest import Nearest
from metric_core.index.spec import IndexSpec

FILES = ("faiss", "rows", "vectors", "codes")
"""Endings of a shard's files."""

_BUCKET_BYTES = 64 << 20
_TILE = 8192  # rows that are added to FAISS at a time


@dataclass(frozen=True)
class File:
    """A file's size and digest."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Built:
    """A finished shard in local files."""

    rows: int
    people: int
    """distinct identities in it, by name"""
    files: dict[str, File]
    """by ending"""
    paths: dict[str, Path]
    """by ending"""

    @property
    def digest(self) -> str:
        """32 hexadecimal digits, a function of the files' contents."""
        text = " ".join(f"{name}:{self.files[name].sha256}" for name in FILES if name in self.files)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def files_of(spec: IndexSpec) -> list[str]:
    """Endings of the files that a shard of this spec has."""
    lacks = {"vectors": spec.refine is None, "codes": not spec.codes_apart}
    return [ending for ending in FILES if not lacks.get(ending)]


def record_type(spec: IndexSpec) -> np.dtype[Any] | None:
    """The record of a row in the ``vectors`` file; None if the spec reranks nothing.

    Components of ``SQ8`` are -127 ... 127 times the record's ``scale``, which is its largest component / 127.
    """
    if spec.refine is None:
        return None
    vector: list[Any] = [("vector", "<f2", (spec.dim,))]
    if spec.refine == "SQ8":
        vector = [("vector", "i1", (spec.dim,)), ("scale", "<f4")]
    return np.dtype([*vector, ("face_id", "<i8"), ("identity", "<i4")])


def decoded(record_B: np.ndarray) -> np.ndarray:
    """float32 (B, D): the vectors of some records."""
    vector_BD: np.ndarray
    if "scale" in (record_B.dtype.names or ()):
        vector_BD = record_B["vector"].astype(np.float32)
        vector_BD *= record_B["scale"][:, None]
        return vector_BD
    # A sixth of the time of numpy's conversion: a half's bits in the places of a float32's make a number that is too
    # small by the difference of the exponents' biases. It is not for infinities, which no vector has.
    bits_BD = record_B["vector"].view(np.int16).astype(np.int32)
    bits_BD <<= 13
    bits_BD &= np.int32(~0x70000000)  # copies of the sign
    vector_BD = bits_BD.view(np.float32)
    vector_BD *= np.float32(2**112)
    return vector_BD


def build(
    trained: bytes,
    spec: IndexSpec,
    blocks: Iterable[Rows],
    rows: int,
    folder: Path,
    near: Nearest | None = None,
    *,
    list_N: np.ndarray | None = None,
) -> Built:
    """Build a shard's files in ``folder``.

    Args:
        trained: the template, from ``template.train``.
        spec: what to build.
        blocks: the shard's rows, read once.
        rows: about how many there are, to size the temporary files.
        folder: for the three files and the temporary ones.
        near: is shown every block, to find the exact neighbours of the held-out probes on the way.
        list_N: int64 (N,), the list of each row, where it is known.

    Raises:
        IndexBuildError: a face_id occurs twice.
    """
    index = codec.load(trained)
    centroid_MD = template.centroids(index)
    assign = None if centroid_MD is None else _assigning(centroid_MD, list_N)
    spool = _Spool(folder, spec, rows)
    face_ids, identities, views = [np.empty(0, np.int64)], [], []
    waiting: list[np.ndarray] = []
    at = 0
    for block in blocks:
        if near is not None:
            near.add(block.face_id_N, block.embedding_ND, block.identity)
        face_ids.append(block.face_id_N)
        identities.append(block.identity)
        views.append(block.view)
        waiting.append(block.embedding_ND)
        if sum(map(len, waiting)) >= ROWS:
            at += _spool(spool, assign, waiting, np.concatenate(face_ids[-len(waiting) :]), at)
    if waiting:
        at += _spool(spool, assign, waiting, np.concatenate(face_ids[-len(waiting) :]), at)
    face_id_N = np.concatenate(face_ids)
    _require_distinct(face_id_N)
    names, code_N = coded(identities)
    paths = {name: folder / name for name in files_of(spec)}
    record = record_type(spec)
    order_N, start = np.empty(at, np.int64), 0
    with open(paths["vectors"], "wb") if record is not None else nullcontext() as vectors:
        for list_B, row_B, vector_BD in spool.sorted(face_id_N):
            _add(index, vector_BD, start, None if assign is None else list_B)
            order_N[start : start + len(row_B)] = row_B
            start += len(row_B)
            if vectors is not None and record is not None:
                _write_records(vectors, record, vector_BD, face_id_N[row_B], code_N[row_B])
    view = coded_views(views, [len(codes) for codes in identities], order_N)
    write_rows(paths["rows"], face_id_N[order_N], names, code_N[order_N], view)
    faiss.write_index(template.for_search(index, spec), str(paths["faiss"]))
    if spec.codes_apart:
        codec.write_codes(index, paths["codes"])
    files = {name: File(path.stat().st_size, storage.sha256(str(path))) for name, path in paths.items()}
    return Built(at, len(names), files, paths)


def _assigning(centroid_MD: np.ndarray, list_N: np.ndarray | None) -> Callable[[int, np.ndarray], np.ndarray]:
    """Finds the list of each row of a block, of which the first is the shard's row ``at``."""
    if list_N is not None:
        known_N = list_N
        return lambda at, x_BD: known_N[at : at + len(x_BD)]
    assigner = Assigner(centroid_MD)
    return lambda _, x_BD: assigner.lists(x_BD)


def _spool(
    spool: "_Spool",
    assign: Callable[[int, np.ndarray], np.ndarray] | None,
    waiting: list[np.ndarray],
    face_id_B: np.ndarray,
    at: int,
) -> int:
    """Add the waiting vectors to the spool and empty the list; returns their number. ``at`` rows came before."""
    vector_BD = np.concatenate(waiting)
    waiting.clear()
    # Without lists, the order is by face_id alone.
    list_B = face_id_B >> 32 if assign is None else assign(at, vector_BD)
    spool.add(list_B, np.arange(at, at + len(vector_BD)), vector_BD)
    return len(vector_BD)


def read_rows(path: Path) -> pa.RecordBatch:
    """The ``rows`` file, mapped: face_id int64, identity dictionary<int32, string>, view dictionary or null. The
    identity is null, and -1 in the records, for a face without a name."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def _require_distinct(face_id_N: np.ndarray) -> None:
    ordered = np.sort(face_id_N)
    if (twice := ordered[1:][ordered[1:] == ordered[:-1]]).size:
        raise IndexBuildError(
            f"face_id {int(twice[0])} is twice in the parts of one shard; embed those Faces again to another folder"
        )


def coded(columns: list[pa.DictionaryArray]) -> tuple[pa.Array, np.ndarray]:
    """The distinct strings in byte order, and int32 (N,), the position in them of each row's; -1 for null."""
    if not columns:
        return pa.array([], pa.string()), np.empty(0, np.int32)
    whole = pa.chunked_array(columns).unify_dictionaries()
    dictionary = whole.chunk(0).dictionary
    rank_M = pc.sort_indices(dictionary).to_numpy()
    code_N = np.concatenate([chunk.indices.fill_null(-1).to_numpy() for chunk in whole.chunks])
    used_M = np.bincount(code_N[code_N >= 0], minlength=len(rank_M)) > 0  # hidden rows may have been a person's only
    rank_M = rank_M[used_M[rank_M]]
    new_M = np.full(len(dictionary) + 1, -1, np.int32)
    new_M[rank_M] = np.arange(len(rank_M), dtype=np.int32)
    return dictionary.take(pa.array(rank_M)), new_M[code_N]


def coded_views(views: list[pa.DictionaryArray | None], lengths: list[int], order_N: np.ndarray) -> pa.Array:
    """The rows' views in the shard's order; of type null where no row has one."""
    if all(view is None for view in views):
        return pa.nulls(len(order_N))
    kind = pa.dictionary(pa.int32(), pa.string())
    names, code_N = coded([pa.nulls(n, kind) if view is None else view for view, n in zip(views, lengths)])
    return pa.DictionaryArray.from_arrays(pa.array(code_N[order_N], mask=code_N[order_N] < 0), names)


def write_rows(path: Path, face_id_N: np.ndarray, names: pa.Array, code_N: np.ndarray, view: pa.Array) -> None:
    """Write the ``rows`` file, see ``read_rows``; ``code_N`` int32 (N,) has -1 for a face without a name."""
    # No mask where all have names, as shards were written before faces could be without one.
    code = pa.array(code_N, mask=code_N < 0) if (code_N < 0).any() else pa.array(code_N)
    identity = pa.DictionaryArray.from_arrays(code, names)
    batch = pa.RecordBatch.from_arrays([pa.array(face_id_N), identity, view], ["face_id", "identity", "view"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _write_records(
    out: BinaryIO, record: np.dtype[Any], vector_BD: np.ndarray, face_id_B: np.ndarray, code_B: np.ndarray
) -> None:
    for start in range(0, len(vector_BD), _TILE):
        tile = slice(start, start + _TILE)
        record_B = np.zeros(len(vector_BD[tile]), record)
        if "scale" in (record.names or ()):
            vector = vector_BD[tile].astype(np.float32)
            scale_B = np.abs(vector).max(axis=1) / 127
            record_B["vector"], record_B["scale"] = np.rint(vector / scale_B[:, None]), scale_B
        else:
            record_B["vector"] = vector_BD[tile]
        record_B["face_id"], record_B["identity"] = face_id_B[tile], code_B[tile]
        out.write(record_B.tobytes())


def _add(index: Any, vector_BD: np.ndarray, start: int, list_B: np.ndarray | None) -> None:
    """Add vectors to lists that were found before; FAISS's own search for them takes five times as long."""
    for first in range(0, len(vector_BD), _TILE):
        x_BD = np.ascontiguousarray(vector_BD[first : first + _TILE], dtype=np.float32)
        if list_B is None:
            index.add(x_BD)
            continue
        position_B = np.arange(start + first, start + first + len(x_BD), dtype=np.int64)
        own_B = np.ascontiguousarray(list_B[first : first + _TILE], dtype=np.int64)
        pointer = faiss.swig_ptr
        index.add_core(len(x_BD), pointer(x_BD), pointer(position_B), pointer(own_B))


class _Spool:
    """Rows in temporary files, each of a range of lists."""

    def __init__(self, folder: Path, spec: IndexSpec, rows: int) -> None:
        # What is stored in half precision anyway is spooled in it.
        self._vector = np.dtype("<f2" if spec.refine == "SQfp16" or spec.code == "SQfp16" else "<f4")
        self._lists = spec.nlist or 1 << 31
        self._record = np.dtype([("list", "<i4"), ("row", "<i4"), ("vector", self._vector, (spec.dim,))])
        count = max(1, min(256, -(-rows * self._record.itemsize // _BUCKET_BYTES)))
        self._files = [tempfile.TemporaryFile(dir=folder, buffering=1 << 16) for _ in range(count)]  # noqa: SIM115

    def add(self, list_B: np.ndarray, row_B: np.ndarray, vector_BD: np.ndarray) -> None:
        record_B = np.empty(len(list_B), self._record)
        record_B["list"], record_B["row"], record_B["vector"] = list_B, row_B, vector_BD
        if len(self._files) == 1:
            self._files[0].write(record_B.tobytes())
            return
        bucket_B = list_B * len(self._files) // self._lists
        order_B = np.argsort(bucket_B, kind="stable")
        edges = np.searchsorted(bucket_B[order_B], np.arange(len(self._files) + 1))
        for file, first, last in zip(self._files, edges, edges[1:]):
            if first < last:
                file.write(record_B[order_B[first:last]].tobytes())

    def sorted(self, face_id_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(list_B, row_B, vector_BD), by list and then by face_id; each temporary file is removed when it was read."""
        for file in self._files:
            file.seek(0)
            record_B = np.frombuffer(file.read(), self._record)
            file.close()
            order_B = np.lexsort((face_id_N[record_B["row"]], record_B["list"]))
            if len(order_B):
                yield record_B["list"][order_B], record_B["row"][order_B], record_B["vector"][order_B]
