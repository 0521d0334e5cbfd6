"""Retrieval: are the pictures most like a query those of the same person? Every picture is asked for all the others.

The figures are those of Musgrave, Belongie and Lim 2020, "A Metric Learning Reality Check" (arXiv:2003.08505, section
3.2), which asks for as many neighbours as there are right answers: R, the number of the person's other pictures.
"""

# N: vectors, B: queries of a block, K: neighbours.

from typing import Any

import numpy as np

from metric_core.artefacts.embeddings import Vectors
from metric_core.evaluate.neighbours import nearest_others, people


def report(vectors: Vectors) -> dict[str, Any]:
    """What is reported of retrieval, with every picture as a query against all others.

    P@1 asks whether the nearest picture is right, R-precision for the share of right ones among the nearest R, and
    MAP@R for (1/R) Σ P(i) over the right ones at ranks i = 1..R, where P(i) is the share of right ones up to rank i.
    Each is a mean over queries. Who has one picture is nobody's right answer and no query, but is in the way.

    Args:
        vectors: labelled, unit length; their order does not matter.

    Returns:
        {precision_at_1, r_precision, map_at_r, queries, queries_skipped}; skipped are people's only pictures.

    Raises:
        TooFewImages: fewer than two people, or nobody with two pictures.
    """
    code_N, others_N = people(vectors)
    first = r_precision = map_at_r = 0.0
    for near in nearest_others(vectors, others_N):
        r_B1 = others_N[near.row_B, None]
        right_BK = code_N[near.at_BK] == code_N[near.row_B, None]
        first += float(right_BK[:, 0].sum())
        rank_K = np.arange(1, right_BK.shape[1] + 1)
        right_BK &= rank_K <= r_B1
        r_precision += float((right_BK / r_B1).sum())
        map_at_r += float((right_BK * np.cumsum(right_BK, axis=1) / (rank_K * r_B1)).sum())
    queries = int(np.count_nonzero(others_N))
    return {
        "precision_at_1": first / queries,
        "r_precision": r_precision / queries,
        "map_at_r": map_at_r / queries,
        "queries": queries,
        "queries_skipped": len(vectors) - queries,
    }
