"""Clustering without labels, and how well the clusters match the people.

Each picture is linked to its nearest neighbours above a threshold. Chinese Whispers (Biemann 2006, "Chinese Whispers:
an Efficient Graph Clustering Algorithm"), which dlib also uses for face clustering, divides this graph into clusters.
Unlike k-means it does not need the number of people. Unlike connected components (or DBSCAN) it does not merge people
because of a few wrong links.
"""

# N: vectors, B: queries of a block, K: neighbours, E: links (of one picture or all), T: thresholds, P: people,
# C: clusters, M: cells of their contingency table.

from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import normalized_mutual_info_score

from metric_core.artefacts.embeddings import Vectors
from metric_core.evaluate.neighbours import nearest_others, people

NEIGHBOURS = 50
_STEPS = 1000  # candidate thresholds, 0.001 apart


def report(vectors: Vectors, threshold: float | None = None) -> dict[str, Any]:
    """The report of clustering with links to the 50 nearest neighbours; memory grows with N x 50, not N x N.

    Args:
        vectors: labelled, unit length; their order does not matter.
        threshold: the lowest similarity of linked pictures, in (0, 1), such as the model's operating point. None
            takes the threshold whose links have the highest F according to the labels, which is optimistic.

    Returns:
        {nmi, bcubed: {precision, recall, f}, pairwise: {precision, recall, f}, clusters, people, pictures, threshold};
        ``nmi`` is the mutual information divided by the mean of both entropies.

    Raises:
        TooFewImages: there are fewer than two people, or nobody has two pictures.
        ValueError: ``threshold`` is outside (0, 1).
    """
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"threshold must lie in (0, 1), got {threshold}")
    code_N, _ = people(vectors)
    k = min(NEIGHBOURS, len(vectors) - 1)
    at_NK, score_NK = np.empty((len(vectors), k), np.int32), np.empty((len(vectors), k), np.float32)
    for near in nearest_others(vectors, np.full(len(vectors), k)):
        at_NK[near.row_B], score_NK[near.row_B] = near.at_BK, near.score_BK
    if threshold is None:
        threshold = _best_threshold(score_NK, code_N[at_NK] == code_N[:, None])
    cluster_N = _whispers(_links(at_NK, score_NK, threshold), np.argsort(vectors.face_id_N, kind="stable"))
    return {
        "nmi": float(normalized_mutual_info_score(code_N, cluster_N)),
        **agreement(code_N, cluster_N),
        "clusters": int(cluster_N.max()) + 1,
        "people": int(code_N.max()) + 1,
        "pictures": len(code_N),
        "threshold": threshold,
    }


def agreement(person_N: np.ndarray, cluster_N: np.ndarray) -> dict[str, dict[str, float | None]]:
    """B-cubed and pairwise precision, recall and F, computed from the non-empty cells of the contingency table.

    B-cubed (Bagga and Baldwin 1998; Amigó et al. 2009, "A comparison of extrinsic clustering evaluation metrics based
    on formal constraints") is a mean over pictures. Precision is the share of the picture's cluster that shows its
    person; recall is the share of its person's pictures that are in its cluster; both count the picture itself.
    Pairwise precision is the share of pairs in one cluster that show one person; recall is the reverse, so that large
    groups count by their square. F is the harmonic mean of precision and recall.

    Args:
        person_N: the person on each picture; any sortable type.
        cluster_N: the cluster of each picture; any sortable type.

    Returns:
        {bcubed: {precision, recall, f}, pairwise: {precision, recall, f}}; None for a share of no pairs.
    """
    _, person_N, size_P = np.unique(person_N, return_inverse=True, return_counts=True)
    _, cluster_N, size_C = np.unique(cluster_N, return_inverse=True, return_counts=True)
    cell_M, both_M = np.unique(person_N * len(size_C) + cluster_N, return_counts=True)
    precision = float((both_M**2 / size_C[cell_M % len(size_C)]).sum()) / len(person_N)
    recall = float((both_M**2 / size_P[cell_M // len(size_C)]).sum()) / len(person_N)
    correct, claimed, genuine = (int((size * (size - 1)).sum()) for size in (both_M, size_C, size_P))
    return {
        "bcubed": {"precision": precision, "recall": recall, "f": 2 * precision * recall / (precision + recall)},
        "pairwise": {
            "precision": correct / claimed if claimed else None,
            "recall": correct / genuine if genuine else None,
            "f": 2 * correct / (claimed + genuine) if claimed + genuine else None,
        },
    }


def _best_threshold(score_NK: np.ndarray, right_NK: np.ndarray) -> float:
    """The threshold whose links have the highest F, from their precision and their share of all correct links."""
    step_NK = np.clip(score_NK * _STEPS, 0, _STEPS - 1).astype(np.int16)
    linked_T, hit_T = (
        np.cumsum(np.bincount(steps, minlength=_STEPS)[:0:-1]) for steps in (step_NK.reshape(-1), step_NK[right_NK])
    )
    f_T = 2 * hit_T / np.maximum(linked_T + np.count_nonzero(right_NK), 1)
    return (_STEPS - 1 - int(f_T.argmax())) / _STEPS


def _links(at_NK: np.ndarray, score_NK: np.ndarray, threshold: float) -> csr_array:
    """Sparse (N, N) similarities, from the threshold up, of pictures of which one is among the other's neighbours."""
    linked_NK = score_NK >= threshold
    start = np.concatenate([[0], np.cumsum(linked_NK.sum(axis=1))])
    links = csr_array((score_NK[linked_NK], at_NK[linked_NK], start), shape=(len(at_NK), len(at_NK)))
    return links.maximum(links.T.tocsr())


def _whispers(links: csr_array, order_N: np.ndarray) -> np.ndarray:
    """int64 (N,): the cluster of each picture, by Chinese Whispers.

    Every picture starts in a group of its own. It joins the group with the largest sum of links to it (if sums are
    equal, the group that started with the smaller face_id), and is visited again when a neighbour has moved. Pictures
    are visited in order of face_id, which is random, because ids are hashes, but repeatable. The loop ends because
    every move increases the weight of links inside groups: scores are multiples of 1/GRID, so their sums are exact.
    """
    label_N = np.argsort(order_N)
    waiting_N = np.ones(len(order_N), bool)
    while waiting_N.any():
        for row in order_N[waiting_N[order_N]].tolist():
            waiting_N[row] = False
            of_row = slice(links.indptr[row], links.indptr[row + 1])
            near_E = links.indices[of_row]
            weight: dict[int, float] = {int(label_N[row]): 0.0}
            for label, score in zip(label_N[near_E].tolist(), links.data[of_row].tolist()):
                weight[label] = weight.get(label, 0.0) + score
            best = min(weight, key=lambda label: (-weight[label], label))
            if weight[best] > weight[int(label_N[row])]:
                label_N[row] = best
                waiting_N[near_E] = True
    # A group may have lost the pictures that connected it, so each connected part is a cluster.
    links = links.tocoo()
    inside_E = label_N[links.row] == label_N[links.col]
    inside = csr_array((inside_E[inside_E], (links.row[inside_E], links.col[inside_E])), shape=links.shape)
    connected_N: np.ndarray = connected_components(inside, directed=False)[1].astype(np.int64)
    return connected_N
