"""Builds shards of a version from its parts, each in a task on Ray; what an interrupted run finished is kept."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError

from metric_core.errors import Corrupt, IndexBuildError
from metric_core.index import check, shard, truth
from metric_core.index import version as versions
from metric_core.index.corpus import Corpus, Part
from metric_core.index.layout import Content, Shard
from metric_core.index.search import Index
from metric_core.index.spec import IndexSpec
from metric_core.index.truth import Probes
from metric_core.index.version import Version
from workflows.shared import cluster

_PROCESS_BYTES = 256 << 20
"""Memory of a task beside what grows with its shard: Python, the libraries, a part and a block of similarities."""
_PATIENCE_S = 60.0
"""Seconds for the other tasks to stop when one has failed; they take their unfinished files away."""


@dataclass(frozen=True)
class Shards:
    """Shards that are built from the same template."""

    version: Version
    corpus: Corpus
    spec: IndexSpec
    template: bytes
    probes: Probes
    runs: Sequence[Sequence[Part]]
    """the parts of each shard"""
    first: int = 0
    """number of the first of them in the version"""
    before: Content | None = None
    """what the version's manifest describes, if it is finished and is mended now"""

    def build(self) -> Iterator[int]:
        """The rows of each shard when it is done: a Ray task builds and checks each one that is missing or damaged.

        Raises:
            ConfigError: no node has the memory that a shard takes to build.
            IndexBuildError: a shard failed its checks.
        """
        memory = [memory_of(self.spec, sum(part.rows for part in run)) for run in self.runs]
        cluster.require_memory(max(memory), "give more --shards, or a node with more memory")
        work, running = ray.put(self), []
        for number, done in enumerate(self.done()):
            if done is not None:
                yield done.rows
            else:
                running.append(_build_shard.options(memory=memory[number]).remote(work, number))
        try:
            while running:
                ready, running = ray.wait(running)
                yield ray.get(ready[0])
        except RayError as error:
            for other in running:
                ray.cancel(other)
            if running:
                ray.wait(running, num_returns=len(running), timeout=_PATIENCE_S)
            raise cluster.as_likeness_error(error) from error

    def done(self) -> list[Shard | None]:
        """The receipts of the shards; None for each that is missing or damaged."""
        digest, numbers = versions.digest(self.template), range(self.first, self.first + len(self.runs))
        found = [check.sound_receipt(self.version, number, digest) for number in numbers]
        return [None if one is None else one[0] for one in found]


def require_same(version: Version, found: str, expected: str) -> None:
    """Refuse to replace a file of a finished version by another one. Raises IndexBuildError."""
    if found != expected:
        raise IndexBuildError(
            f"{version.uri}: what was built again differs from what its manifest describes, as it does with "
            f"another processor or other versions of FAISS and NumPy; build a new version beside it with another "
            f"--seed"
        )


def memory_of(spec: IndexSpec, rows: int) -> int:
    """Most bytes of memory that a task takes to build a shard of so many rows."""
    return 2 * spec.disk_bytes(rows, rows, 1) + _PROCESS_BYTES


@ray.remote(num_cpus=1, max_retries=3)
def _build_shard(work: Shards, number: int) -> int:
    """Build, check and store one of the shards, whose parts are read once."""
    near, parts, at = work.probes.nearest(), work.runs[number], work.first + number
    with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
        rows = sum(part.rows for part in parts)
        blocks = (work.corpus.read(part) for part in parts)
        built = shard.build(work.template, work.spec, blocks, rows, Path(folder), near)
        if work.before is not None:
            require_same(work.version, built.digest, work.before.shards[at].digest)
        check.require_found(Index.single(built.paths, work.spec), f"shard {at}")
        neighbours = _kept_near(work, at) or versions.ipc(truth.best_table(near.best()))
        return work.version.put_shard(at, built, versions.digest(work.template), neighbours).rows


def _kept_near(work: Shards, number: int) -> bytes | None:
    """The probes' neighbours in a shard of a version that is mended, if they are undamaged: those that an erasure left
    are fewer than a build would find."""
    try:
        found = None if work.before is None else work.version.receipt(number)
    except Corrupt:
        return None
    return None if found is None else found[1]
