"""Leave-one-out classification: every picture's identity is predicted by a vote of the most similar other pictures.

This is the weighted k-nearest-neighbour classifier of Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric
Instance Discrimination" (arXiv:1805.01978, section 3.4). It needs no training, so it measures only the vectors.
"""

# N: vectors, B: queries of a block, K: neighbours.

from typing import Any

import numpy as np

from metric_core.artefacts.embeddings import Vectors
from metric_core.evaluate.neighbours import nearest_others, people

TEMPERATURE = 0.07  # Wu et al. 2018; a vote 0.07 less similar weighs 1/e


def report(vectors: Vectors, neighbours: int) -> dict[str, Any]:
    """The report of leave-one-out classification with the nearest neighbours.

    A neighbour votes for its person with weight exp(similarity / 0.07). With equal weights, the only other picture of
    a person would lose to any two pictures of another. If sums are equal, the person with the nearer picture wins; if
    these are equally near, the one with the smaller face_id. A person's only picture votes, but is not a query.

    Args:
        vectors: labelled, unit length; their order does not matter.
        neighbours: how many vote, at least 1; at most all others.

    Returns:
        {accuracy, neighbours, queries, queries_skipped}; people's only pictures are skipped.

    Raises:
        TooFewImages: there are fewer than two people, or nobody has two pictures.
        ValueError: ``neighbours`` is below 1.
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {neighbours}")
    code_N, others_N = people(vectors)
    neighbours = min(neighbours, len(vectors) - 1)
    correct = 0
    for near in nearest_others(vectors, np.where(others_N > 0, neighbours, 0)):
        code_BK = code_N[near.at_BK]
        weight_BK = np.exp(near.score_BK.astype(np.float64) / TEMPERATURE)
        total_BK = np.zeros_like(weight_BK)
        for k in range(neighbours):
            total_BK += weight_BK[:, k : k + 1] * (code_BK == code_BK[:, k : k + 1])
        winner_B = np.take_along_axis(code_BK, total_BK.argmax(axis=1)[:, None], axis=1)[:, 0]
        correct += int((winner_B == code_N[near.row_B]).sum())
    queries = int(np.count_nonzero(others_N))
    return {
        "accuracy": correct / queries,
        "neighbours": neighbours,
        "queries": queries,
        "queries_skipped": len(vectors) - queries,
    }
