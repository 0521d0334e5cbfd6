"""Plain FAISS in one process, which the benchmark compares our index with: building it, and searching its export."""

# N: rows, Q: probes, D: components.

from __future__ import annotations

import hashlib
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from index_ours import BATCH

from metric_core.index.engine import faiss
from metric_core.index.search import Index


def parquet(corpus: str) -> tuple[np.ndarray, np.ndarray]:
    """int64 (N,) face_ids and float32 (N, D) vectors of the part files, without our readers."""
    ids, blocks = [], []
    for path in sorted(Path(corpus).glob("part-*.parquet")):
        table = pq.read_table(path, columns=["face_id", "embedding"])
        column = table["embedding"].combine_chunks()
        ids.append(table["face_id"].to_numpy())
        blocks.append(column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32))
    return np.concatenate(ids), np.concatenate(blocks)


def build(corpus: str, spec: str, train_rows: int, out: str) -> dict[str, float]:
    """Train, add, write and hash; CPU seconds of each stage."""
    clock, stages = time.process_time(), {}

    def stage(name: str) -> None:
        nonlocal clock
        stages[name] = time.process_time() - clock
        clock = time.process_time()

    id_N, x_ND = parquet(corpus)
    stage("read")
    index = faiss.index_factory(x_ND.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
    if train_rows:
        at = np.random.default_rng(0).choice(len(x_ND), min(train_rows, len(x_ND)), replace=False)
        index.train(x_ND[np.sort(at)])
    stage("train")
    with_ids = faiss.IndexIDMap2(index)
    with_ids.add_with_ids(x_ND, id_N)
    stage("add")
    faiss.write_index(with_ids, out)
    stage("write")
    with open(out, "rb") as file:
        hashlib.file_digest(file, "sha256").hexdigest()
    stage("sha256")
    Path(out).unlink()
    return stages


def search(index: str, merged: str, probes: str, rounds: int) -> dict[str, float]:
    """Seconds of a core per probe of our index and of the one file made of it, in plain FAISS, and the share of the
    probes for which both find the same face. Both find one neighbour, with the same lists and candidates."""
    opened, plain = Index.open(index), faiss.read_index(merged)
    parameters = [] if opened.nprobe is None else [f"nprobe={opened.nprobe}"]
    parameters += [] if opened.depth is None else [f"k_factor_rf={opened.depth}"]
    if parameters:
        faiss.ParameterSpace().set_index_parameters(plain, ",".join(parameters))
    query_QD = np.load(probes)["query"]
    batches = [query_QD[start : start + BATCH] for start in range(0, len(query_QD), BATCH)]
    runs: dict[str, Any] = {
        "ours": lambda: [opened.search(batch_QD, 1).face_id_QK for batch_QD in batches],
        "plain": lambda: [plain.search(batch_QD, 1)[1] for batch_QD in batches],
    }
    figures: dict[str, list[float]] = {name: [] for name in runs}
    found = {}
    for number in range(1 + rounds):
        for name, run in runs.items():
            start = time.process_time()
            found[name] = np.concatenate(run())
            if number:  # the first one warms up
                figures[name].append((time.process_time() - start) / len(query_QD))
    same = float((found["ours"] == found["plain"]).mean())
    return {name: statistics.median(taken) for name, taken in figures.items()} | {"same": same}
