"""Exact nearest neighbours of every vector among the others, for the protocols ``retrieval``, ``classification`` and
``clustering``.

Half a million faces have 10^11 similarities. They are computed in blocks, and only those that may still be among a
query's nearest are processed further. This takes 1.2 to 1.7 times the CPU time of ``faiss.knn``, which cannot leave out
a query's own row and breaks ties arbitrarily.
"""

# N: vectors, D: components, B: queries of a block, C: vectors of a block, K: neighbours, M: candidates of a block,
# W: kept neighbours and candidates of a query.

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from metric_core.artefacts.embeddings import Vectors
from metric_core.errors import TooFewImages

GRID = 1 << 20  # scores are rounded to multiples of 1/GRID, about the rounding error of a float32 cosine
_BLOCK = 1024
_CELLS = 1 << 21  # neighbours in memory at a time
_NONE = -4 * GRID << 32  # the key of no neighbour, below that of every cosine


@dataclass(frozen=True)
class Near:
    """The nearest neighbours of some queries, best first; equal scores in order of face_id."""

    row_B: np.ndarray
    """int64 (B,): positions of the queries among the vectors"""
    at_BK: np.ndarray
    """int64 (B, K): positions of their neighbours"""
    score_BK: np.ndarray
    """float32 (B, K): cosine similarity, rounded to multiples of 1/GRID"""


def people(vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """The person on each picture, and the number of *other* pictures of that person.

    Returns:
        (code_N, others_N), int64: identities numbered in order of their names, and counts.

    Raises:
        TooFewImages: there are fewer than two people, or nobody has two pictures.
    """
    names, code_N, size = np.unique(vectors.identity_N.astype(str), return_inverse=True, return_counts=True)
    if len(names) < 2 or len(names) == len(code_N):
        raise TooFewImages(
            f"an evaluation of neighbours needs at least 2 people, one of them with 2 pictures; there are "
            f"{len(names)} people with {len(code_N)} pictures"
        )
    return code_N, size[code_N] - 1


def nearest_others(vectors: Vectors, k_N: np.ndarray) -> Iterator[Near]:
    """The nearest neighbours of every vector among the others, in blocks of queries with similar numbers of neighbours.

    Blocks are formed in order of face_id, so the results have the same bits for every order of the rows.

    Args:
        vectors: unit length; their order does not matter.
        k_N: int (N,), the number of neighbours for each vector; 0 if it is not a query. A block's K is the largest
            number of its queries.

    Raises:
        ValueError: a number of neighbours exceeds the number of other vectors.
    """
    if len(k_N) and int(k_N.max()) >= len(vectors):
        raise ValueError(f"{int(k_N.max())} neighbours are requested, but a vector has {len(vectors) - 1} others")
    order_N = np.argsort(vectors.face_id_N, kind="stable")
    place_N = np.argsort(order_N)
    rows = order_N[np.argsort(-k_N[order_N], kind="stable")][: np.count_nonzero(k_N)]
    while len(rows):
        k = int(k_N[rows[0]])
        row_B, rows = np.split(rows, [max(1, min(_BLOCK, _CELLS // k))])
        key_BK = _nearest_keys(vectors.embedding_ND, row_B, place_N[row_B], order_N, k)
        key_BK.sort(axis=1)
        key_BK = key_BK[:, ::-1]
        yield Near(row_B, order_N[~key_BK & 0xFFFFFFFF], ((key_BK >> 32) / GRID).astype(np.float32))


def _nearest_keys(
    embedding_ND: np.ndarray, row_B: np.ndarray, place_B: np.ndarray, order_N: np.ndarray, k: int
) -> np.ndarray:
    """int64 (B, K): the highest keys of each query. A key has the score in its upper half and the complement of the
    place in order of face_id in its lower half, so that of two equal scores the smaller id has the higher key."""
    query_BD = embedding_ND[row_B]
    key_BK = np.full((len(row_B), k), _NONE)
    for start in range(0, len(order_N), _BLOCK):
        sim_BC = query_BD @ embedding_ND[order_N[start : start + _BLOCK]].T
        own = np.flatnonzero((place_B >= start) & (place_B < start + sim_BC.shape[1]))
        sim_BC[own, place_B[own] - start] = -np.inf
        # partition() below puts the lowest key first. Later places lose ties, so candidates must exceed it.
        floor_B1 = (((key_BK[:, :1] >> 32) + 0.5) / GRID).astype(np.float32)
        at_M = np.flatnonzero(sim_BC >= floor_B1)
        if not len(at_M):
            continue
        row_M, column_M = np.divmod(at_M, sim_BC.shape[1])
        key_M = (np.rint(sim_BC.reshape(-1)[at_M] * GRID).astype(np.int64) << 32) | (~(start + column_M) & 0xFFFFFFFF)
        count_B = np.bincount(row_M, minlength=len(row_B))
        wide_BW = np.full((len(row_B), k + count_B.max()), _NONE)
        wide_BW[:, :k] = key_BK
        wide_BW[row_M, k + np.arange(len(row_M)) - np.repeat(np.cumsum(count_B) - count_B, count_B)] = key_M
        wide_BW.partition(count_B.max(), axis=1)
        key_BK = wide_BW[:, -k:].copy()
    return key_BK
