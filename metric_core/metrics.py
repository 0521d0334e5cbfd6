"""Verification metrics and quantiles: pure functions from arrays to numbers.

Scores are similarities (higher is more alike), and a pair is accepted when score >= threshold. Which pairs are
scored, and what is done with the numbers, is decided in ``evaluate`` and in training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and its rates, measured with ``negatives`` impostor pairs."""

    far: float
    """The requested false accept rate; the measured one is at most this."""
    threshold: float
    """Accept when similarity >= threshold."""
    tar: float
    """True accept rate: the share of genuine pairs accepted."""
    negatives: int
    """Impostor pairs that the threshold was computed from; below 10/far the point is not reliable."""


def operating_point(score_N: np.ndarray, same_N: np.ndarray, far: float) -> OperatingPoint:
    """The most permissive threshold whose false accept rate is at most ``far`` (never merely the nearest).

    Args:
        score_N: float (N,), similarities.
        same_N: bool (N,), whether the pair is genuine.
        far: in (0, 1).

    Raises:
        ValueError: there is no genuine or no impostor pair, or ``far`` is outside (0, 1).
    """
    score_N, same_N = _checked(score_N, same_N)
    if not 0 < far < 1:
        raise ValueError(f"far must lie in (0, 1), got {far}")
    impostor = np.sort(score_N[~same_N])[::-1]
    allowed = int(np.floor(far * len(impostor) + 1e-9))  # impostors that may be accepted; 1e-9: 0.29 * 100 is below 29
    # The first impostor that must be rejected lies just below the threshold; ties with it are rejected too.
    threshold = np.nextafter(impostor[allowed], np.inf) if allowed < len(impostor) else impostor[-1]
    tar = float(np.mean(score_N[same_N] >= threshold))
    return OperatingPoint(far=far, threshold=float(threshold), tar=tar, negatives=len(impostor))


def auc(score_N: np.ndarray, same_N: np.ndarray) -> float:
    """Area under the ROC curve. Raises ValueError unless there are both genuine and impostor pairs."""
    score_N, same_N = _checked(score_N, same_N)
    return float(roc_auc_score(same_N, score_N))


def eer(score_N: np.ndarray, same_N: np.ndarray) -> float:
    """Equal error rate: where the false accept and reject rates cross, interpolated linearly between ROC points."""
    score_N, same_N = _checked(score_N, same_N)
    far, tar, _ = roc_curve(same_N, score_N, drop_intermediate=False)
    gap = far - (1 - tar)  # rises from -1 to +1
    i = int(np.argmax(gap >= 0))
    if gap[i] == 0 or i == 0:
        return float(far[i])
    w = -gap[i - 1] / (gap[i] - gap[i - 1])
    return float(far[i - 1] + w * (far[i] - far[i - 1]))


def best_threshold(score_N: np.ndarray, same_N: np.ndarray) -> float:
    """The threshold with the highest accuracy, in the middle between two scores so that it generalises."""
    score_N, same_N = _checked(score_N, same_N)
    order = np.argsort(score_N, kind="stable")
    sorted_score, sorted_same = score_N[order], same_N[order]
    # Rejecting the first i pairs is correct for the impostor pairs among them and for the genuine pairs after them.
    right = np.concatenate([[0], np.cumsum(~sorted_same)]) + np.concatenate([np.cumsum(sorted_same[::-1])[::-1], [0]])
    cuts = np.concatenate([[-np.inf], sorted_score, [np.inf]])
    allowed = cuts[1:] > cuts[:-1]  # no cut between equal scores
    i = int(np.argmax(np.where(allowed, right, -1)))
    low, high = cuts[i], cuts[i + 1]
    if np.isneginf(low):
        return float(high)
    return float(np.nextafter(low, np.inf) if np.isposinf(high) else (low + high) / 2)


def fold_accuracies(score_N: np.ndarray, same_N: np.ndarray, fold_N: np.ndarray) -> np.ndarray:
    """Accuracy per fold, with the threshold chosen on the *other* folds (LFW's protocol, Huang et al. 2007).

    Returns:
        float64 (folds,), in the order of the fold numbers.

    Raises:
        ValueError: there are fewer than 2 folds.
    """
    score_N, same_N = _checked(score_N, same_N)
    folds = np.unique(fold_N)
    if len(folds) < 2:
        raise ValueError("choosing the threshold on the other folds needs at least 2 folds")
    out = []
    for fold in folds:
        held_out = fold_N == fold
        threshold = best_threshold(score_N[~held_out], same_N[~held_out])
        out.append(np.mean((score_N[held_out] >= threshold) == same_N[held_out]))
    return np.array(out)


def quantiles(value_N: np.ndarray, share_Q: Sequence[float]) -> dict[str, float]:
    """{share: quantile} as in reports, rounded to four decimals; empty when there are no values."""
    if not len(value_N):
        return {}
    return {f"{q:g}": round(float(v), 4) for q, v in zip(share_Q, np.quantile(value_N, share_Q), strict=True)}


def _checked(score_N: np.ndarray, same_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    score_N, same_N = np.asarray(score_N, dtype=np.float64), np.asarray(same_N, dtype=bool)
    if score_N.shape != same_N.shape or score_N.ndim != 1:
        raise ValueError(f"scores {score_N.shape} and labels {same_N.shape} must be vectors of the same length")
    if not np.isfinite(score_N).all():
        raise ValueError("scores contain NaN or infinity")
    if same_N.all() or not same_N.any():
        raise ValueError(f"both genuine and impostor pairs are needed, got {same_N.sum()} genuine of {len(same_N)}")
    return score_N, same_N
