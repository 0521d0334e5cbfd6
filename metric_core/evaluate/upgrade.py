"""How scores move from one model to the next: the same pairs of the same faces, scored with the vectors of both.

Rates, thresholds and neighbours are those of ``metrics``, ``all_pairs`` and ``neighbours``. Which faces are looked at
is left to the caller.
"""

# N: pairs, V: vectors.

from dataclasses import dataclass
from typing import Any

import numpy as np

from metric_core import metrics
from metric_core.artefacts.embeddings import Vectors
from metric_core.evaluate import all_pairs, neighbours
from metric_core.evaluate.pairs import PairScores

MAX_PAIRS = 1_000_000
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True)
class Upgrade:
    """What was found."""

    report: dict[str, Any]
    old: PairScores
    """The pairs whose quantiles are reported, as the old model scores them."""
    new: PairScores
    """The same pairs, as the new one does."""


def compare(old: Vectors, new: Vectors, threshold: float | None, seed: int) -> Upgrade:
    """Compare two models on the same faces.

    Args:
        old: one model's vectors.
        new: the other's, of the same faces in the same order; who is who is taken from these.
        threshold: one in use with the old model, to be carried over.
        seed: of the sample of pairs.

    Returns:
        The report: {old and new: {genuine: {quantile: score}, impostor: {...}, auc}, operating_points: [{far, old:
        {threshold, tar}, new: {threshold, tar}}], rank1: {old, new, changed, lost, won}[, threshold: {old, far,
        new}]}. Rates at a FAR are exact over all pairs; ``changed`` is the share of faces whose nearest other face
        shows another person than before, ``lost`` and ``won`` those of them that were, or became, right. The new
        threshold is the one with the old one's FAR, None when that was 0.

    Raises:
        ValueError: the faces are not the same.
        TooFewImages: fewer than two people, or nobody with two pictures.
    """
    if not np.array_equal(old.face_id_N, new.face_id_N):
        raise ValueError("both must hold the same faces in the same order")
    old = Vectors(new.face_id_N, new.identity_N, old.embedding_ND)
    rank1 = _rank1(old, new)
    scores = [all_pairs.all_pairs_scores(vectors, MAX_PAIRS, seed) for vectors in (old, new)]
    points = zip(*(all_pairs.operating_points(vectors) for vectors in (old, new)))
    report: dict[str, Any] = {
        "old": _distribution(scores[0]),
        "new": _distribution(scores[1]),
        "operating_points": [
            {
                "far": a.far,
                "old": {"threshold": a.threshold, "tar": a.tar},
                "new": {"threshold": b.threshold, "tar": b.tar},
            }
            for a, b in points
        ],
        "rank1": rank1,
    }
    if threshold is not None:
        far = float(np.mean(scores[0].score_N[~scores[0].same_N] >= threshold))
        carried = metrics.operating_point(scores[1].score_N, scores[1].same_N, far).threshold if 0 < far < 1 else None
        report["threshold"] = {"old": threshold, "far": far, "new": carried}
    return Upgrade(report, *scores)


def _distribution(scores: PairScores) -> dict[str, Any]:
    kinds = {"genuine": scores.score_N[scores.same_N], "impostor": scores.score_N[~scores.same_N]}
    found = {kind: metrics.quantiles(score_N, QUANTILES) for kind, score_N in kinds.items()}
    return found | {"auc": metrics.auc(scores.score_N, scores.same_N)}


def _rank1(old: Vectors, new: Vectors) -> dict[str, float]:
    code_V, others_V = neighbours.people(new)
    asking_V = others_V > 0
    named = []
    for vectors in (old, new):
        named_V = np.full(len(vectors), -1)
        for near in neighbours.nearest_others(vectors, asking_V.astype(np.int64)):
            named_V[near.row_B] = code_V[near.at_BK[:, 0]]
        named.append(named_V[asking_V])
    right = [named_Q == code_V[asking_V] for named_Q in named]
    return {
        "old": float(right[0].mean()),
        "new": float(right[1].mean()),
        "changed": float((named[0] != named[1]).mean()),
        "lost": float((right[0] & ~right[1]).mean()),
        "won": float((~right[0] & right[1]).mean()),
    }
