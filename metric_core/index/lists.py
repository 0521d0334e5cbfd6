"""The inverted lists that are nearest to a query. Unlike FAISS's, the choice does not depend on the batch."""

# Q: queries, T: queries of a tile, M: centroids, one per inverted list, D: components, P: lists per query, C: columns,
# G: groups of centroids, S: scores of all queries that are left.

import numpy as np

_TILE = 32
"""Queries that are multiplied at a time, padded with zeros: the last bits of a product depend on its shape, so all have
the same. A multiple of the columns that BLAS kernels hold in registers."""

_BLOCK = 512
"""Centroids that are multiplied at a time. Those of a mapped index lie at any byte of its file, and NumPy copies an
operand that is not aligned: at 4,096 x 128, 2 MB for every product in every thread."""


def best_lists(query_QD: np.ndarray, centroid_MD: np.ndarray, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
    """The centroids with the largest inner products for every query, in ascending order; of those that tie, the first.

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
    score_MT = np.empty((len(centroid_MD), _TILE), np.float32)
    for start in range(0, len(query_QD), _TILE):
        part = slice(start, min(start + _TILE, len(query_QD)))
        count = part.stop - start
        tile_TD[:count], tile_TD[count:] = query_QD[part], 0
        for first in range(0, len(centroid_MD), _BLOCK):
            block = slice(first, first + _BLOCK)
            np.matmul(centroid_MD[block], tile_TD.T, out=score_MT[block])  # two thirds of the transposed product's time
        list_TC, score_TC = _promising(score_MT, count, width)
        column_TP = _largest(score_TC, width)
        list_QP[part] = np.take_along_axis(list_TC, column_TP, 1)
        score_QP[part] = np.take_along_axis(score_TC, column_TP, 1)
    return list_QP, score_QP


def _promising(score_MT: np.ndarray, count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of the first ``count`` columns, at least the ``width`` largest scores and all that tie with them, few
    others, in their order: int64 (count, C) rows and float32 scores, -inf after the last."""
    lists, queries = score_MT.shape
    # Of the largest scores of 2 P groups, P are at least their median, so the P largest of all are, too.
    size = max(1, lists // (2 * width))
    groups = lists // size
    most_GT = score_MT[: groups * size].reshape(size, groups, queries).max(axis=0)
    floor_T = np.partition(most_GT, groups - width, axis=0)[groups - width]
    floor_T[count:] = np.inf
    row_S, column_S = np.divmod(np.flatnonzero(score_MT >= floor_T), queries)
    order_S = np.argsort(column_S.astype(np.uint8), kind="stable")  # a radix sort
    row_S, column_S = row_S[order_S], column_S[order_S]
    count_T = np.bincount(column_S, minlength=count)
    place_S = np.arange(len(row_S)) - np.repeat(np.cumsum(count_T) - count_T, count_T)
    shape = (count, int(count_T.max()))
    list_TC, score_TC = np.zeros(shape, np.int64), np.full(shape, -np.inf, np.float32)
    list_TC[column_S, place_S], score_TC[column_S, place_S] = row_S, score_MT[row_S, column_S]
    return list_TC, score_TC


def _largest(score_TC: np.ndarray, width: int) -> np.ndarray:
    """int64 (T, P): the columns of the ``width`` largest scores of each row, ascending; of equal ones, the first."""
    queries, columns = score_TC.shape
    at = columns - width
    last_T = np.partition(score_TC, at, axis=1)[:, at]  # half the time of argpartition
    row_S, column_S = np.divmod(np.flatnonzero(score_TC >= last_T[:, None]), columns)
    if len(column_S) > queries * width:  # some tie with the last one
        order_S = np.lexsort((column_S, -score_TC[row_S, column_S], row_S))
        begin_T = np.searchsorted(row_S, np.arange(queries))
        best_TP: np.ndarray = np.sort(column_S[order_S[begin_T[:, None] + np.arange(width)]], axis=1)
        return best_TP
    return column_S.reshape(queries, width)
