"""The best candidates of each query, in an order that does not depend on how they were found.

Scores are only compared here.
"""

# Q: queries, K: candidates or neighbours per query.

from collections.abc import Callable

import numpy as np

Found = tuple[np.ndarray, np.ndarray]
"""float32 scores and int64 ids, (Q, K); id -1 where there are fewer"""


def empty(queries: int, k: int) -> Found:
    """No candidate for any query."""
    return np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1, np.int64)


def best(score_QK: np.ndarray, id_QK: np.ndarray, k: int, key_N: np.ndarray | None = None) -> Found:
    """The first ``k`` columns by descending score, then ascending id (or ``key_N[id]``), padded with -inf and -1."""
    key_QK = id_QK if key_N is None else key_N[id_QK]
    order_QK = np.lexsort((key_QK, -score_QK), axis=-1)[:, :k]
    return padded(np.take_along_axis(score_QK, order_QK, 1), np.take_along_axis(id_QK, order_QK, 1), k)


def padded(score_QK: np.ndarray, id_QK: np.ndarray, k: int) -> Found:
    """With as many columns of -inf and -1 as make ``k``."""
    if (short := k - score_QK.shape[1]) > 0:
        score_QK = np.pad(score_QK, ((0, 0), (0, short)), constant_values=-np.inf)
        id_QK = np.pad(id_QK, ((0, 0), (0, short)), constant_values=-1)
    return score_QK, id_QK


def with_ties(search: Callable[[int], Found], k: int, key_N: np.ndarray) -> Found:
    """The best ``k`` of the rows that ``key_N`` is of, ordered as in ``best``. FAISS keeps any of equal scores, so
    ``search`` is asked for more until all candidates that tie with the last one are there."""
    rows = len(key_N)
    fetch = min(k + 1, rows)
    while True:
        score_QK, id_QK = search(fetch)
        if fetch >= rows or not ((id_QK[:, -1] >= 0) & (score_QK[:, -1] == score_QK[:, min(k, fetch) - 1])).any():
            return best(score_QK, id_QK, k, key_N)
        fetch = min(4 * fetch, rows)


def firsts(code_QK: np.ndarray, face_id_QK: np.ndarray) -> np.ndarray:
    """bool (Q, K): where an identity (code >= 0) occurs for the first time in its row. A face without a name (code -1,
    face_id >= 0), which is in a row once, is somebody of its own."""
    order_QK = np.argsort(code_QK, axis=1, kind="stable")
    sorted_QK = np.take_along_axis(code_QK, order_QK, 1)
    new_QK = sorted_QK >= 0
    new_QK[:, 1:] &= sorted_QK[:, 1:] != sorted_QK[:, :-1]
    first_QK = np.empty_like(new_QK)
    np.put_along_axis(first_QK, order_QK, new_QK, 1)
    return first_QK | ((code_QK < 0) & (face_id_QK >= 0))
