"""How scores change from one model to the next: the same pairs of the same faces, scored with the vectors of both.

Rates, thresholds and neighbours are computed by ``metrics``, ``all_pairs`` and ``neighbours``. The caller chooses the
faces.
"""

# N: pairs, V: vectors, Q: queries.

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
    """The result of a comparison."""

    report: dict[str, Any]
    """See ``compare``."""
    old: PairScores
    """The old model's scores of the pairs whose quantiles are reported."""
    new: PairScores
    """The new model's scores of the same pairs."""


def compare(old: Vectors, new: Vectors, threshold: float | None, seed: int) -> Upgrade:
    """Compare two models on the same faces.

    Args:
        old: the old model's vectors.
        new: the new model's vectors of the same faces in the same order; identities are taken from these.
        threshold: a threshold in use with the old model, to be converted; None for none.
        seed: random seed for the sample of pairs.

    Returns:
        The report: {old and new: {genuine: {quantile: score}, impostor: {...}, auc}, operating_points: [{far, old:
        {threshold, tar}, new: {threshold, tar}}], rank1: {old, new, changed, lost, won}[, threshold: {old, far,
        new}]}. Rates at a FAR are exact over all pairs. In ``rank1``, ``changed`` is the share of faces whose nearest
        other face shows another person than before; ``lost`` is the share that was correct and is now wrong, ``won``
        the reverse. The new threshold has the old one's FAR; it is None if that FAR is 0 or 1.

    Raises:
        ValueError: the faces are not the same.
        TooFewImages: there are fewer than two people, or nobody has two pictures.
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
        matched = metrics.operating_point(scores[1].score_N, scores[1].same_N, far).threshold if 0 < far < 1 else None
        report["threshold"] = {"old": threshold, "far": far, "new": matched}
    return Upgrade(report, *scores)


def _distribution(scores: PairScores) -> dict[str, Any]:
    kinds = {"genuine": scores.score_N[scores.same_N], "impostor": scores.score_N[~scores.same_N]}
    found = {kind: metrics.quantiles(score_N, QUANTILES) for kind, score_N in kinds.items()}
    return found | {"auc": metrics.auc(scores.score_N, scores.same_N)}


def _rank1(old: Vectors, new: Vectors) -> dict[str, float]:
    code_V, others_V = neighbours.people(new)
    query_V = others_V > 0
    predicted = []
    for vectors in (old, new):
        predicted_V = np.full(len(vectors), -1)
        for near in neighbours.nearest_others(vectors, query_V.astype(np.int64)):
            predicted_V[near.row_B] = code_V[near.at_BK[:, 0]]
        predicted.append(predicted_V[query_V])
    correct = [predicted_Q == code_V[query_V] for predicted_Q in predicted]
    return {
        "old": float(correct[0].mean()),
        "new": float(correct[1].mean()),
        "changed": float((predicted[0] != predicted[1]).mean()),
        "lost": float((correct[0] & ~correct[1]).mean()),
        "won": float((~correct[0] & correct[1]).mean()),
    }
