"""k-means on the sphere, for the centroids of inverted lists. Unlike FAISS's, its products may run on a GPU without
FAISS's GPU build."""

# N: rows, R: some of the rows, M: centroids, K: centroids near one of them, D: components.

import numpy as np

from metric_core import counter
from metric_core.index import threads
from metric_core.index.products import nearest

_SPLIT = 1 / 1024  # by how much the halves of a list that is split differ, as in FAISS (Clustering.cpp)
_PART, _PART_PASSES = 4, 4
"""The first passes are over one row in so many: the centroids still move far then."""
_LEAST = 10  # rows per centroid of such a pass: with fewer, many centroids would have none
_CELLS = 1 << 22  # pairs of centroids that are compared at a time
_LISTS = 256  # lists whose rows a thread compares at a time
_NEAR, _NEAR_PASSES, _FRESH = 128, 9, 3
"""All other passes compare a row with so many centroids near its own only, which are looked for again after some of
them: hardly any row moves further."""
_FEW_PASSES = 10  # where there are too few centroids for that


def kmeans(x_ND: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Centroids of unit length that nearly maximise the mean inner product of the rows with their nearest centroid.

    Lloyd's algorithm with centroids scaled to unit length (Dhillon, Modha 2001, "Concept decompositions for large
    sparse text data using clustering"). It starts from distinct random rows. A centroid without rows takes half of the
    list with the most rows. Where there are many centroids, only one pass multiplies all rows with all of them: those
    before are over a part of the rows, and those after it compare a row with centroids near its own.

    Args:
        x_ND: (N, D), float32 or float16, unit length; about 40 to 250 rows per centroid give good lists.
        count: number of centroids.
        seed: random seed for the first centroids.

    Returns:
        float32 (count, D).

    Raises:
        ValueError: count < 1, fewer rows than centroids, or a value that is not finite.
    """
    x_ND = np.asarray(x_ND, np.float32)
    if count < 1:
        raise ValueError(f"k-means needs at least 1 centroid, got {count}")
    if len(x_ND) < count:
        raise ValueError(
            f"k-means of {count} centroids needs as many rows, got {len(x_ND)}: ask for fewer, or add rows"
        )
    if not np.isfinite(x_ND.sum(axis=0, dtype=np.float64)).all():
        raise ValueError("k-means needs finite values, got NaN or infinity: leave those rows out")
    first = counter.generator(seed, "k-means").choice(len(x_ND), count, replace=False)
    centroid_MD = x_ND[np.sort(first)]
    if count <= 2 * _NEAR:
        for _ in range(_FEW_PASSES):
            _move(centroid_MD, x_ND, nearest(x_ND, centroid_MD)[0])
        return centroid_MD
    if len(x_ND) >= _PART * _LEAST * count:
        _improve(centroid_MD, np.ascontiguousarray(x_ND[::_PART]), _PART_PASSES, fresh=2)
    _improve(centroid_MD, x_ND, _NEAR_PASSES, fresh=_FRESH)
    return centroid_MD


def _improve(centroid_MD: np.ndarray, x_RD: np.ndarray, passes: int, fresh: int) -> None:
    """One pass that multiplies all rows with all centroids, and some which do not; moves the centroids in place."""
    list_R, _ = nearest(x_RD, centroid_MD)
    _move(centroid_MD, x_RD, list_R)
    for number in range(passes):
        if number % fresh == 0:
            near_MK = _nearest_each(centroid_MD)
        list_R = _nearest_near(x_RD, list_R, centroid_MD, near_MK)
        _move(centroid_MD, x_RD, list_R)


def _nearest_each(centroid_MD: np.ndarray) -> np.ndarray:
    """int32 (M, K): for each centroid, those nearest to it, itself among them; some at a time, since all pairs of a
    hundred thousand would take gigabytes."""
    near_MK = np.empty((len(centroid_MD), _NEAR), np.int32)

    def fill(part: slice) -> None:
        score_RM = centroid_MD[part] @ centroid_MD.T
        near_MK[part] = np.argpartition(-score_RM, _NEAR, axis=1)[:, :_NEAR]

    rows = max(1, _CELLS // len(centroid_MD))
    threads.each(fill, [slice(start, start + rows) for start in range(0, len(centroid_MD), rows)])
    return near_MK


def _nearest_near(x_ND: np.ndarray, list_N: np.ndarray, centroid_MD: np.ndarray, near_MK: np.ndarray) -> np.ndarray:
    """int64 (N,): for each row, the nearest of the centroids near the one of its list."""
    order_N = np.argsort(list_N, kind="stable")
    edges = [0, *np.cumsum(np.bincount(list_N, minlength=len(centroid_MD))).tolist()]
    new_N = np.empty_like(list_N)

    def fill(lists: slice) -> None:
        for number in range(lists.start, min(lists.stop, len(centroid_MD))):
            row_R, near_K = order_N[edges[number] : edges[number + 1]], near_MK[number]
            new_N[row_R] = near_K[(x_ND[row_R] @ centroid_MD[near_K].T).argmax(axis=1)]

    threads.each(fill, [slice(start, start + _LISTS) for start in range(0, len(centroid_MD), _LISTS)])
    return new_N


def _move(centroid_MD: np.ndarray, x_RD: np.ndarray, list_R: np.ndarray) -> None:
    """Moves each centroid to the mean of its rows, in place."""
    sum_MD = _sums(x_RD, list_R, len(centroid_MD))
    norm_M = np.linalg.norm(sum_MD, axis=1)
    there_M = norm_M > 0  # a list without rows, or whose rows cancel out, keeps its centroid
    centroid_MD[there_M] = sum_MD[there_M] / norm_M[there_M, None]
    _split(centroid_MD, np.bincount(list_R, minlength=len(centroid_MD)))


def _sums(x_ND: np.ndarray, list_N: np.ndarray, count: int) -> np.ndarray:
    """float32 (M, D): the sum of the rows of every list, by a sparse product: 30 times as fast as np.add.reduceat."""
    from scipy import sparse  # takes a tenth of a second to import, and a search imports this module

    one_N = np.ones(len(x_ND), np.float32)
    rows_NM = sparse.csr_matrix((one_N, list_N.astype(np.int32), np.arange(len(x_ND) + 1)), (len(x_ND), count))
    sum_MD: np.ndarray = rows_NM.T @ x_ND
    return sum_MD


def _split(centroid_MD: np.ndarray, size_M: np.ndarray) -> None:
    """Replaces centroids that have no rows by a half of the largest list, in place."""
    change_D = np.where(np.arange(centroid_MD.shape[1]) % 2 == 0, _SPLIT, -_SPLIT).astype(np.float32)
    for empty in np.flatnonzero(size_M == 0).tolist():
        largest = int(size_M.argmax())
        half_2D = centroid_MD[largest] * (1 + np.stack([change_D, -change_D]))
        centroid_MD[[empty, largest]] = half_2D / np.linalg.norm(half_2D, axis=1, keepdims=True)
        size_M[empty] = size_M[largest] // 2
        size_M[largest] -= size_M[empty]
