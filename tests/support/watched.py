"""Runs something in a process of its own and says what it cost: CPU seconds, and memory above what it had before.

    python -m support.watched MODULE:FUNCTION ARGUMENT

prints {answer, cpu, peak} as JSON. The function warms up when it gets no argument, so that imports do not count.
"""

import importlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cost:
    """What a call took, with the processes that it started."""

    answer: Any
    cpu: float
    """Seconds."""
    peak: int
    """Bytes above its base, of the process that took most."""


def cost(function: str, argument: str, *, timeout: float) -> Cost:
    """What ``function``, MODULE:NAME, answers for an argument, and its cost."""
    words = [sys.executable, "-m", "support.watched", function, argument]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, cwd=ROOT, env=environment)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _peaks() -> dict[int, int]:
    """{pid: most bytes in memory so far} of this process and its children."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    found = {}
    for pid in [own, *map(int, children)]:
        text = Path(f"/proc/{pid}/status").read_text()
        found[pid] = int(text.partition("VmHWM:")[2].split()[0]) << 10
    return found


def _cpu() -> float:
    """Seconds of this process, and of its children, running or not."""
    own = os.times()
    seconds = own.user + own.system + own.children_user + own.children_system
    for pid in _peaks():
        if pid != os.getpid():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


def main() -> None:
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    function(None)
    before, start = _peaks(), _cpu()
    answer = function(sys.argv[2])
    after, end = _peaks(), _cpu()
    base = max(before.values())
    grown = [peak - before.get(pid, base) for pid, peak in after.items()]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    if before.keys() - after.keys():
        grown.append(ended - min(before[pid] for pid in before.keys() - after.keys()))
    sys.stdout.write(json.dumps({"answer": answer, "cpu": end - start, "peak": max(grown)}) + "\n")


if __name__ == "__main__":
    main()
