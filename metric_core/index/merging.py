"""The best candidates of each query: those of one shard, and all shards merged, in an order independent of the shards.

Scores are only compared here; FAISS computes them.
"""

# Q: queries, D: components, K: candidates or neighbours per query.

from typing import Any

import numpy as np

from metric_core.index.build import search as search_shard


def shard_top(index: Any, query_QD: np.ndarray, k: int, nprobe: int | None) -> tuple[np.ndarray, np.ndarray]:
    """A shard's best ``k``, ordered as in ``best``. FAISS keeps any of equal scores, so more are fetched until all
    candidates that tie with the last one are there."""
    rows = int(index.ntotal)
    if not rows:
        return np.full((len(query_QD), k), -np.inf, np.float32), np.full((len(query_QD), k), -1, np.int64)
    fetch = min(k + 1, rows)
    while True:
        score_QK, id_QK = search_shard(index, query_QD, fetch, nprobe)
        if fetch >= rows or not ((id_QK[:, -1] >= 0) & (score_QK[:, -1] == score_QK[:, min(k, fetch) - 1])).any():
            return best(np.where(id_QK < 0, np.float32(-np.inf), score_QK), id_QK, k)
        fetch = min(4 * fetch, rows)


def best(score_QK: np.ndarray, id_QK: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``k`` columns by descending score, then ascending id, padded with -inf and -1."""
    order_QK = np.lexsort((id_QK, -score_QK), axis=-1)[:, :k]
    score_QK, id_QK = np.take_along_axis(score_QK, order_QK, 1), np.take_along_axis(id_QK, order_QK, 1)
    if (short := k - score_QK.shape[1]) > 0:
        score_QK = np.pad(score_QK, ((0, 0), (0, short)), constant_values=-np.inf)
        id_QK = np.pad(id_QK, ((0, 0), (0, short)), constant_values=-1)
    return score_QK, id_QK


def without(score_QK: np.ndarray, id_QK: np.ndarray, exclude_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One column fewer: without the excluded face, or without the last column where that face was not found."""
    gone_QK = (id_QK == exclude_Q[:, None]) & (id_QK >= 0)
    gone_QK[~gone_QK.any(axis=1), -1] = True
    shape = (len(id_QK), id_QK.shape[1] - 1)
    return score_QK[~gone_QK].reshape(shape), id_QK[~gone_QK].reshape(shape)


def firsts(code_QK: np.ndarray) -> np.ndarray:
    """bool (Q, K): where an identity (code >= 0) occurs for the first time in its row."""
    order_QK = np.argsort(code_QK, axis=1, kind="stable")
    sorted_QK = np.take_along_axis(code_QK, order_QK, 1)
    new_QK = sorted_QK >= 0
    new_QK[:, 1:] &= sorted_QK[:, 1:] != sorted_QK[:, :-1]
    first_QK = np.empty_like(new_QK)
    np.put_along_axis(first_QK, order_QK, new_QK, 1)
    return first_QK
