"""What erasing people costs beside a plain rewrite of the files that hold them, and what the two scans cost.

    python tests/bench/erase.py --work FOLDER [--rows 250000] [--spec SPEC] [--shards 16] [--people 1 100 10000]
    python tests/bench/erase.py --work FOLDER --of artefacts [--rows 250000] [--people 1 100 10000]

The index is built by the command, and the artefacts, Faces and Embeddings with five pictures per person, are written as
its jobs write them, once per folder. Each measurement is on a copy of its own with an empty cache of digests, in a
process of its own whose start is not counted, in CPU seconds of one thread; of several, the median and all are shown. A
plain rewrite reads, checks and decodes each file with the library that reads it, writes it with the same settings,
hashes it and stores it; it uses nothing of an erasure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import erase_job
import erase_work
import index_process
import vectors
from population import LAWS

_EACH = 5  # pictures per person of the artefacts
_SETTLED_S = 2.2
"""Seconds until a copied file counts as settled (``storage.digests``), as files that were not written just now do."""


def built(work: Path, rows: int, dim: int, spec: str | None, shards: int | None, law: str) -> Path:
    """An index of synthetic people, built by the command."""
    corpus = vectors.mint(str(work / f"corpus-{rows}"), rows, dim, law=LAWS[law])
    out = work / f"index-{rows}-{(spec or 'chosen').replace(',', '-')}-{shards or 'chosen'}"
    argv = [sys.executable, "-m", "workflows.cli", "index", "--embeddings", corpus, "--out", str(out)]
    argv += ["--spec", spec] if spec else []
    argv += ["--shards", str(shards)] if shards else []
    subprocess.run(argv, check=True, cwd=index_process.ROOT)
    return out


def artefacts(work: Path, rows: int, dim: int) -> Path:
    """Faces and Embeddings of synthetic people."""
    out = work / f"artefacts-{rows}-{dim}"
    if not out.exists():
        out.mkdir(parents=True)
        index_process.child(erase_job.made, root=str(out), people=rows // _EACH, each=_EACH, dim=dim)
    return out


class _Bench:
    """Measures on copies of a folder."""

    def __init__(self, work: Path, source: Path, times: int) -> None:
        self._source, self._times = source, times
        self.copy, self.plain = work / "copy", work / "plain"

    def fresh(self) -> None:
        """A new copy, of which nothing is remembered."""
        for folder in (self.copy, self.plain):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._source, self.copy)
        self.plain.mkdir()
        os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(dir=self.plain)
        time.sleep(_SETTLED_S)

    def median(self, what: str, function: Callable[..., Any], **arguments: Any) -> float:
        """The median CPU seconds of a function, shown with what it returns."""
        found = []
        for _ in range(self._times):
            self.fresh()
            found.append(index_process.child(function, **arguments))
        cpu = statistics.median(one["cpu"] for one in found)
        print(f"{what}: CPU s {cpu} of {[one['cpu'] for one in found]}; {found[-1]}", flush=True)
        return float(cpu)

    def compare(self, costs: dict[int, float], plain: float) -> None:
        """Show what the acceptance is about."""
        most = costs[max(costs)]
        for people, cpu in costs.items():
            print(f"{people} people: {cpu / plain:.2f} of a plain rewrite, {cpu / most:.3f} of {max(costs)} people")


def of_index(options: argparse.Namespace, work: Path) -> None:
    """Erase from an index; then once more with the scans."""
    index = built(work, options.rows, options.dim, options.spec, options.shards, options.law)
    bench = _Bench(work, index, options.times)
    copy, ids = str(bench.copy), work / "ids.npz"
    bench.median("read", erase_work.read, index=copy)
    plain = bench.median("plain rewrite", erase_work.rewritten, index=copy, out=str(bench.plain))
    costs = {n: bench.median(f"{n} people", erase_work.erased, index=copy, count=n) for n in options.people}
    bench.compare(costs, plain)
    for people in options.people:
        bench.fresh()
        ids.unlink(missing_ok=True)
        looking = {"index": copy, "count": people, "original": str(index), "ids": str(ids)}
        before = index_process.child(erase_work.scanned, **looking)
        index_process.child(erase_work.erased, index=copy, count=people)
        print(f"{people} people, scan before: {before}")
        print(f"{people} people, scan after: {index_process.child(erase_work.scanned, **looking)}", flush=True)


def of_artefacts(options: argparse.Namespace, work: Path) -> None:
    """Erase from Faces and Embeddings by the command's job, with its tombstones and its receipt."""
    bench, count = _Bench(work, artefacts(work, options.rows, options.dim), options.times), options.rows // _EACH
    root = str(bench.copy)
    bench.median("read", erase_job.read, root=root)
    plain = bench.median("plain rewrite", erase_job.rewritten, root=root, out=str(bench.plain))
    costs = {n: bench.median(f"{n} people", erase_job.erased, root=root, count=n, people=count) for n in options.people}
    bench.compare(costs, plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--of", default="index", choices=("index", "artefacts"))
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--law", default="lfw", choices=LAWS)
    parser.add_argument("--spec")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--people", type=int, nargs="+", default=[1, 100, 10_000])
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    {"index": of_index, "artefacts": of_artefacts}[options.of](options, options.work.absolute())


if __name__ == "__main__":
    main()
