"""What erasing people from an index costs, beside a plain rewrite of its files, and what the two scans cost.

    python tests/bench/erase.py --work FOLDER [--rows 250000] [--spec SPEC] [--shards 16] [--people 1 100 10000]

The index is built by the command, once per folder; each erasure is from a copy of it, in a process of its own. A plain
rewrite decodes every shard and writes it to another index, as an erasure does, with all of its rows.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import erase_work
import index_process
import vectors
from population import LAWS


def built(work: Path, rows: int, dim: int, spec: str | None, shards: int | None, law: str) -> Path:
    """An index of synthetic people, built by the command."""
    corpus = vectors.mint(str(work / f"corpus-{rows}"), rows, dim, law=LAWS[law])
    out = work / f"index-{rows}-{(spec or 'chosen').replace(',', '-')}-{shards or 'chosen'}"
    argv = [sys.executable, "-m", "workflows.cli", "index", "--embeddings", corpus, "--out", str(out)]
    argv += ["--spec", spec] if spec else []
    argv += ["--shards", str(shards)] if shards else []
    subprocess.run(argv, check=True, cwd=index_process.ROOT)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--law", default="lfw", choices=LAWS)
    parser.add_argument("--spec")
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--people", type=int, nargs="+", default=[1, 100, 10_000])
    options = parser.parse_args()
    work = options.work.absolute()
    index = built(work, options.rows, options.dim, options.spec, options.shards, options.law)
    told = index_process.child(erase_work.read, index=str(index))
    print(f"read: {told}", flush=True)
    for what, function in (("copy", erase_work.copied), ("plain rewrite", erase_work.rewritten)):
        shutil.rmtree(work / "plain", ignore_errors=True)
        told = index_process.child(function, index=str(index), out=str(work / "plain"))
        print(f"{what}: {told}", flush=True)
    for people in options.people:
        copy, ids = work / "copy", work / "ids.npz"
        shutil.rmtree(copy, ignore_errors=True)
        ids.unlink(missing_ok=True)
        shutil.copytree(index, copy)
        looking = {"index": str(copy), "count": people, "original": str(index), "ids": str(ids)}
        for what, function, arguments in (
            ("scan before", erase_work.scanned, looking),
            ("erase", erase_work.erased, {"index": str(copy), "count": people}),
            ("scan after", erase_work.scanned, looking),
        ):
            told = index_process.child(function, **arguments)
            print(f"{people} people, {what}: {told}", flush=True)


if __name__ == "__main__":
    main()
