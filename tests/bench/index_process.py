"""Runs a command, or a function in a process of its own, and says what it and all its descendants used.

Ray's processes are not waited for by the command that starts them, so the kernel adds their time to nobody's. They are
therefore read from /proc every 50 ms until they end: at most that much of each is missed.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

POLL_S = 0.05
_TICKS = os.sysconf("SC_CLK_TCK")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Failed(Exception):
    """A command ended with an error, or did not end in time."""


@dataclass(frozen=True)
class Used:
    """What a command used."""

    cpu: float
    """seconds of a core, user and system, of the command and all its descendants"""
    wall: float
    """seconds"""
    peaks: dict[str, int]
    """peak resident bytes of the largest process that had each name"""
    out: str
    """its standard output"""


@dataclass
class _Watch:
    """The descendants of a process, so far."""

    root: int
    ticks: dict[tuple[int, str], int] = field(default_factory=dict)
    """by process id and time of its start"""
    names: dict[tuple[int, str], set[str]] = field(default_factory=dict)
    peak: dict[tuple[int, str], int] = field(default_factory=dict)

    def look(self) -> None:
        """Read the counters of all that are alive."""
        alive = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                name, _, rest = (entry / "stat").read_text().rpartition(")")
            except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                continue
            values = rest.split()
            alive[int(entry.name)] = (
                name.partition("(")[2],
                int(values[1]),
                int(values[11]) + int(values[12]),
                values[19],
            )
        ours = {pid for pid, (_, _, _, start) in alive.items() if pid == self.root or (pid, start) in self.ticks}
        while more := {pid for pid, (_, parent, _, _) in alive.items() if parent in ours} - ours:
            ours |= more
        for pid in ours:
            name, _, ticks, start = alive[pid]
            self.ticks[pid, start] = max(ticks, self.ticks.get((pid, start), 0))
            self.names.setdefault((pid, start), set()).add(name)
            self.peak[pid, start] = max(_peak(pid), self.peak.get((pid, start), 0))

    def peaks(self) -> dict[str, int]:
        """Peak resident bytes by name."""
        found: dict[str, int] = {}
        for key, names in self.names.items():
            for name in names:
                found[name] = max(found.get(name, 0), self.peak[key])
        return found


def run(argv: list[str], *, threads: int | None = None, timeout: float | None = None) -> Used:
    """Run a command to its end.

    Args:
        argv: the command.
        threads: of each numeric library; None: as many as it takes.
        timeout: seconds after which it is killed.

    Raises:
        Failed: with its last line of error output, or because it was killed.
    """
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'bench'}"}
    if threads is not None:
        env |= dict.fromkeys(_THREADS, str(threads))
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.monotonic()
        child = subprocess.Popen(argv, env=env, stdout=out, stderr=err, start_new_session=True)
        watch = _Watch(child.pid)
        try:
            while child.poll() is None:
                watch.look()
                time.sleep(POLL_S)
                if timeout is not None and time.monotonic() - start > timeout:
                    raise Failed(f"did not end within {timeout:.0f} s")
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        wall = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        if child.returncode:
            last = (err.read().strip().splitlines() or ["no message"])[-1]
            raise Failed(f"ended with {child.returncode}: {last}")
        return Used(sum(watch.ticks.values()) / _TICKS, wall, watch.peaks(), out.read())


def likeness(*arguments: str, threads: int | None = None) -> Used:
    """Run a ``likeness`` command. Raises Failed as ``run``."""
    return run([sys.executable, "-m", "workflows.cli", *arguments], threads=threads)


def measured(
    function: Callable[..., Any], *, threads: int | None = 1, timeout: float | None = None, **arguments: Any
) -> tuple[Any, Used]:
    """Call a function of a module in a new process; what it returns, through JSON, and what the process used.

    Raises:
        Failed: it raised something.
    """
    name = f"{function.__module__}:{function.__name__}"
    used = run([sys.executable, __file__, name, json.dumps(arguments)], threads=threads, timeout=timeout)
    return json.loads(used.out.splitlines()[-1]), used


def child(function: Callable[..., Any], *, threads: int | None = 1, **arguments: Any) -> Any:
    """As ``measured``, without what it used."""
    return measured(function, threads=threads, **arguments)[0]


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)  # none once it ended


if __name__ == "__main__":
    _module, _, _name = sys.argv[1].partition(":")
    print(json.dumps(getattr(importlib.import_module(_module), _name)(**json.loads(sys.argv[2]))))
