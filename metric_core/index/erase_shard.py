"""A shard without some of its rows. What remains keeps its codes bit for bit and its order, so the files are those that
a build from the other rows with the same template makes.
"""

# N: rows of the shard, B: blocks or records, P: rows of a block, C: bytes of a code, K: rows that are kept, L: lists or
# rows of one, H: lists that lose rows, R: some rows, D: components.

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metric_core import storage
from metric_core.artefacts import ids
from metric_core.index import codec, erase_lists, shard
from metric_core.index.engine import faiss
from metric_core.index.erase_lists import Changed
from metric_core.index.packing import Packing
from metric_core.index.shard import Built, File
from metric_core.index.spec import IndexSpec

_LISTS = 8192  # whose last blocks are unpacked at a time
_BLOCK = 65_536  # records that are copied, and rows that are unpacked, at a time


def without(
    paths: Mapping[str, Path], spec: IndexSpec, gone_N: np.ndarray, folder: Path, change: Changed | None = None
) -> Built:
    """Write a shard's files again without some rows.

    Args:
        paths: the shard's local files, by ending.
        spec: of the version.
        gone_N: bool (N,), the rows that are left out.
        folder: for the new files.
        change: other centroids that the shard gets.

    Raises:
        Corrupt: FAISS cannot read the index.
    """
    new = {ending: folder / ending for ending in paths}
    old, at_K = shard.read_rows(paths["rows"]), np.flatnonzero(~gone_N)
    names, code_K = shard.coded([old["identity"].take(pa.array(at_K))])
    view = old["view"].take(pa.array(at_K))
    views = [view if isinstance(view, pa.DictionaryArray) and view.null_count < len(view) else None]
    face_id_K = old["face_id"].to_numpy()[at_K]
    of_shard = shard.coded_views(views, [len(at_K)], np.arange(len(at_K)))
    shard.write_rows(new["rows"], face_id_K, names, code_K, of_shard)
    if "vectors" in new:
        _copy_records(paths["vectors"], new["vectors"], spec, at_K, code_K)
    index = codec.read_file(paths["faiss"])
    remove_rows(index, gone_N)
    if change is not None:
        erase_lists.recentre(index, new, spec, change)
    faiss.write_index(index, str(new["faiss"]))
    if "codes" in new:
        codec.write_codes(index, new["codes"])
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
    if not gone_N.any():
        return
    lists = faiss.downcast_InvertedLists(ivf.invlists)
    edge_L = np.cumsum([0, *codec.list_sizes(ivf)])
    left_L = np.diff(np.concatenate([[0], np.cumsum(~gone_N)])[edge_L])
    hit_L = left_L < np.diff(edge_L)
    if isinstance(lists, faiss.BlockInvertedLists):
        hit_H, how, gone = np.flatnonzero(hit_L), Packing.of(lists), np.flatnonzero(gone_N)
        group_H = np.cumsum(np.diff(edge_L)[hit_H]) // _BLOCK  # so that a few megabytes are unpacked at a time
        for some in np.split(hit_H, np.flatnonzero(np.diff(group_H)) + 1):
            _remove_packed(lists, how, some, edge_L, gone)
    else:
        for number in np.flatnonzero(hit_L).tolist():
            _remove(lists, number, gone_N[edge_L[number] : edge_L[number + 1]])
    position_K, first_L = np.arange(left_L.sum()), np.cumsum(left_L) - left_L
    later_L = (left_L > 0) & (np.arange(len(left_L)) >= hit_L.argmax())  # ids before the first removed row stay
    for number in np.flatnonzero(later_L).tolist():
        own_R = position_K[first_L[number] : first_L[number] + left_L[number]]
        faiss.rev_swig_ptr(lists.get_ids(number), len(own_R))[:] = own_R
    ivf.ntotal = len(position_K)


def _remove(lists: Any, number: int, gone_L: np.ndarray) -> None:
    """Remove rows of one list whose codes are stored one after the other."""
    at_K = np.flatnonzero(~gone_L)
    if len(at_K):
        code_LC = faiss.rev_swig_ptr(lists.get_codes(number), gone_L.size * lists.code_size).reshape(len(gone_L), -1)
        code_LC[: len(at_K)] = code_LC[at_K]
    lists.resize(number, len(at_K))


def _remove_packed(lists: Any, how: Packing, hit_H: np.ndarray, edge_L: np.ndarray, gone: np.ndarray) -> None:
    """Remove rows of lists whose codes are packed in blocks; a list's blocks before its first removed row stay.

    Args:
        lists: which are changed.
        how: they are packed.
        hit_H: int64 (H,), ascending numbers of the lists that have rows to remove.
        edge_L: int64 (L + 1,), the position of each list's first row, and of the end.
        gone: int64, ascending positions to remove, of other lists as well.
    """
    edge_H, end_H = edge_L[hit_H], edge_L[hit_H + 1]
    first_H = (gone[np.searchsorted(gone, edge_H)] - edge_H) // how.rows  # blocks that stay
    start_H = edge_H + first_H * how.rows
    block_B = np.concatenate(
        [
            _blocks(lists, number, size, how)[first:]
            for number, size, first in _each(hit_H, end_H - edge_H, first_H * how.block_bytes)
        ]
    ).reshape(-1, how.block_bytes)
    code_BPC, taken_H = how.unpack(block_B), -(-(end_H - start_H) // how.rows)
    position_BP = _spread(start_H, taken_H, how.rows)[:, None] + np.arange(how.rows)
    kept_BP = position_BP < np.repeat(end_H, taken_H)[:, None]
    kept_BP[kept_BP] = ~ids.within(position_BP[kept_BP], gone)
    left_H = np.add.reduceat(kept_BP.sum(axis=1), np.cumsum(taken_H) - taken_H)
    need_H = -(-left_H // how.rows)
    whole_RC = np.zeros((need_H.sum() * how.rows, how.code_bytes), np.uint8)
    whole_RC[_spread((np.cumsum(need_H) - need_H) * how.rows, left_H, 1)] = code_BPC[kept_BP]
    packed = how.pack(whole_RC.reshape(-1, how.rows, how.code_bytes)).ravel()
    at_H = (np.cumsum(need_H) - need_H) * how.block_bytes
    for number, size, stay, at in _each(hit_H, first_H * how.rows + left_H, first_H * how.block_bytes, at_H):
        lists.resize(number, size)
        if size:
            block = _blocks(lists, number, size, how)
            block[stay:] = packed[at : at + len(block) - stay]


def _each(*columns: np.ndarray) -> Iterator[tuple[int, ...]]:
    return zip(*(column.tolist() for column in columns))


def _spread(start_H: np.ndarray, count_H: np.ndarray, step: int) -> np.ndarray:
    """int64: for each start, as many numbers from it on as it has a count, ``step`` apart."""
    before_H = np.cumsum(count_H) - count_H
    spread: np.ndarray = np.repeat(start_H - step * before_H, count_H) + step * np.arange(count_H.sum())
    return spread


def _blocks(lists: Any, number: int, rows: int, how: Packing) -> np.ndarray:
    """uint8 (any number,): the blocks of a list, one after the other, in its own memory."""
    block: np.ndarray = faiss.rev_swig_ptr(lists.get_codes(number), -(-rows // how.rows) * how.block_bytes)
    return block


def filled_behind(ivf: Any) -> int:
    """Lists that are packed in blocks and have other bytes than zeros behind their last row, as one that was removed
    could leave."""
    lists = faiss.downcast_InvertedLists(ivf.invlists)
    how, sizes, count = Packing.of(lists), codec.list_sizes(ivf), 0
    open_H = np.flatnonzero(np.array(sizes) % how.rows)
    for first in range(0, len(open_H), _LISTS):
        some_H = open_H[first : first + _LISTS]
        last = [_blocks(lists, number, sizes[number], how)[-how.block_bytes :] for number in some_H.tolist()]
        filled_HP = how.unpack(np.array(last)).any(axis=2)
        behind_HP = np.arange(how.rows) >= np.array(sizes)[some_H, None] % how.rows
        count += int((filled_HP & behind_HP).any(axis=1).sum())
    return count


def unpacked(lists: Any, number: int, rows: int, first: int = 0) -> np.ndarray:
    """uint8 (L, bytes): the codes of a list that is packed for fast scan, from the block ``first`` on."""
    how = Packing.of(lists)
    code_BPC = how.unpack(_blocks(lists, number, rows, how).reshape(-1, how.block_bytes)[first:])
    return code_BPC.reshape(-1, how.code_bytes)[: rows - first * how.rows]


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
