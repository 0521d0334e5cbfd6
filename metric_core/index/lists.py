"""The inverted lists that are nearest to a query. Unlike FAISS's, the choice does not depend on the batch."""

# Q: queries, T: queries of a tile, M: centroids, one per inverted list, D: components, P: lists per query.

import numpy as np

from metric_core.index.engine import faiss

_TILE = 32
"""Queries that are multiplied at a time, padded with zeros: the last bits of a product depend on its shape, so all have
the same. A multiple of the rows that BLAS kernels hold in registers."""


_HEAP = 64
"""Lists up to which a heap is faster than a partition: 2 µs for 16 of 4096 and 10 for 48, beside 22."""


def best_lists(query_QD: np.ndarray, centroid_MD: np.ndarray, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
    """The centroids with the largest inner products for every query, in any order; of those that tie, the first.

    A query's result has the same bits whatever other queries are there.

    Args:
        query_QD: float32 (Q, D).
        centroid_MD: float32 (M, D).
        nprobe: P; more than M means all.

    Returns:
        int64 (Q, P) numbers of centroids, and float32 (Q, P) inner products.

    Raises:
        ValueError: nprobe < 1.
    """
    if nprobe < 1:
        raise ValueError(f"nprobe must be at least 1, got {nprobe}")
    width = min(nprobe, len(centroid_MD))
    list_QP = np.empty((len(query_QD), width), np.int64)
    score_QP = np.empty((len(query_QD), width), np.float32)
    tile_TD = np.zeros((_TILE, centroid_MD.shape[1]), np.float32)
    for start in range(0, len(query_QD), _TILE):
        part = slice(start, min(start + _TILE, len(query_QD)))
        count = part.stop - start
        tile_TD[:count], tile_TD[count:] = query_QD[part], 0
        score_TM: np.ndarray = (tile_TD @ centroid_MD.T)[:count]
        if width <= _HEAP:
            _fill_heaps(score_TM, score_QP[part], list_QP[part])
        else:
            list_QP[part] = _largest(score_TM, width)
            score_QP[part] = np.take_along_axis(score_TM, list_QP[part], 1)
    return list_QP, score_QP


def _fill_heaps(score_TM: np.ndarray, score_TP: np.ndarray, list_TP: np.ndarray) -> None:
    """Fills the last two arguments with the P largest scores of each row and their columns."""
    heaps = faiss.float_minheap_array_t()
    heaps.k, heaps.nh, heaps.val, heaps.ids = (
        score_TP.shape[1],
        len(score_TP),
        faiss.swig_ptr(score_TP),
        faiss.swig_ptr(list_TP),
    )
    heaps.heapify()
    heaps.addn(score_TM.shape[1], faiss.swig_ptr(score_TM))


def _largest(score_TM: np.ndarray, width: int) -> np.ndarray:
    """int64 (T, P): the columns of the ``width`` largest scores of each row, ascending; of equal ones, the first."""
    queries, lists = score_TM.shape
    at = lists - width
    last_T = np.partition(score_TM, at, axis=1)[:, at]  # half the time of argpartition
    row_C, column_C = np.divmod(np.flatnonzero(score_TM >= last_T[:, None]), lists)
    if len(column_C) > queries * width:  # some tie with the last one
        order_C = np.lexsort((column_C, -score_TM[row_C, column_C], row_C))
        begin_T = np.searchsorted(row_C, np.arange(queries))
        best_TP: np.ndarray = np.sort(column_C[order_C[begin_T[:, None] + np.arange(width)]], axis=1)
        return best_TP
    return column_C.reshape(queries, width)
