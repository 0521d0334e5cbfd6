"""The work folder of the index's benchmark: corpora, probes with their truth, and built indexes. What is there is not
made again; indexes are kept for one state of the sources that build them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import index_ours as ours
from index_process import ROOT, child, likeness, measured
from population import LAWS
from vectors import mint

PARTS = 64


@dataclass(frozen=True)
class Vectors:
    """A corpus."""

    path: str
    rows: int
    dim: int
    law: str | None
    """None for real vectors"""

    @property
    def raw(self) -> int:
        """Bytes of the vectors in float32."""
        return 4 * self.rows * self.dim


@dataclass(frozen=True)
class Built:
    """An index and what its build used."""

    path: str
    cpu: float
    """seconds, Ray's start included"""
    wall: float
    task: int
    """peak resident bytes of the largest task"""


@dataclass(frozen=True)
class Work:
    """The folder and the size of everything in it."""

    folder: Path
    law: str
    quick: bool
    rounds: int
    """runs of a build, of which the median is shown"""

    @property
    def main(self) -> Vectors:
        """The corpus of most cases."""
        return self.minted(120_000 if self.quick else 1_000_000, 128)

    def minted(self, rows: int, dim: int) -> Vectors:
        """A synthetic corpus of 64 parts."""
        path = self.folder / f"vectors-{self.law}-{rows}-{dim}"
        law = LAWS[self.law]
        return Vectors(mint(str(path), rows, dim, parts=min(PARTS, rows), law=law), rows, dim, self.law)

    def probes(self, of: Vectors) -> str:
        """A file of probes with their truth: new pictures of a synthetic corpus's people, or real vectors."""
        path = Path(f"{of.path}-probes.npz")
        if not path.exists():
            new = path.with_suffix(".new.npz")
            if of.law is None:
                child(ours.own_probes, threads=None, corpus=of.path, out=str(new))
            else:
                child(
                    ours.fresh_probes, threads=None, corpus=of.path, rows=of.rows, dim=of.dim, law=of.law, out=str(new)
                )
            new.rename(path)
        return str(path)

    def index(self, of: Vectors, *options: str, number: int = 0) -> Built:
        """An index built by ``likeness index`` with these options. Raises Failed."""
        key = hashlib.sha256(json.dumps([of.path, options, number, self._sources]).encode()).hexdigest()[:16]
        path = self.folder / "indexes" / key
        record = path.with_suffix(".json")
        if not record.exists():
            shutil.rmtree(path, ignore_errors=True)
            used = likeness("index", "--embeddings", of.path, "--out", str(path), *options)
            task = used.peaks.get("ray::_build_sha", 0)
            record.write_text(json.dumps(asdict(Built(str(path), used.cpu, used.wall, task))))
        return Built(**json.loads(record.read_text()))

    @property
    def tight(self) -> int:
        """The part of the raw bytes of cases about small indexes; so few rows as --quick has need half."""
        return 2 if self.quick else 8

    def budget(self, of: Vectors, part: int, number: int = 0) -> Built:
        """The index chosen for one ``part``-th of the raw bytes, with the target of the acceptance. Raises Failed."""
        target = {16: "0.95", 8: "0.98"}.get(part, "0.99")
        size = str(of.raw // part)
        return self.index(of, "--memory-budget", size, "--target-identity-recall", target, number=number)

    @cached_property
    def small(self) -> str:
        """An index of 1,000 rows."""
        return self.index(self.minted(1_000, 128)).path

    @cached_property
    def ray(self) -> tuple[float, float]:
        """CPU and wall seconds of an empty Ray session, medians of three."""
        runs = [measured(ours.empty_session, threads=None)[1] for _ in range(3)]
        return statistics.median(run.cpu for run in runs), statistics.median(run.wall for run in runs)

    @cached_property
    def _sources(self) -> str:
        files = [
            path for folder in ("metric_core", "workflows/index") for path in sorted((ROOT / folder).rglob("*.py"))
        ]
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
