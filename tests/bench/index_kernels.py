"""Our arithmetic beside FAISS's own, in one process and on one thread."""

# N: rows, M: centroids, Q: queries, D: components, K: results per query.

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from index_ours import loaded

from metric_core.index.engine import faiss
from metric_core.index.kmeans import kmeans as ours_kmeans
from metric_core.index.nearest import Nearest, flat_search
from metric_core.index.products import nearest

ITERATIONS = 10
QUERIES, WIDTH = 1_024, 36
HELD_OUT = 10_000
BLOCK = 16_384


def kmeans(corpus: str, lists: int, rows: int, rounds: int) -> dict[str, float]:
    """Seconds of both, and 1 - the mean inner product of held-out rows with their nearest centroid."""
    x_ND, held_ND = _split(corpus, rows)
    centroids: dict[str, np.ndarray] = {}

    def ours() -> None:
        centroids["ours"] = ours_kmeans(x_ND, lists, seed=0)

    def theirs() -> None:
        clustering = faiss.Clustering(x_ND.shape[1], lists)
        clustering.niter, clustering.spherical, clustering.seed = ITERATIONS, True, 1234
        clustering.train(x_ND, faiss.IndexFlatIP(x_ND.shape[1]))
        centroids["theirs"] = faiss.vector_to_array(clustering.centroids).reshape(lists, -1)

    seconds = _medians({"ours": ours, "theirs": theirs}, rounds)
    error = {f"{name}_error": float(1 - nearest(held_ND, found)[1].mean()) for name, found in centroids.items()}
    return seconds | error


def assign(corpus: str, lists: int, rows: int, rounds: int) -> dict[str, float]:
    """Seconds of the search for each row's list."""
    x_ND, _ = _split(corpus, rows)
    centroid_MD = x_ND[:lists].copy()
    plain = faiss.IndexFlatIP(x_ND.shape[1])
    plain.add(centroid_MD)
    runs = {"ours": lambda: nearest(x_ND, centroid_MD), "theirs": lambda: plain.search(x_ND, 1)}
    return _medians(runs, rounds)


def truth(corpus: str, rows: int, rounds: int) -> dict[str, float]:
    """Seconds of the exact neighbours of 1,024 probes."""
    x_ND, held_ND = _split(corpus, rows)
    id_N, query_QD = np.arange(len(x_ND)), held_ND[:QUERIES]

    def ours() -> None:
        near = Nearest(query_QD, WIDTH)
        for start in range(0, len(x_ND), BLOCK):
            near.add(id_N[start : start + BLOCK], x_ND[start : start + BLOCK])
        near.best()

    runs = {"ours": ours, "theirs": lambda: faiss.knn(query_QD, x_ND, WIDTH, faiss.METRIC_INNER_PRODUCT)}
    return _medians(runs, rounds)


def flat(corpus: str, rows: int, rounds: int) -> dict[str, float]:
    """Seconds of an exact search for ten neighbours of 1,024 probes."""
    x_ND, held_ND = _split(corpus, rows)
    plain = faiss.IndexFlatIP(x_ND.shape[1])
    plain.add(x_ND)
    query_QD = held_ND[:QUERIES]

    def ours() -> None:
        flat_search(query_QD, ((start, x_ND[start : start + BLOCK]) for start in range(0, len(x_ND), BLOCK)), 10)

    return _medians({"ours": ours, "theirs": lambda: plain.search(query_QD, 10)}, rounds)


def _split(corpus: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to work on and others, both at random."""
    x_ND = loaded(corpus).embedding_ND
    order_N = np.random.default_rng(0).permutation(len(x_ND))
    rows = min(rows, len(x_ND) - HELD_OUT)
    return x_ND[order_N[:rows]], x_ND[order_N[rows : rows + HELD_OUT]]


def _medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}
