"""Measures what a search takes: the growth of a process's resident memory, and CPU seconds per probe.

It runs in a process of its own, which first imports what it needs and searches a small index, so that only what the
index adds is counted: codes, mapped pages, probes and results, but not the page cache behind the reranking.
"""

# Q: probes, D: components.

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from metric_core import counter
from metric_core.errors import IndexBuildError
from metric_core.index import layout, shard, template
from metric_core.index.corpus import Rows
from metric_core.index.layout import Content
from metric_core.index.search import Index
from metric_core.index.spec import PROBES, IndexSpec
from metric_core.index.truth import Probes
from metric_core.index.version import Version

_SMALL = 1000
_BATCH = 1000


@dataclass(frozen=True)
class Footprint:
    """What a search of ``PROBES`` probes takes."""

    memory: int
    """bytes by which the peak of the resident memory grows"""
    cpu_per_probe: float
    """CPU seconds of all threads"""
    opening: float
    """CPU seconds to open the index"""


def measure(version: Version, content: Content) -> Footprint:
    """Search probes like the held-out ones in a new process.

    Raises:
        IndexBuildError: the process failed.
    """
    asked = {"uri": version.index_uri, "id": version.id, "content": asdict(content)}
    with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
        path = Path(folder) / "asked.json"
        path.write_text(json.dumps(asked))
        command = [sys.executable, "-m", __name__, str(path)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        raise IndexBuildError(f"a trial search of the index failed with code {ran.returncode}: {last}")
    return Footprint(**json.loads(ran.stdout))


def _search(index: Index, query_QD: np.ndarray) -> None:
    index.identify(query_QD, [str(n) for n in range(len(query_QD))], 5)


def _small(dim: int) -> Index:
    """An index of random rows, for the first search of a process."""
    x_ND = _directions(_SMALL, dim)
    spec = IndexSpec(dim, "Flat")
    names = pa.DictionaryArray.from_arrays(np.arange(_SMALL, dtype=np.int32), [str(n) for n in range(_SMALL)])
    trained = template.train(x_ND, spec, 0)
    with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
        built = shard.build(trained, spec, [Rows(np.arange(_SMALL), names, None, x_ND)], _SMALL, Path(folder))
        return Index.single(built.paths, spec)


def _directions(count: int, dim: int) -> np.ndarray:
    x_ND = counter.generator(0, "footprint").standard_normal((count, dim), np.float32)
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    return x_ND


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    # not getrusage's: that one also knows the process which started this one
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def _main(path: str) -> None:
    asked = json.loads(Path(path).read_text())
    version, content = Version(asked["uri"], asked["id"]), Content.parse(asked["content"])
    sys.stdout.write(json.dumps(asdict(_measured(version, content))))


def _measured(version: Version, content: Content) -> Footprint:
    dim = content.spec.dim
    _search(_small(dim), _directions(64, dim))
    before, clock = _resident(), time.process_time()
    index = Index.load(version, content)
    opening = time.process_time() - clock
    own_QD = Probes.parse(version.read_checked(content, layout.TRUTH)).query_QD
    query_QD = np.empty((PROBES, dim), np.float32)
    for start in range(0, PROBES, _BATCH):  # as many probes as are promised, near the held-out ones; in small steps,
        batch_BD = query_QD[start : start + _BATCH]  # so that making them takes no memory that a search does not take
        batch_BD[:] = own_QD[(start + np.arange(len(batch_BD))) % len(own_QD)]
        batch_BD += np.float32(0.1) * _directions(len(batch_BD), dim)
        batch_BD /= np.linalg.norm(batch_BD, axis=1, keepdims=True)
    clock = time.process_time()
    _search(index, query_QD)
    spent = time.process_time() - clock
    return Footprint(max(0, _peak() - before), spent / PROBES, opening)


if __name__ == "__main__":
    _main(sys.argv[1])
