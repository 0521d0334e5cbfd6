"""Every pair of a labelled set of vectors: the scores of a sample, or exact operating points of all of them.

A million faces have half a trillion pairs, so similarities exist for a block at a time and are counted, not kept.
"""

# M: vectors, D: components, R: rows of a block, C: columns of a block, F: false accept rates, N: scores.

from collections.abc import Iterator, Sequence

import numpy as np

from metric_core import counter
from metric_core.artefacts.embeddings import Vectors, check_unit
from metric_core.evaluate.pairs import PairScores
from metric_core.metrics import OperatingPoint

BALANCED_PAIRS = 12_000
"""Pairs that the jobs report verification on, for want of a list: twice as many as LFW's list has."""
OPERATING_FARS = (1e-1, 1e-2, 1e-3, 1e-4)
_BLOCK = 2048
_BINS = 1 << 16
_LIMIT = 1.01  # vectors are of unit length within 2e-3, hence similarities below 1.005


def genuine_count(vectors: Vectors) -> int:
    """Pairs of two pictures of one person."""
    _, size = np.unique(vectors.identity_N.astype(str), return_counts=True)
    return int((size * (size - 1) // 2).sum())


def all_pairs_scores(vectors: Vectors, max_pairs: int, seed: int) -> PairScores:
    """Scores of all pairs when there are at most ``max_pairs``, else of a seeded sample of that size.

    The sample keeps every genuine pair if they fill at most half of it (and a uniform half-full of them otherwise), and
    fills the rest with distinct impostor pairs drawn uniformly; rates within each kind are unbiased.

    Args:
        vectors: labelled, unit length; their order does not matter.
        max_pairs: at least 2.
        seed: of the sample.

    Returns:
        Scores in one fold, genuine pairs first; either kind may be absent.
    """
    if max_pairs < 2:
        raise ValueError(f"max_pairs must be at least 2, got {max_pairs}")
    code_M, embedding_MD = _sorted(vectors)
    order_M = np.argsort(code_M, kind="stable")  # a person's pictures side by side
    rows = len(order_M)
    first_M = np.arange(1, rows + 1)
    end_M = np.searchsorted(code_M[order_M], code_M[order_M], side="right")
    genuine, impostor = int((end_M - first_M).sum()), int((rows - end_M).sum())
    random = counter.generator(seed, "all-pairs")
    kept = genuine if genuine + impostor <= max_pairs else min(genuine, max_pairs // 2)
    a_N, b_N = _pairs(first_M, end_M - first_M, kept, random)
    c_N, d_N = _pairs(end_M, rows - end_M, min(impostor, max_pairs - kept), random)
    same_N = np.arange(len(a_N) + len(c_N)) < len(a_N)
    score_N = _scores(embedding_MD, order_M[np.concatenate([a_N, c_N])], order_M[np.concatenate([b_N, d_N])])
    return PairScores(score_N, same_N, np.zeros(len(same_N), np.int64))


def balanced_scores(vectors: Vectors, max_pairs: int, seed: int) -> PairScores:
    """Scores of genuine pairs and of as many impostor pairs, ``max_pairs`` in all at most.

    Verification accuracy is stated for balanced lists such as LFW's; among *all* pairs nearly every one is an
    impostor's, and rejecting everybody would be accurate. Arguments as in ``all_pairs_scores``.
    """
    return all_pairs_scores(vectors, max(2, min(max_pairs, 2 * genuine_count(vectors))), seed)


def operating_points(vectors: Vectors, fars: Sequence[float] = OPERATING_FARS) -> list[OperatingPoint]:
    """Operating points on *all* pairs of a labelled set: exactly those of ``metrics.operating_point``.

    Two passes over blocks of similarities. The first counts impostor scores in 65 536 bins, which shows the bin of each
    threshold; the second collects the scores of those few bins, among which the exact one is picked.

    Args:
        vectors: labelled, unit length; their order does not matter.
        fars: false accept rates, in (0, 1).

    Returns:
        One point for each FAR of at least 10/impostor pairs, in the order given; none when there is no genuine or no
        impostor pair.

    Raises:
        ValueError: a vector is not of unit length.
    """
    check_unit(vectors.embedding_ND, "embeddings")
    code_M, embedding_MD = _sorted(vectors)
    positives = genuine_count(vectors)
    negatives = len(code_M) * (len(code_M) - 1) // 2 - positives
    fars = [far for far in fars if measurable(far, negatives)]
    if not fars or not positives:
        return []
    # Position, counted from the highest score, of the first impostor that must be rejected (see metrics).
    reject_F = np.array([int(np.floor(far * negatives + 1e-9)) for far in fars])
    count_b = np.zeros(_BINS, np.int64)
    genuine = []
    for score_N, same_N in _blocks(code_M, embedding_MD):
        genuine.append(score_N[same_N])
        # Counting all and taking the few genuine ones off again is twice as fast as picking out the impostors.
        count_b += np.bincount(_bin(score_N), minlength=_BINS) - np.bincount(_bin(genuine[-1]), minlength=_BINS)
    above_b = np.cumsum(count_b[::-1])[::-1] - count_b  # impostors in higher bins
    bin_F = np.array([int(np.flatnonzero(above_b <= reject)[0]) for reject in reject_F])
    chosen_b = np.zeros(_BINS, bool)
    chosen_b[bin_F] = True
    collected = []
    for score_N, same_N in _blocks(code_M, embedding_MD):
        at = np.flatnonzero(chosen_b[_bin(score_N)])
        collected.append(score_N[at[~same_N[at]]])
    near_N, genuine_N = np.sort(np.concatenate(collected))[::-1], np.concatenate(genuine)
    bin_N = _bin(near_N)
    points = []
    for far, reject, b in zip(fars, reject_F, bin_F):
        highest_rejected = near_N[bin_N == b][reject - above_b[b]]
        # The next float32, not float64: comparing a float32 score would round the latter back onto the impostor's.
        threshold = np.nextafter(highest_rejected, np.float32(np.inf))
        points.append(OperatingPoint(far, float(threshold), float(np.mean(genuine_N >= threshold)), negatives))
    return points


def measurable(far: float, negatives: int) -> bool:
    """Whether ``negatives`` impostor pairs suffice: 10 of them should be accepted at ``far`` ("rule of 30" made
    milder; Doddington et al. 2000 ask for 30 errors to be within 30 % at 90 % confidence)."""
    return negatives * far >= 10 * (1 - 1e-9)


def _blocks(code_M: np.ndarray, embedding_MD: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """float32 scores and bool "same person" of every unordered pair once, a block of the upper triangle at a time.

    Both passes make the same products of the same shapes, so they see the same bits.
    """
    for row in range(0, len(code_M), _BLOCK):
        for column in range(row, len(code_M), _BLOCK):
            sim_RC = embedding_MD[row : row + _BLOCK] @ embedding_MD[column : column + _BLOCK].T
            same_RC = code_M[row : row + _BLOCK, None] == code_M[None, column : column + _BLOCK]
            if row == column:
                upper = np.triu_indices(len(sim_RC), k=1)
                yield sim_RC[upper], same_RC[upper]
            else:
                yield sim_RC.reshape(-1), same_RC.reshape(-1)


def _bin(score_N: np.ndarray) -> np.ndarray:
    # Rounding moves a bin's edge by a hair, the same way for every score, and keeps the order.
    return ((score_N + np.float32(_LIMIT)) * np.float32(_BINS / (2 * _LIMIT))).astype(np.int64)


def _sorted(vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """Identity codes and float32 vectors in order of face_id."""
    order = np.argsort(vectors.face_id_N, kind="stable")
    _, code_M = np.unique(vectors.identity_N[order].astype(str), return_inverse=True)
    return code_M.astype(np.int32), np.ascontiguousarray(vectors.embedding_ND[order], dtype=np.float32)


def _pairs(
    first_M: np.ndarray, count_M: np.ndarray, wanted: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides of ``wanted`` different pairs, drawn uniformly from those of each row with the ``count`` rows that
    begin at ``first``; numbered through, so that none is made that is not wanted."""
    last_M = np.cumsum(count_M)
    there = int(last_M[-1]) if len(last_M) else 0
    at_N = np.arange(there) if wanted == there else np.sort(random.choice(there, wanted, replace=False, shuffle=False))
    row_N = np.searchsorted(last_M, at_N, side="right")
    return row_N, first_M[row_N] + at_N - (last_M - count_M)[row_N]


def _scores(embedding_MD: np.ndarray, a_N: np.ndarray, b_N: np.ndarray) -> np.ndarray:
    out = np.empty(len(a_N), np.float64)
    for start in range(0, len(a_N), 1 << 16):
        at = slice(start, start + (1 << 16))
        out[at] = np.einsum("nd,nd->n", embedding_MD[a_N[at]], embedding_MD[b_N[at]])
    return out
