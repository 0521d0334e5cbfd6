"""What a search costs, from counts alone, so that the same inputs always rank the candidates for an index alike.

The constants were measured once; on another machine all differ, but their ratios much less. No clock is read here.
"""

from metric_core.index.spec import IndexSpec

# Nanoseconds of one core of an AMD EPYC with AVX-512 under FAISS 1.15.1 and numpy 2.4, measured by
# OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python tests/bench/kernels.py, at 200,000 x 128 and 50,000 x 512, 25,000 rows
# scanned, 100 results per query, drawn vectors; --quick repeats it for three families. The two dimensions give a fixed
# part and a part per component; values are rounded by hand. The machine was busy with other work: a repetition differed
# by 1 to 15 % for rows of PQ and RaBitQ, products and candidates, by 70 % for rows of Flat, and by up to 4.4 times for
# lists, whose cost is the small difference of two large times.

_PRODUCT = 0.024
"""A component of a matrix product by numpy: 0.024 at 128 and at 512 components."""

_SELECT = 2.0
"""A centroid's score in the choice of the best lists: 1.8 and 2.5 for 64 of 4096."""

_COMPARE = 1.8
"""A row's score compared with the worst of the best so far, where all rows are scanned."""

_SCAN = {"Flat": (0.0, 0.175), "SQfp16": (1.5, 0.085), "SQ8": (0.0, 0.12)}
"""A row of a list: fixed and per component; 21, 12 and 15 at 128 components, 93, 45 and 63 at 512."""

_SCAN_PQ = (0.7, 0.018)
"""A row of a list: fixed and per sub-quantiser; 0.8 to 1.0 for 16, 1.2 for 32, 1.8 for 64, at any dimension."""

_SCAN_PQ8 = (5.0, 0.49)
"""A row of a list by 8-bit codes: fixed and per sub-quantiser; 6.5 for 4, 9.0 for 8, 13.4 for 16, 36 for 64, at any
dimension."""

_SCAN_SIGNS = (6.3, 0.005)
"""A row of a list by RaBitQ's sign bits: fixed and per component; 6.9 at 128 components, 8.7 at 512."""

_SCAN_TWO_BITS = (11.0, 0.076)
"""What RaBitQ's second bit adds to the row: 28 in all at 128 components, 58 at 512."""

_SCAN_MORE_BITS = (0.80, 0.02)
"""What three bits and each further one add per component: in all 110 for 4 bits at 128 components, 416 at 512. The step
per bit is from 60,000 x 128 in 64 lists, lists included: 110 for 3 bits, 113 for 4, 114 for 5, 123 for 8. Two bits took
28 there, so the jump to three is FAISS's own."""

_LIST = {"Flat": 1300.0, "SQfp16": 1200.0, "SQ8": 800.0, "PQ": 150.0, "PQx8": 100.0}
"""Opening a list, whatever its length."""

_LIST_RABITQ = (600.0, 3.8)
"""The query relative to the list's centroid: fixed and per component; 1089 at 128 components, 2511 at 512."""

_RERANK = {"SQfp16": (600.0, 3.3), "SQ8": (250.0, 3.0)}
"""A candidate compared again: its record is read, converted to float32 and multiplied, fixed and per component; 900 and
505 at 128 components, 2174 and 1673 at 512, and 1070 in searches of a million rows."""

_RERANK_MAPPED = (50.0, 1.5)
"""The same where records are mapped: 68 at 128 components and 458 at 512 in the cache, 250 to 300 at 128 in searches of
a million rows, which wait for memory."""


def work(spec: IndexSpec, rows: int, nprobe: int | None, depth: int, *, shards: int = 1, mapped: bool = False) -> float:
    """Nanoseconds per query of one core, in a large batch of queries: a figure to rank candidates by.

    Lists are taken to be equally long. What a batch shares, such as decoding an index that is scanned whole, costs
    nothing.

    Args:
        spec: the index.
        rows: vectors in it.
        nprobe: lists scanned per query, from 1 to the index's; None for an index without lists.
        depth: candidates compared again per query; 0 without refining.
        shards: files that the rows are spread over: every list is opened in each.
        mapped: whether the records for refining are mapped into memory.
    """
    if spec.nlist is None:
        return rows * (spec.dim * _PRODUCT + _COMPARE)
    assert nprobe is not None, f"{spec.factory} has lists"
    coarse = spec.nlist * (spec.dim * _PRODUCT + _SELECT)
    scan = rows * min(1.0, nprobe / spec.nlist) * _row(spec) + nprobe * shards * _list(spec)
    if spec.refine is None:
        return coarse + scan
    return coarse + scan + depth * _line(_RERANK_MAPPED if mapped else _RERANK[spec.refine], spec.dim)


def _row(spec: IndexSpec) -> float:
    if spec.code == "PQ":
        return _line(_SCAN_PQ, spec.M or 0)
    if spec.code == "PQx8":
        return _line(_SCAN_PQ8, spec.M or 0)
    if spec.code != "RaBitQ":
        return _line(_SCAN[spec.code], spec.dim)
    signs, bits = _line(_SCAN_SIGNS, spec.dim), spec.bits or 1
    if bits == 1:
        return signs
    more = _line(_SCAN_TWO_BITS, spec.dim) if bits == 2 else _line(_SCAN_MORE_BITS, bits - 3) * spec.dim
    return signs + more


def _list(spec: IndexSpec) -> float:
    return _line(_LIST_RABITQ, spec.dim) if spec.code == "RaBitQ" else _LIST[spec.code]


def _line(of: tuple[float, float], x: float) -> float:
    return of[0] + of[1] * x
