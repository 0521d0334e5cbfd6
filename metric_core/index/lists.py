"""The inverted lists that are nearest to a query. Unlike FAISS's, the choice does not depend on the batch."""

# Q: queries, M: centroids, one per inverted list, D: components, P: lists per query, C: candidate pairs.

import numpy as np

from metric_core.index import products

_CELLS = 1 << 18  # scores, or components of the vectors that scores are computed of once more, at a time


def best_lists(query_QD: np.ndarray, centroid_MD: np.ndarray, nprobe: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``nprobe`` centroids with the largest inner products for every query, best first, ties by number.

    A query's result has the same bits whatever other queries are there.

    Args:
        query_QD: float32 (Q, D).
        centroid_MD: float32 (M, D), norm <= 2.
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
    queries = max(1, _CELLS // max(len(centroid_MD), 2 * width * query_QD.shape[1]))
    for start in range(0, len(query_QD), queries):
        part = slice(start, start + queries)
        list_QP[part], score_QP[part] = _best_lists(query_QD[part], centroid_MD, width)
    return list_QP, score_QP


def _best_lists(query_QD: np.ndarray, centroid_MD: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    product_QM = products.product(query_QD, centroid_MD)
    at = len(centroid_MD) - width
    last_Q = np.partition(product_QM, at, axis=1)[:, at]  # half the time of argpartition
    near_QM = product_QM >= (last_Q - 2 * products.slack(query_QD))[:, None]
    query_C, list_C = np.divmod(np.flatnonzero(near_QM), len(centroid_MD))
    score_C = products.scores(centroid_MD, list_C, query_QD, query_C)
    order_C = np.lexsort((list_C, -score_C, query_C))
    begin_Q = np.searchsorted(query_C, np.arange(len(query_QD)))
    best_QP = order_C[begin_Q[:, None] + np.arange(width)]  # every query has at least that many candidates
    return list_C[best_QP], score_C[best_QP]
