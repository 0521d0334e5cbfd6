"""Measures the recall of an index, and finds the smallest number of lists that reaches a target.

The truth comes from a scan of all vectors in blocks. Choosing the target is left to the job.
"""

# Q: queries, D: components, B: rows of a block, K: neighbours per query, W: candidates that are kept.

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from metric_core.artefacts.embeddings import Vectors
from metric_core.index.search import Index, Neighbours

_SAME = 1e-6  # two float32 sums of one dot product may differ by this much

_BLOCK = 16384


@dataclass(frozen=True)
class Truth:
    """The exact nearest vectors of some queries."""

    query_QD: np.ndarray
    """float32, unit length"""
    exclude_face_id_Q: np.ndarray
    """int64; the face that each query ignores, -1 for none"""
    k: int
    """true neighbours per query"""
    near: Neighbours
    """More than ``k`` per query, to include those that tie with the k-th"""


@dataclass(frozen=True)
class Tuned:
    """A number of lists and its recall."""

    nprobe: int | None
    """inverted lists scanned per query; None for a flat index"""
    recall: float
    """share of the ``k`` true neighbours found"""
    k: int
    queries: int


def exact(
    query_QD: np.ndarray, blocks: Iterable[Vectors], k: int, exclude_face_id_Q: np.ndarray | None = None
) -> Truth:
    """The true nearest vectors among ``blocks``, in one pass, with one block of similarities at a time.

    Args:
        query_QD: float32 (Q, D), unit length.
        blocks: all vectors of the index.
        k: neighbours per query.
        exclude_face_id_Q: int64 (Q,), the queries' own ids if they are in the index: finding oneself proves nothing.
    """
    exclude_Q = np.full(len(query_QD), -1, np.int64) if exclude_face_id_Q is None else exclude_face_id_Q
    width = 2 * k + 16
    score_QW = np.full((len(query_QD), width), -np.inf, np.float32)
    id_QW = np.full((len(query_QD), width), -1, np.int64)
    for block in blocks:
        for start in range(0, len(block), _BLOCK):
            id_B = block.face_id_N[start : start + _BLOCK]
            sim_QB = query_QD @ block.embedding_ND[start : start + _BLOCK].T
            sim_QB[exclude_Q[:, None] == id_B[None, :]] = -np.inf
            all_score = np.concatenate([score_QW, sim_QB], axis=1)
            all_id = np.concatenate([id_QW, np.broadcast_to(id_B, sim_QB.shape)], axis=1)
            best = np.argpartition(-all_score, width - 1, axis=1)[:, :width]
            score_QW, id_QW = np.take_along_axis(all_score, best, 1), np.take_along_axis(all_id, best, 1)
    order = np.lexsort((id_QW, -score_QW), axis=-1)
    score_QW, id_QW = np.take_along_axis(score_QW, order, 1), np.take_along_axis(id_QW, order, 1)
    return Truth(query_QD, exclude_Q, k, Neighbours(score_QW, np.where(np.isneginf(score_QW), -1, id_QW)))


def recall_at(index: Index, truth: Truth, nprobe: int | None = None) -> float:
    """Share of the true ``k`` nearest found among the index's ``k`` nearest; vectors that tie with the k-th count, too.

    Raises:
        ValueError: there are no queries or no vectors.
    """
    k = truth.k
    there_Q = (truth.near.face_id_QK[:, :k] >= 0).sum(axis=1)  # an index may have fewer than k vectors
    if not there_Q.sum():
        raise ValueError("recall needs at least one query and one vector other than the query's own")
    kth_Q = truth.near.score_QK[np.arange(len(there_Q)), np.maximum(there_Q, 1) - 1]
    right_QW = (truth.near.score_QK >= kth_Q[:, None] - _SAME) & (truth.near.face_id_QK >= 0)
    true_QW = np.where(right_QW, truth.near.face_id_QK, -2)
    found_QK = index.search(truth.query_QD, k, nprobe=nprobe, exclude_face_id_Q=truth.exclude_face_id_Q).face_id_QK
    hits = sum(int(np.isin(found, true).sum()) for found, true in zip(found_QK, true_QW))
    return hits / int(there_Q.sum())


def tune_nprobe(index: Index, truth: Truth, target: float) -> Tuned:
    """The smallest number of lists whose recall on ``truth`` reaches ``target``.

    The number is doubled until it does, then the interval is bisected: recall never falls when more lists are scanned,
    and scanning all of them is exact. A flat index has nothing to tune, only its recall is measured.

    Raises:
        ValueError: target outside (0, 1], or as ``recall_at``.
    """
    if not 0 < target <= 1:
        raise ValueError(f"target recall must be in (0, 1], got {target}")
    if index.nlist is None:
        return Tuned(None, recall_at(index, truth), truth.k, len(truth.query_QD))
    low, high = 0, 1
    recall = recall_at(index, truth, high)
    while recall < target and high < index.nlist:
        low, high = high, min(2 * high, index.nlist)
        recall = recall_at(index, truth, high)
    while high - low > 1:
        middle = (low + high) // 2
        if (there := recall_at(index, truth, middle)) >= target:
            high, recall = middle, there
        else:
            low = middle
    return Tuned(high, recall, truth.k, len(truth.query_QD))
