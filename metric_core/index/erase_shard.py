"""A shard without some of its rows. What remains keeps its codes bit for bit and its order, so the files are those that
a build from the other rows with the same template makes.
"""

# N: rows of the shard, B: rows of a block, K: rows that are kept, L: rows of a list, R: some rows, D: components.

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metric_core import storage
from metric_core.index import codec, shard
from metric_core.index.engine import faiss
from metric_core.index.shard import Built, File
from metric_core.index.spec import IndexSpec

_BLOCK = 65_536  # records that are copied at a time


def without(paths: Mapping[str, Path], spec: IndexSpec, gone_N: np.ndarray, folder: Path) -> Built:
    """Write a shard's files again without some rows.

    Args:
        paths: the shard's local files, by ending.
        spec: of the version.
        gone_N: bool (N,), the rows that are left out.
        folder: for the new files.

    Raises:
        Corrupt: FAISS cannot read the index.
    """
    new = {ending: folder / ending for ending in paths}
    index = codec.read_file(paths["faiss"])
    remove_rows(index, gone_N)
    faiss.write_index(index, str(new["faiss"]))
    if "codes" in new:
        codec.write_codes(index, new["codes"])
    del index
    old, at_K = shard.read_rows(paths["rows"]), np.flatnonzero(~gone_N)
    names, code_K = shard.coded([old["identity"].take(pa.array(at_K))])
    view = old["view"].take(pa.array(at_K))
    views = [view if isinstance(view, pa.DictionaryArray) and view.null_count < len(view) else None]
    face_id_K = old["face_id"].to_numpy()[at_K]
    of_shard = shard.coded_views(views, [len(at_K)], np.arange(len(at_K)))
    shard.write_rows(new["rows"], face_id_K, names, code_K, of_shard)
    if "vectors" in new:
        _copy_records(paths["vectors"], new["vectors"], spec, at_K, code_K)
    files = {ending: File(path.stat().st_size, storage.sha256(str(path))) for ending, path in new.items()}
    return Built(len(at_K), len(names), files, new)


def remove_rows(index: Any, gone_N: np.ndarray) -> None:
    """Remove rows from an index in memory, whose ids are positions; the others keep their order and are numbered anew.

    FAISS's own ``remove_ids`` puts the last row of a list into the place of a removed one.

    Args:
        index: an index of one of the families, which is changed.
        gone_N: bool (N,), the positions to remove.
    """
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is None:  # its codes are compacted in order
        index.remove_ids(np.flatnonzero(gone_N))
        return
    lists = faiss.downcast_InvertedLists(ivf.invlists)
    start = left = 0
    for number, size in enumerate(codec.list_sizes(ivf)):
        gone_L = gone_N[start : start + size]
        start += size
        if gone_L.any():
            _remove(lists, number, gone_L)
        if count := lists.list_size(number):
            faiss.rev_swig_ptr(lists.get_ids(number), count)[:] = np.arange(left, left + count)
            left += count
    ivf.ntotal = left


def _remove(lists: Any, number: int, gone_L: np.ndarray) -> None:
    """Remove rows of one list; the blocks before the first one stay as they are."""
    at_K = np.flatnonzero(~gone_L)
    if not isinstance(lists, faiss.BlockInvertedLists):
        if len(at_K):
            code_LC = faiss.rev_swig_ptr(lists.get_codes(number), gone_L.size * lists.code_size).reshape(
                len(gone_L), -1
            )
            code_LC[: len(at_K)] = code_LC[at_K]
        lists.resize(number, len(at_K))
        return
    per, size = lists.n_per_block, lists.block_size
    first = int(gone_L.argmax()) // per  # block
    code_LC = unpacked(lists, number, len(gone_L), first)[~gone_L[first * per :]]
    lists.resize(number, len(at_K))
    blocks = -(-len(at_K) // per)
    if blocks == first:
        return
    whole_LC = np.zeros(((blocks - first) * per, code_LC.shape[1]), np.uint8)
    whole_LC[: len(code_LC)] = code_LC
    packed = faiss.rev_swig_ptr(lists.get_codes(number), blocks * size)
    packed[first * size :] = 0
    for block in range(blocks - first):
        at = (first + block) * size
        lists.packer.pack_all(faiss.swig_ptr(whole_LC[block * per :]), faiss.swig_ptr(packed[at : at + size]))


def unpacked(lists: Any, number: int, rows: int, first: int = 0) -> np.ndarray:
    """uint8 (L, bytes): the codes of a list that is packed for fast scan, from the block ``first`` on."""
    per, size, packer = lists.n_per_block, lists.block_size, lists.packer
    blocks = -(-rows // per)
    packed = faiss.rev_swig_ptr(lists.get_codes(number), blocks * size)
    code_LC = np.zeros(((blocks - first) * per, packer.code_size), np.uint8)
    for block in range(first, blocks):
        at = (block - first) * per
        packer.unpack_all(faiss.swig_ptr(packed[block * size :]), faiss.swig_ptr(code_LC[at:]))
    return code_LC[: rows - first * per]


def plain(ivf: Any) -> np.ndarray:
    """uint8 (N, bytes): the codes of all lists, one after the other."""
    parts = [np.empty((0, ivf.code_size), np.uint8)]
    for number, size in enumerate(codec.list_sizes(ivf)):
        if size:
            codes = faiss.rev_swig_ptr(ivf.invlists.get_codes(number), size * ivf.code_size)
            parts.append(codes.reshape(size, -1).copy())
    return np.concatenate(parts)


def reconstructed(index: Any, at_R: np.ndarray) -> np.ndarray:
    """float32 (R, D): the vectors of some rows, from their codes."""
    ivf = faiss.try_extract_index_ivf(index)
    vector_RD = np.empty((len(at_R), index.d), np.float32)
    edge_L = np.cumsum([0, *codec.list_sizes(ivf)]) if ivf is not None else None
    for row, at in enumerate(at_R.tolist()):
        if edge_L is None:
            vector_RD[row] = index.reconstruct(at)
        else:
            number = int(np.searchsorted(edge_L, at, side="right")) - 1
            ivf.reconstruct_from_offset(number, at - int(edge_L[number]), faiss.swig_ptr(vector_RD[row]))
    return vector_RD


def _copy_records(source: Path, target: Path, spec: IndexSpec, at_K: np.ndarray, code_K: np.ndarray) -> None:
    """Copy the records at some positions, with other codes of the identities."""
    record = shard.record_type(spec)
    assert record is not None, "only specs with a Refine have records"
    with open(target, "wb") as out:
        if not len(at_K):
            return
        record_N = np.memmap(source, record, "r")
        for start in range(0, len(at_K), _BLOCK):
            block = slice(start, start + _BLOCK)
            record_B = np.take(record_N, at_K[block])
            record_B["identity"] = code_K[block]
            out.write(record_B.tobytes())
