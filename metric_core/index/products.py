"""The matrix products of the index, by NumPy or on the GPU: the only module of ``index`` that chooses between them.

The last bits of a product depend on the library, on the shape of the block and on the number of threads. So products
only select candidates, with ``slack`` to spare, and ``scores`` computes what is reported from each pair by itself.
"""

# N, R: rows, Q: queries, M: centroids, D: components, C: candidate pairs of a row and a query.

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from metric_core.index import threads

_CELLS = 1 << 20  # of a product: 4 MB, so that it is still in the cache when it is compared
_GPU_CELLS = 1 << 26
_PAIRS = 16384
_FEW = 4
"""Up to so many vectors NumPy's own loop beats BLAS: for one against 65,536 of 512 components, by a factor of two."""
_WORTH_A_COPY = 64
"""Columns from which a product costs a CPU more than copying its rows to a GPU does."""


def tile(columns: int) -> int:
    """Number of rows to multiply at a time with ``columns`` queries."""
    cells = _CELLS if _cuda(columns) is None else _GPU_CELLS
    return min(max(1024, cells // max(columns, 1)), 65536)


def slack(query_QD: np.ndarray) -> np.ndarray:
    """float32 (Q,): the most by which a float32 product of a query and a vector of norm <= 2 differs from ``scores``.

    Either sum of D terms is off by at most D u |x| |y|, with u = 2^-24, in whatever order it is added up (Higham 2002,
    "Accuracy and Stability of Numerical Algorithms", §3.1).
    """
    slack_Q: np.ndarray = np.linalg.norm(query_QD, axis=1) * np.float32(query_QD.shape[1] * 2.0**-22)
    return slack_Q


def product(x_ND: np.ndarray, y_MD: np.ndarray) -> np.ndarray:
    """float32 (N, M): all inner products, whose last bits depend on the shapes."""
    if min(len(x_ND), len(y_MD)) > _FEW:
        product_NM: np.ndarray = x_ND @ y_MD.T
    else:
        product_NM = np.einsum("nd,md->nm", x_ND, y_MD)
    return product_NM


def scores(row_RD: np.ndarray, row_C: np.ndarray, query_QD: np.ndarray, query_C: np.ndarray) -> np.ndarray:
    """float32 (C,): inner products of ``row_RD[row_C]`` and ``query_QD[query_C]``; each depends on its pair alone."""
    score_C = np.empty(len(row_C), np.float32)
    for start in range(0, len(row_C), _PAIRS):
        part = slice(start, start + _PAIRS)
        # Not a product: BLAS adds up in an order that depends on the position of the pair.
        np.einsum("cd,cd->c", row_RD.take(row_C[part], 0), query_QD.take(query_C[part], 0), out=score_C[part])
    return score_C


def above(row_RD: np.ndarray, query_QD: np.ndarray, floor_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs whose inner product reaches the query's floor: int64 row_C and query_C.

    Args:
        row_RD: float32, ``tile(Q)`` rows or fewer.
        query_QD: float32.
        floor_Q: float32.
    """
    torch = _cuda(len(query_QD))
    if torch is None:
        above_RQ = product(row_RD, query_QD) >= floor_Q
        row_C, query_C = np.divmod(np.flatnonzero(above_RQ), len(query_QD))  # many times faster than np.nonzero
        return row_C, query_C
    with _exactly(torch):
        product_RQ = _copied(torch, row_RD) @ _copied(torch, query_QD).T
        pair_C2 = torch.nonzero(product_RQ >= _copied(torch, floor_Q)).cpu().numpy()
    return pair_C2[:, 0], pair_C2[:, 1]


def nearest(x_ND: np.ndarray, centroid_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centroid with the largest inner product, the first of those that tie, for every row.

    Args:
        x_ND: (N, D), float32, or float16, which is converted block by block.
        centroid_MD: float32 (M, D), at least one.

    Returns:
        int64 (N,) numbers of centroids, and float32 (N,) inner products.
    """
    list_N, score_N = np.empty(len(x_ND), np.int64), np.empty(len(x_ND), np.float32)
    torch = _cuda(len(centroid_MD))
    centroids = centroid_MD if torch is None else _copied(torch, centroid_MD)
    rows = max(256, (_CELLS if torch is None else _GPU_CELLS) // len(centroid_MD))

    def fill(part: slice) -> None:
        x_RD = np.asarray(x_ND[part], np.float32)
        if torch is None:
            product_RM = x_RD @ centroids.T
            list_N[part] = best_R = product_RM.argmax(axis=1)
            score_N[part] = np.take_along_axis(product_RM, best_R[:, None], 1)[:, 0]
        else:
            with _exactly(torch):
                best = torch.max(_copied(torch, x_RD) @ centroids.T, dim=1)
            list_N[part], score_N[part] = best.indices.cpu().numpy(), best.values.cpu().numpy()

    parts = [slice(start, start + rows) for start in range(0, len(x_ND), rows)]
    if torch is None:
        threads.each(fill, parts)
    else:
        for part in parts:
            fill(part)
    return list_N, score_N


def on_gpu(columns: int) -> bool:
    """Whether products with so many columns are computed on a GPU."""
    return _cuda(columns) is not None


def _cuda(columns: int) -> Any | None:
    """PyTorch, if the process has loaded it already and it has a GPU that is worth using."""
    if columns < _WORTH_A_COPY:
        return None
    torch: Any = sys.modules.get("torch")  # importing it would take seconds and 300 MB
    return torch if torch is not None and torch.cuda.is_available() else None


def _copied(torch: Any, x: np.ndarray) -> Any:
    return torch.tensor(x, device="cuda")


@contextmanager
def _exactly(torch: Any) -> Iterator[None]:
    """Products in float32, not in TF32, whose error is larger than ``slack``."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
