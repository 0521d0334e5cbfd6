"""Retrieval: are the pictures most similar to a query those of the same person? Every picture queries all the others.

The metrics are those of Musgrave, Belongie and Lim 2020, "A Metric Learning Reality Check" (arXiv:2003.08505, section
3.2). They use as many neighbours as there are correct answers: R, the number of the person's other pictures.
"""

# N: vectors, B: queries of a block, K: neighbours.

from typing import Any

import numpy as np

from metric_core.artefacts.embeddings import Vectors
from metric_core.evaluate.neighbours import nearest_others, people


def report(vectors: Vectors) -> dict[str, Any]:
    """The report of retrieval, with every picture as a query against all others.

    P@1 is 1 if the nearest picture is correct, else 0. R-precision is the share of correct ones among the nearest R.
    MAP@R is (1/R) Σ P(i) over the correct ones at ranks i = 1..R, where P(i) is the share of correct ones up to rank i.
    Each is averaged over queries. A person's only picture is not a query, but can be a wrong answer.

    Args:
        vectors: labelled, unit length; their order does not matter.

    Returns:
        {precision_at_1, r_precision, map_at_r, queries, queries_skipped}; people's only pictures are skipped.

    Raises:
        TooFewImages: there are fewer than two people, or nobody has two pictures.
    """
    code_N, others_N = people(vectors)
    first = r_precision = map_at_r = 0.0
    for near in nearest_others(vectors, others_N):
        r_B1 = others_N[near.row_B, None]
        correct_BK = code_N[near.at_BK] == code_N[near.row_B, None]
        first += float(correct_BK[:, 0].sum())
        rank_K = np.arange(1, correct_BK.shape[1] + 1)
        correct_BK &= rank_K <= r_B1
        r_precision += float((correct_BK / r_B1).sum())
        map_at_r += float((correct_BK * np.cumsum(correct_BK, axis=1) / (rank_K * r_B1)).sum())
    queries = int(np.count_nonzero(others_N))
    return {
        "precision_at_1": first / queries,
        "r_precision": r_precision / queries,
        "map_at_r": map_at_r / queries,
        "queries": queries,
        "queries_skipped": len(vectors) - queries,
    }
