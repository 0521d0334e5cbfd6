"""Writes a version of an index as one file for plain FAISS, and beside it the names of its rows.

    NAME.faiss                 faiss.read_index opens it; a search of it returns face_ids
    NAME.identities.parquet    face_id, identity, view; row p is the vector at position p of the FAISS index

The FAISS index is an ``IndexIDMap2`` around

    an index without lists     IndexFlatIP or IndexScalarQuantizer
    an index with lists        IndexIVF..., with the tuned ``nprobe`` as its default
    one with a Refine          IndexRefine of the latter and of an IndexScalarQuantizer in half precision. FAISS cannot
                               store a scale per vector, so records of 8 bits become half precision here, which keeps
                               their values and takes twice the space

FAISS reranks ``k_factor`` x ``k`` candidates, Likeness the tuned ``depth`` of them whatever ``k`` is. The default in
the file is ``k_factor`` = ``depth``, with which no search compares fewer than the tuned number. A search for ``k``
neighbours that compares exactly as many is

    how = faiss.IndexRefineSearchParameters(
        k_factor=max(1, depth / k), base_index_params=faiss.SearchParametersIVF(nprobe=nprobe)
    )
    score_QK, face_id_QK = index.search(query_QD, k, params=how)

``nprobe`` and ``depth`` are in the metadata of the Parquet file. A selector in ``base_index_params`` selects positions.
"""

# N: rows of a shard, Q: queries, D: components, K: neighbours per query.

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.errors import IndexBuildError
from metric_core.index import codec, template
from metric_core.index.engine import faiss
from metric_core.index.opened import OpenShard
from metric_core.index.search import Index

ENDING = ".faiss"
METADATA = b"likeness"
"""Key of the Parquet file's metadata: JSON of {version, fingerprint, spec, nprobe, depth}."""

_BLOCK = 16_384  # records that are read and encoded at a time
_COLUMNS = pa.schema([("face_id", pa.int64()), ("identity", pa.string()), ("view", pa.string())])


@dataclass(frozen=True)
class Exported:
    """The two files."""

    faiss: str
    identities: str
    rows: int
    """vectors in them, without the faces that must not be found"""


def export(index: Index, out: str) -> Exported:
    """Write both files, each in one atomic step; the FAISS file is completed last.

    Args:
        index: from ``Index.open``, and used for nothing else: its shards become those of the new index. Only rows that
            it may find are written. The new index must fit in memory, with one shard more.
        out: local path or object-store address that ends in ``.faiss``.

    Raises:
        ValueError: ``out`` has another ending.
        StorageFull: the disk is full.
    """
    if not out.endswith(ENDING):
        raise ValueError(f"out is {out!r}; expected a name that ends in {ENDING}")
    identities = f"{out.removesuffix(ENDING)}.identities.parquet"
    with storage.new_file(out) as temp:
        with storage.new_file(identities) as beside:
            face_id_N = _write_names(index, beside)
        merged = _merged(index)
        if merged.ntotal != len(face_id_N):
            raise IndexBuildError(f"the merged index has {merged.ntotal} rows, not {len(face_id_N)}; report this error")
        # An IDMap can only be made of an empty index.
        mapped = faiss.IndexIDMap2(faiss.IndexFlatIP(index.dim))
        mapped.index, mapped.ntotal = merged, merged.ntotal
        faiss.copy_array_to_vector(face_id_N, mapped.id_map)
        with open(temp, "wb") as file:  # FAISS itself does not notice a disk that is full when it closes a file
            faiss.write_index(mapped, faiss.PyCallbackIOWriter(file.write, 1 << 20))
    return Exported(out, identities, len(face_id_N))


def _kept(index: Index) -> Iterator[tuple[OpenShard, np.ndarray]]:
    """Each shard and bool (N,), the rows that may be found."""
    for shard, allowed_N in index.restricted:
        yield shard, np.ones(shard.rows, bool) if allowed_N is None else allowed_N


def _write_names(index: Index, path: Path) -> np.ndarray:
    """Write the Parquet file, a row group or more per shard; returns the face_ids, int64 (rows,)."""
    about = {
        "version": index.version.id,
        "fingerprint": index.fingerprint,
        "spec": index.spec.factory,
        "nprobe": index.nprobe,
        "depth": index.depth,
    }
    written = [np.empty(0, np.int64)]
    with pq.ParquetWriter(path, _COLUMNS.with_metadata({METADATA: json.dumps(about)}), compression="zstd") as writer:
        for shard, kept_N in _kept(index):
            code_N = shard.identity_N
            identity = index.names.take(pa.array(code_N, mask=code_N < 0))
            columns = [pa.array(shard.face_id_N), identity, shard.view.cast(pa.string())]
            table = pa.Table.from_arrays(columns, schema=_COLUMNS).filter(pa.array(kept_N))
            writer.write_table(table)
            written.append(table["face_id"].to_numpy())
    return np.concatenate(written)


def _merged(index: Index) -> Any:
    """All shards as one FAISS index, whose ids are positions."""
    merged: Any = None
    for shard, kept_N in _kept(index):
        # Lists for fast scan are in memory already. Others are mapped from their file, and FAISS aborts if one changes.
        own = shard.index if index.spec.fast_scan else codec.load(template.serialized(shard.index))
        _keep(own, kept_N)
        if merged is None:
            merged = own
        else:
            codec.merge(merged, own)
    if index.spec.fast_scan:
        _clear_padding(merged)
    if index.nlist is not None:
        merged.nprobe = index.nprobe
    return merged if index.spec.refine is None else _refined(index, merged)


def _keep(own: Any, kept_N: np.ndarray) -> None:
    """Remove the other rows; positions close up."""
    if kept_N.all():
        return
    gone = np.flatnonzero(~kept_N)
    if (removed := own.remove_ids(gone)) != len(gone):
        raise IndexBuildError(f"FAISS removed {removed} of {len(gone)} rows; nothing was exported; report this error")
    ivf = faiss.try_extract_index_ivf(own)
    if ivf is None:
        return
    position_N = np.cumsum(kept_N) - 1
    for number in range(ivf.nlist):
        if size := ivf.invlists.list_size(number):
            ids = faiss.rev_swig_ptr(ivf.invlists.get_ids(number), size)
            ids[:] = position_N[ids]


def _clear_padding(merged: Any) -> None:
    """Zero the unused ends of the lists' last blocks: they hold what was in memory there, such as removed rows."""
    lists = faiss.downcast_InvertedLists(merged.invlists)
    nothing = np.zeros(lists.packer.code_size, np.uint8)
    for number in range(lists.nlist):
        whole, used = divmod(lists.list_size(number), lists.n_per_block)
        if used:
            blocks = faiss.rev_swig_ptr(lists.get_codes(number), (whole + 1) * lists.block_size)
            last = blocks[whole * lists.block_size :].reshape(1, -1)
            for offset in range(used, lists.n_per_block):
                lists.packer.pack_1(nothing, offset, last)


def _refined(index: Index, merged: Any) -> Any:
    """With the records' vectors, in the order of positions."""
    exact = faiss.IndexScalarQuantizer(index.dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for shard, kept_N in _kept(index):
        at_N = np.flatnonzero(kept_N)
        for start in range(0, len(at_N), _BLOCK):
            exact.add(shard.vectors_at(at_N[start : start + _BLOCK]))
    refined = faiss.IndexRefine(merged, exact)
    refined.k_factor = index.depth or 1
    return refined
