"""Classification: who is it, by the vote of the most similar pictures? Every picture is judged by all the others.

The vote is the weighted k-nearest-neighbour classifier of Wu et al. 2018, "Unsupervised Feature Learning via
Non-Parametric Instance Discrimination" (arXiv:1805.01978, section 3.4): no training, so that it judges the vectors.
"""

# N: vectors, B: queries of a block, K: neighbours.

from typing import Any

import numpy as np

from metric_core.artefacts.embeddings import Vectors
from metric_core.evaluate.neighbours import nearest_others, people

TEMPERATURE = 0.07  # Wu et al. 2018; a vote 0.07 less similar weighs 1/e


def report(vectors: Vectors, neighbours: int) -> dict[str, Any]:
    """What is reported of classification, leaving one out: every picture is named by its nearest others.

    A neighbour votes for its person with weight exp(similarity / 0.07): with equal votes, somebody's only other picture
    would lose to any two of a stranger's. Equal sums go to the person with the nearer picture, equally near ones to
    the one with the smaller face_id. Who has one picture cannot be named and is not judged, but votes.

    Args:
        vectors: labelled, unit length; their order does not matter.
        neighbours: how many vote, at least 1; all others where there are fewer.

    Returns:
        {accuracy, neighbours, queries, queries_skipped}; skipped are people's only pictures.

    Raises:
        TooFewImages: fewer than two people, or nobody with two pictures.
        ValueError: fewer than one neighbour.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    code_N, others_N = people(vectors)
    neighbours = min(neighbours, len(vectors) - 1)
    right = 0
    for near in nearest_others(vectors, np.where(others_N > 0, neighbours, 0)):
        code_BK = code_N[near.at_BK]
        weight_BK = np.exp(near.score_BK.astype(np.float64) / TEMPERATURE)
        total_BK = np.zeros_like(weight_BK)
        for k in range(neighbours):
            total_BK += weight_BK[:, k : k + 1] * (code_BK == code_BK[:, k : k + 1])
        winner_B = np.take_along_axis(code_BK, total_BK.argmax(axis=1)[:, None], axis=1)[:, 0]
        right += int((winner_B == code_N[near.row_B]).sum())
    queries = int(np.count_nonzero(others_N))
    return {
        "accuracy": right / queries,
        "neighbours": neighbours,
        "queries": queries,
        "queries_skipped": len(vectors) - queries,
    }
