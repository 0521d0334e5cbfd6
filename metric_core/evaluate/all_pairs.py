"""All pairs of a labelled set of vectors: the scores of a sample of pairs, or exact operating points on all of them.

A million faces have half a trillion pairs, so similarities are computed one block at a time and counted, not kept.
"""

# M: vectors, D: components, R: rows of a block, C: columns of a block, F: false accept rates, N: scores.

from collections.abc import Iterator, Sequence

import numpy as np

from metric_core import counter
from metric_core.artefacts.embeddings import Vectors, check_unit
from metric_core.evaluate.pairs import PairScores
from metric_core.metrics import OperatingPoint

BALANCED_PAIRS = 12_000
"""Pairs for verification when no list is given: twice as many as in LFW's list."""
OPERATING_FARS = (1e-1, 1e-2, 1e-3, 1e-4)
_BLOCK = 2048
_BINS = 1 << 16
_LIMIT = 1.01  # vectors are of unit length within 2e-3, so similarities are below 1.005


def genuine_count(vectors: Vectors) -> int:
    """The number of genuine pairs."""
    _, size = np.unique(vectors.identity_N.astype(str), return_counts=True)
    return int((size * (size - 1) // 2).sum())


def all_pairs_scores(vectors: Vectors, max_pairs: int, seed: int) -> PairScores:
    """Scores of all pairs when there are at most ``max_pairs``, else of a seeded sample of at most that size.

    The sample has all genuine pairs if they fill at most half of it, else a uniform sample of them that fills half.
    The rest are distinct impostor pairs, drawn uniformly. Rates within each kind are unbiased.

    Args:
        vectors: labelled, unit length; their order does not matter.
        max_pairs: at least 2.
        seed: random seed for the sample.

    Returns:
        Scores in one fold, genuine pairs first; there may be no pairs of one kind.

    Raises:
        ValueError: ``max_pairs`` is below 2.
    """
    if max_pairs < 2:
        raise ValueError(f"max_pairs must be at least 2, got {max_pairs}")
    code_M, embedding_MD = _sorted(vectors)
    order_M = np.argsort(code_M, kind="stable")  # each person's pictures are adjacent
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
    """Scores of genuine pairs and of equally many impostor pairs, at most ``max_pairs`` in total.

    Verification accuracy is reported on balanced lists such as LFW's. Among *all* pairs nearly every one is an impostor
    pair, so rejecting all of them would be accurate. Arguments as in ``all_pairs_scores``.
    """
    return all_pairs_scores(vectors, max(2, min(max_pairs, 2 * genuine_count(vectors))), seed)


def operating_points(vectors: Vectors, fars: Sequence[float] = OPERATING_FARS) -> list[OperatingPoint]:
    """Operating points on *all* pairs of a labelled set, exactly those of ``metrics.operating_point``.

    Two passes over blocks of similarities. The first counts impostor scores in 65 536 bins, which gives the bin of each
    threshold. The second collects the scores in those few bins and picks the exact threshold from them.

    Args:
        vectors: labelled, unit length; their order does not matter.
        fars: false accept rates, in (0, 1).

    Returns:
        One point for each FAR of at least 10/(number of impostor pairs), in the given order; none when there are no
        genuine or no impostor pairs.

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
    # Position, from the highest score down, of the first impostor that must be rejected (see metrics).
    reject_F = np.array([int(np.floor(far * negatives + 1e-9)) for far in fars])
    count_b = np.zeros(_BINS, np.int64)
    genuine = []
    for score_N, same_N in _blocks(code_M, embedding_MD):
        genuine.append(score_N[same_N])
        # Counting all scores and subtracting the few genuine ones is twice as fast as selecting the impostors.
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
        # The next float32, not float64: in a comparison with float32 scores a float64 would be rounded back.
        threshold = np.nextafter(highest_rejected, np.float32(np.inf))
        points.append(OperatingPoint(far, float(threshold), float(np.mean(genuine_N >= threshold)), negatives))
    return points


def measurable(far: float, negatives: int) -> bool:
    """Whether ``negatives`` impostor pairs are enough for ``far``: at least 10 of them are expected to be accepted. A
    milder "rule of 30" (Doddington et al. 2000), which needs 30 errors to be within 30 % at 90 % confidence."""
    return negatives * far >= 10 * (1 - 1e-9)


def _blocks(code_M: np.ndarray, embedding_MD: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores (float32) and same-person labels (bool) of every unordered pair, a block of the upper triangle at a time.

    Both passes compute the same products of the same shapes, so they get the same bits.
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
    # Rounding moves the bins' edges slightly, but equally for all scores, and keeps the order.
    return ((score_N + np.float32(_LIMIT)) * np.float32(_BINS / (2 * _LIMIT))).astype(np.int64)


def _sorted(vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
    """Identity codes and float32 vectors in order of face_id."""
    order = np.argsort(vectors.face_id_N, kind="stable")
    _, code_M = np.unique(vectors.identity_N[order].astype(str), return_inverse=True)
    return code_M.astype(np.int32), np.ascontiguousarray(vectors.embedding_ND[order], dtype=np.float32)


def _pairs(
    first_M: np.ndarray, count_M: np.ndarray, wanted: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides of ``wanted`` distinct pairs, drawn uniformly from the pairs of each row with the ``count`` rows from
    ``first`` on. Pairs are drawn by number, so that only the wanted ones are created."""
    last_M = np.cumsum(count_M)
    total = int(last_M[-1]) if len(last_M) else 0
    at_N = np.arange(total) if wanted == total else np.sort(random.choice(total, wanted, replace=False, shuffle=False))
    row_N = np.searchsorted(last_M, at_N, side="right")
    return row_N, first_M[row_N] + at_N - (last_M - count_M)[row_N]


def _scores(embedding_MD: np.ndarray, a_N: np.ndarray, b_N: np.ndarray) -> np.ndarray:
    out = np.empty(len(a_N), np.float64)
    for start in range(0, len(a_N), 1 << 16):
        at = slice(start, start + (1 << 16))
        out[at] = np.einsum("nd,nd->n", embedding_MD[a_N[at]], embedding_MD[b_N[at]])
    return out
