"""What the benchmark measures of our index, each function in a process of its own."""

# N: rows, Q: probes, D: components.

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import vectors
from population import LAWS

from metric_core.artefacts.collection import Collection
from metric_core.index import choose, sample
from metric_core.index.corpus import Corpus, Rows, concatenate
from metric_core.index.nearest import Nearest
from metric_core.index.search import Index
from metric_core.index.tuning import Target

PROBES = 10_000
BATCH = 1_024
EXACT_ROWS = 16_384
"""Rows of a block of the exact product: its scores for a batch take 64 MB."""


def loaded(corpus: str) -> Rows:
    """All rows of an Embeddings artefact, float32."""
    source = Corpus.of(Collection.open(corpus))
    return concatenate((source.read(part) for part in source.parts), source.rows, source.dim, "float32")


def fresh_probes(corpus: str, rows: int, dim: int, law: str, out: str) -> int:
    """Write new pictures of people of a minted corpus, with the truth, to ``out``; returns their number."""
    people = min(PROBES, max(1, rows // 10))
    found = vectors.probes(rows, dim, people, law=LAWS[law])
    return _with_truth(loaded(corpus), found.embedding_ND, list(found.identity_N), np.full(people, -1), out)


def own_probes(corpus: str, out: str) -> int:
    """Write pictures of the corpus itself, which do not find themselves, with the truth; returns their number."""
    rows = loaded(corpus)
    at_Q = np.sort(np.random.default_rng(0).permutation(len(rows))[:PROBES])
    names = rows.identity.take(at_Q).to_pylist()
    return _with_truth(rows, rows.embedding_ND[at_Q], names, rows.face_id_N[at_Q], out)


def _with_truth(rows: Rows, query_QD: np.ndarray, names: list[str], exclude_Q: np.ndarray, out: str) -> int:
    near = Nearest(query_QD, 1, exclude_face_id_Q=exclude_Q, identity_Q=names)
    near.add(rows.face_id_N, rows.embedding_ND, rows.identity)
    best = near.best()
    np.savez(
        out,
        query=query_QD,
        name=np.array(names),
        exclude=exclude_Q,
        first=best.same_QW[:, 0],
        face=best.face_id_QW[:, 0],
    )
    return len(names)


def search(index: str, probes: str, rounds: int, corpus: str | None = None) -> dict[str, float]:
    """Seconds of a core per probe, and what is found; beside a product with all rows, if ``corpus`` is given.

    Returns:
        {identify, search, exact: seconds; identity: share of the probes whose person comes first, of those whose person
        an exact search puts first; recall: share whose nearest vector comes first}
    """
    opened, given = Index.open(index), np.load(probes)
    query_QD, exclude_Q = given["query"], given["exclude"]
    runs: dict[str, Callable[[], Any]] = {
        "identify": lambda: [
            opened.identify(query_QD[b], [""] * _size(query_QD[b]), 5) for b in _batches(len(query_QD))
        ],
        "search": lambda: [opened.search(query_QD[b], 1) for b in _batches(len(query_QD))],
    }
    nearest: dict[str, np.ndarray] = {}
    if corpus is not None:
        rows = loaded(corpus)
        own_Q = _rows_of(rows.face_id_N, exclude_Q[:BATCH])

        def exact() -> None:
            nearest["face"] = rows.face_id_N[product_argmax(query_QD[:BATCH], rows.embedding_ND, own_Q)]

        runs["exact"] = exact
    opened.identify(query_QD[:BATCH], [""] * _size(query_QD[:BATCH]), 5)
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            count = BATCH if name == "exact" else len(query_QD)
            figures[name].append((time.process_time() - start) / min(count, len(query_QD)))
    found = {name: statistics.median(taken) for name, taken in figures.items()}
    if nearest:
        agreed = float((nearest["face"] == given["face"][:BATCH]).mean())
        assert agreed > 0.999, f"only {agreed:.4f} of the exact product's answers are the truth's"
    return found | _recall(opened, query_QD, exclude_Q, given)


def _recall(opened: Index, query_QD: np.ndarray, exclude_Q: np.ndarray, given: Any) -> dict[str, float]:
    numbers = [str(number) for number in range(len(query_QD))]
    table = opened.identify(query_QD, numbers, 1, exclude_face_id_Q=exclude_Q)
    assert table["query"].to_pylist() == numbers
    right_Q = pc.fill_null(pc.equal(table["identity"], given["name"]), False).to_numpy()
    near = opened.search(query_QD, 1, exclude_face_id_Q=exclude_Q)
    return {
        "identity": float(right_Q[given["first"]].mean()),
        "recall": float((near.face_id_QK[:, 0] == given["face"]).mean()),
    }


def _rows_of(face_id_N: np.ndarray, wanted_Q: np.ndarray) -> np.ndarray:
    """int64 (Q,): the row of each face; -1 for a face_id of -1."""
    order_N = np.argsort(face_id_N)
    at_Q = order_N[np.searchsorted(face_id_N[order_N], wanted_Q).clip(max=len(order_N) - 1)]
    return np.where(wanted_Q < 0, -1, at_Q)


def product_argmax(query_QD: np.ndarray, x_ND: np.ndarray, own_Q: np.ndarray) -> np.ndarray:
    """int64 (Q,): the row with the largest inner product, by a matrix product with all rows; not a query's own."""
    best_Q, at_Q = np.full(len(query_QD), -np.inf, np.float32), np.zeros(len(query_QD), np.int64)
    every_Q = np.arange(len(query_QD))
    for start in range(0, len(x_ND), EXACT_ROWS):
        score_QB = query_QD @ x_ND[start : start + EXACT_ROWS].T
        (here_H,) = np.nonzero((own_Q >= start) & (own_Q < start + score_QB.shape[1]))
        score_QB[here_H, own_Q[here_H] - start] = -np.inf
        here_Q = score_QB.argmax(axis=1)
        better_Q = score_QB[every_Q, here_Q] > best_Q
        best_Q[better_Q], at_Q[better_Q] = score_QB[every_Q, here_Q][better_Q], start + here_Q[better_Q]
    return at_Q


def _batches(count: int) -> list[slice]:
    return [slice(start, start + BATCH) for start in range(0, count, BATCH)]


def _size(query_QD: np.ndarray) -> int:
    return len(query_QD)


def memory(index: str, small: str, probes: str) -> int:
    """Bytes by which the peak of the resident memory grows when the probes are searched in one call: over the process
    after its imports and one search of ``small``, an index of 1,000 rows."""
    Index.open(small).identify(np.load(probes)["query"][:1], [""], 5)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = _status("VmRSS")
    query_QD = np.load(probes)["query"]
    Index.open(index).identify(query_QD, [str(number) for number in range(len(query_QD))], 5)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def opening(index: str) -> float:
    """CPU seconds to open an index."""
    start = time.process_time()
    Index.open(index)
    return time.process_time() - start


def about(index: str) -> dict[str, Any]:
    """What the manifest of the live version says."""
    content = Index.open(index).version.content()
    chosen = next(one for one in content.choice["candidates"] if one["spec"] == content.spec.factory)
    return {
        "spec": content.spec.factory,
        "nprobe": content.nprobe,
        "depth": content.depth,
        "predicted": chosen["memory"],
        "bytes": content.bytes,
        "people": content.people,
        "shards": len(content.shards),
        "train_rows": content.spec.train_rows,
    }


def sampled(corpus: str, identity: float) -> int:
    """Rows of the groups that a build without budgets reads for its sample."""
    source = Corpus.of(Collection.open(corpus))
    wanted = choose.Wanted(source.rows, source.dim, Target(identity))
    return sample.draw(source, choose.sample_rows(wanted), seed=0).read


def declared(corpus: str, spec: str, shards: int) -> int:
    """Most memory that a task of the build declares to Ray."""
    from metric_core.index.spec import IndexSpec
    from workflows.index.shards import memory_of

    source = Corpus.of(Collection.open(corpus))
    built = IndexSpec(source.dim, spec)
    return max(memory_of(built, sum(part.rows for part in run)) for run in source.runs(shards))


def empty_session() -> None:
    """Ray's start, one empty task, and its end."""
    import ray

    from workflows.shared import cluster
    from workflows.shared.options import RunOptions

    with cluster.connected(RunOptions()):
        ray.get(ray.remote(lambda: None).remote())  # a lambda: the worker imports nothing of ours for it
