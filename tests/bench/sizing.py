"""A plan for an index that is too large to try: tasks, bytes, memory and hours, from the growth that was measured.

    python tests/bench/index.py --case 'growth/*' --json > growth.json
    python tests/bench/sizing.py --growth growth.json [--rows 1e9] [--dim 512] [--machines 16] [--cores 32]

A build's CPU time is taken to be  fixed + per row · rows + per pair · rows · lists,  fitted to the measured builds
(non-negative least squares); the last two grow with the number of components. Bytes and memory are those that the
builder itself predicts.
"""

# N: builds, C: coefficients.

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from metric_core.index.choose import SHARD_BYTES
from metric_core.index.sample import MARGIN
from metric_core.index.spec import IndexSpec, shown
from workflows.index.shards import memory_of

MEASURED_DIM = 128
"""Components of the vectors of the growth cases."""
KMEANS_PASSES = 2
"""Products of all training rows with all centroids that k-means takes, its passes over parts included."""
CPU_FLOPS, GPU_FLOPS = 8e10, 2e13
"""Floating-point operations per second of a matrix product in float32: one core with AVX-512, and a part
of a data-centre GPU's peak; both are assumptions, change them for other machines."""
PEOPLE = 5
"""Pictures per person."""
READ = 1.2
"""Times that a corpus of 10 million rows or more is read: once, and a tenth for the sample, with a margin."""


def lists(rows: int) -> int:
    """Lists that the builder takes for so many rows."""
    return int(2 ** round(math.log2(4 * math.sqrt(rows))))


def fitted(measured: dict[int, float]) -> tuple[float, float, float]:
    """CPU seconds: fixed, per row, and per pair of a row and a list."""
    row_N = np.array(sorted(measured))
    term_NC = np.stack([np.ones(len(row_N)), row_N, row_N * np.array([lists(rows) for rows in row_N.tolist()])], axis=1)
    scale_C = term_NC.max(axis=0)
    found_C, _ = nnls(term_NC / scale_C, np.array([measured[rows] for rows in row_N.tolist()]))
    fixed, per_row, per_pair = (found_C / scale_C).tolist()
    return fixed, per_row, per_pair


def growth(path: Path) -> dict[int, float]:
    """CPU seconds by rows, from the benchmark's JSON."""
    cases = {case["case"]: case["ours"] for case in json.loads(path.read_text())}
    found = {int(float(name.split("/")[1])): ours for name, ours in cases.items() if name.endswith("/build_cpu")}
    if len(found) < 3:
        raise SystemExit(f"{path} has {len(found)} cases growth/*/build_cpu; three sizes or more are needed for a fit")
    return found


def specs(rows: int, dim: int) -> Iterator[IndexSpec]:
    """The families, from the largest codes to the smallest."""
    codes = ["SQ8", *(f"PQ{dim // part}x4fsr,Refine(SQ8)" for part in (2, 4, 8)), "RaBitQfs,Refine(SQ8)"]
    return (IndexSpec(dim, f"IVF{lists(rows)},{code}") for code in codes)


def plan(rows: int, dim: int, machines: int, cores: int, measured: dict[int, float]) -> Iterator[str]:
    """The lines of the plan."""
    fixed, per_row, per_pair = fitted(measured)
    wider, nlist = dim / MEASURED_DIM, lists(rows)
    train = next(specs(rows, dim)).train_rows
    kmeans = 2.0 * KMEANS_PASSES * train * nlist * dim
    tasks_cpu = (per_row * rows + per_pair * rows * nlist) * wider
    yield f"{rows:,} vectors of {dim} components, {nlist:,} lists, {machines} machines of {cores} cores"
    per = f"{per_row * 1e6:.3g} µs per row + {per_pair * 1e9:.3g} ns per row and list"
    yield f"{fixed:.3g} s + {per}, at {MEASURED_DIM} components"
    yield ""
    yield f"{'read from storage, vectors in float16':<44}{shown(round(READ * rows * dim * 2)):>12}"
    yield f"{'training rows':<44}{train:>12,}"
    yield f"{'memory of the driver for the sample':<44}{shown(round((MARGIN + 1) * train * dim * 4)):>12}"
    yield f"{'k-means, one core':<44}{kmeans / CPU_FLOPS / 3600:>10.2f} h"
    yield f"{f'k-means, {cores} cores':<44}{kmeans / CPU_FLOPS / cores / 3600:>10.2f} h"
    yield f"{'k-means, a GPU':<44}{kmeans / GPU_FLOPS / 3600:>10.2f} h"
    yield f"{'choosing, the driver':<44}{fixed * wider / 3600:>10.2f} h"
    yield f"{'building shards, core hours':<44}{tasks_cpu / 3600:>10,.0f} h"
    yield f"{'building shards, all machines':<44}{tasks_cpu / 3600 / machines / cores:>10.2f} h"
    yield ""
    yield f"{'spec':<32}{'tasks':>8}{'per task':>10}{'at once':>9}{'disk':>10}{'search':>10}"
    for spec in specs(rows, dim):
        people = rows // PEOPLE
        tasks = math.ceil(spec.disk_bytes(rows, people, 1) / SHARD_BYTES)
        memory = memory_of(spec, -(-rows // tasks))
        at_once = shown(memory * cores)
        disk, search = spec.disk_bytes(rows, people, tasks), spec.resident_bytes(rows, people, tasks)
        yield f"{spec.factory:<32}{tasks:>8,}{shown(memory):>10}{at_once:>9}{shown(disk):>10}{shown(search):>10}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--growth", type=Path, required=True, help="JSON of the benchmark's growth cases")
    parser.add_argument("--rows", type=float, default=1e9)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--machines", type=int, default=16)
    parser.add_argument("--cores", type=int, default=32, help="of one machine")
    options = parser.parse_args()
    measured = growth(options.growth)
    for line in plan(int(options.rows), options.dim, options.machines, options.cores, measured):
        print(line)


if __name__ == "__main__":
    main()
