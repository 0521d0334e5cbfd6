"""What one row, one list, one centroid and one refined candidate cost: the constants of metric_core/index/cost.py.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python tests/bench/kernels.py [--quick] [--json]

CPU time of one thread, the least of several runs. Every family is searched with the same rows in few long and in many
short lists: the two times give what a row and what a list costs.
"""

# N rows, D components, L lists, Q queries, P lists per query, K results

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from table import Case, less, parser, show

from metric_core.index.engine import faiss
from metric_core.index.lists import best_lists
from metric_core.index.records import Records
from metric_core.index.shard import record_type
from metric_core.index.spec import IndexSpec

QUERIES = 16
K = 100
SCANNED = 25_000
"""Rows per query, at least."""
CODES = [
    "Flat",
    "SQfp16",
    "SQ8",
    "PQ16x4fsr",
    "PQ32x4fsr",
    "PQ64x4fsr",
    "PQ4x8",
    "PQ8x8",
    "RaBitQfs",
    "RaBitQfs2",
    "RaBitQfs4",
]


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """CPU seconds of the calling thread, the least of ``repeats``."""
    found = []
    for _ in range(repeats):
        start = time.thread_time()
        run()
        found.append(time.thread_time() - start)
    return min(found)


def search_seconds(spec: IndexSpec, x_ND: np.ndarray, list_N: np.ndarray, centroid_LD: np.ndarray) -> tuple[float, int]:
    """Seconds per query and the number of lists that it scans."""
    nlist = len(centroid_LD)
    built = faiss.index_factory(spec.dim, spec.coarse_factory, faiss.METRIC_INNER_PRODUCT)
    built.quantizer.add(centroid_LD)
    if spec.M is not None:
        built.do_polysemous_training = False  # as in the template
    built.train(x_ND[:: len(x_ND) // 16_384])
    id_N = np.arange(len(x_ND))
    built.add_core(len(x_ND), faiss.swig_ptr(x_ND), faiss.swig_ptr(id_N), faiss.swig_ptr(list_N))
    index = {"PQ": faiss.IndexIVFPQFastScan, "RaBitQ": faiss.IndexIVFRaBitQFastScan}.get(spec.code, lambda x: x)(built)
    nprobe = -(-SCANNED * nlist // len(x_ND))
    query_QD = x_ND[:: len(x_ND) // QUERIES][:QUERIES].copy()
    score_QL = query_QD @ centroid_LD.T
    list_QP = np.argsort(-score_QL, axis=1)[:, :nprobe].astype(np.int64)
    coarse_QP = np.take_along_axis(score_QL, list_QP, axis=1)
    score_QK, id_QK = np.empty((QUERIES, K), np.float32), np.empty((QUERIES, K), np.int64)
    pointers = [faiss.swig_ptr(a) for a in (query_QD, list_QP, coarse_QP, score_QK, id_QK)]
    params = faiss.SearchParametersIVF(nprobe=nprobe)

    def run() -> None:
        x, lists, coarse, scores, ids = pointers
        index.search_preassigned_c(QUERIES, x, K, lists, coarse, scores, ids, False, params)

    return seconds(run) / QUERIES, nprobe


def cases(quick: bool) -> Iterator[Case]:
    random = np.random.default_rng(0)
    for rows, dim in ((200_000, 128), (50_000, 512)):
        x_ND = np.repeat(random.standard_normal((rows // 5, dim), np.float32), 5, axis=0)
        x_ND += random.standard_normal((rows, dim), np.float32)
        x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
        lists = {}
        for nlist in (rows // 800, rows // 100):
            centroid_LD = x_ND[:: rows // nlist][:nlist].copy()
            list_N = np.concatenate([(x_ND[i : i + 4096] @ centroid_LD.T).argmax(1) for i in range(0, rows, 4096)])
            lists[nlist] = list_N.astype(np.int64), centroid_LD
        for code in CODES[:: 4 if quick else 1]:
            long, short = (
                search_seconds(IndexSpec(dim, f"IVF{nlist},{code}"), x_ND, *found) for nlist, found in lists.items()
            )
            per_list = max(0.0, (short[0] - long[0]) / (short[1] - long[1]))
            yield less(f"row/{code}/{dim}", (long[0] - long[1] * per_list) / SCANNED * 1e9, None, "ns")
            yield less(f"list/{code}/{dim}", per_list * 1e9, None, "ns")
        query_QD, centroid_LD = x_ND[:256], x_ND[:4096]
        product = seconds(lambda q=query_QD, c=centroid_LD: q @ c.T)
        yield less(f"coarse/{dim}", product / (256 * 4096 * dim) * 1e9, None, "ns per component")
        score_QL = query_QD @ centroid_LD.T
        best = seconds(lambda q=query_QD, c=centroid_LD: best_lists(q, c, 64))
        yield less(f"select/{dim}", (best - product) / score_QL.size * 1e9, None, "ns per score")
        compared = seconds(lambda s=score_QL: np.nonzero(s > 0.5))
        yield less(f"compare/{dim}", compared / score_QL.size * 1e9, None, "ns per score")
        for record in ("SQfp16", "SQ8"):
            spec = IndexSpec(dim, f"IVF1,PQ2x4fsr,Refine({record})")
            for mapped in (False, True):
                name = f"rerank/{record}/{dim}{'/mapped' if mapped else ''}"
                yield less(name, rerank_seconds(spec, mapped) * 1e9, None, "ns")


def rerank_seconds(spec: IndexSpec, mapped: bool, rows: int = 200_000, count: int = 5_000) -> float:
    """Seconds per candidate: its record, decoding and the product with one of ``QUERIES`` queries."""
    random = np.random.default_rng(0)
    with tempfile.NamedTemporaryFile() as file:
        record_N = np.zeros(rows, record_type(spec))
        record_N["vector"] = random.integers(-100, 100, (rows, spec.dim)).astype(np.int8)
        record_N.tofile(file)
        file.flush()
        records = Records(Path(file.name), spec, file.name, mapped)
        at_R = np.sort(random.choice(rows, count, replace=False))
        query_QD, query_R = random.standard_normal((QUERIES, spec.dim), np.float32), random.integers(0, QUERIES, count)
        return seconds(lambda: records.compared(query_QD, query_R, at_R)) / count


if __name__ == "__main__":
    options = parser(__doc__, "two families only").parse_args()
    faiss.omp_set_num_threads(1)
    show(cases(options.quick), as_json=options.json)
