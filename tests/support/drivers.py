"""Jobs as processes of their own, which can be watched and killed; embed jobs can be held at a gate as well."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from support import witness

from metric_core.artefacts import embeddings

ROOT = Path(__file__).parents[2]
UNIT = 100
"""Faces per unit."""
PATIENCE = 240
"""Seconds; far more than anything here takes, on any machine."""


class Run:
    """One job: drivers that follow one another, and what they leave."""

    def __init__(
        self,
        folder: Path,
        faces: str,
        model: str,
        *options: str,
        out: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.out = folder, out or str(folder / "embeddings")
        folder.mkdir()
        self._argv = [sys.executable, "-m", "tests.support.witness", str(folder), "embed"]
        self._argv += ["--faces", faces, "--model", model]
        self._argv += ["--out", self.out, "--unit-size", str(UNIT), *options]
        self._environment = {**os.environ, **(environment or {})}
        self.driver: subprocess.Popen[bytes]
        self.open_gate()

    def start(self) -> None:
        """Start another driver."""
        with open(self.folder / "driver.txt", "wb") as output:
            self.driver = subprocess.Popen(self._argv, stdout=output, stderr=output, cwd=ROOT, env=self._environment)

    def open_gate(self, units: int = sys.maxsize) -> None:
        """Let the actors embed until ``units`` units are finished."""
        witness.open_gate(self.folder, units)

    def alive(self) -> bool:
        """True; raises AssertionError if the driver has ended."""
        assert self.driver.poll() is None, f"it ended with {self.done} units:\n{self.output()}"
        return True

    def output(self) -> str:
        """The end of what the driver has printed."""
        return (self.folder / "driver.txt").read_text()[-3000:]

    @property
    def done(self) -> int:
        """Finished units."""
        return witness.finished(f"{self.out}/done")

    def reach(self, units: int) -> None:
        """Wait until ``units`` units are finished."""
        until(lambda: self.done >= units or not self.alive(), f"{units} units done")

    def end(self, code: int = 0) -> str:
        """Wait until the driver ends with this exit code; returns the end of what it has printed."""
        assert self.driver.wait(timeout=PATIENCE * 4) == code, self.output()
        return self.output()

    def committed(self) -> dict[str, tuple[int, int, int]]:
        """Inodes, times and sizes of what must not change any more: records, and the parts that have one."""
        records = [path.name for path in Path(self.out, "done").glob("[!.]*.json")]
        parts = [embeddings.part_name(int(name.removesuffix(".json"))) for name in records]
        stats = {file: Path(self.out, file).stat() for file in [*(f"done/{name}" for name in records), *parts]}
        return {file: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for file, stat in stats.items()}


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds; raises AssertionError after ``PATIENCE`` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not reached in {PATIENCE} s: {what}"
        time.sleep(0.01)


def started(argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A command in a process group of its own, with a Ray of its own; what it prints is added to ``log``."""
    alone = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with open(log, "ab") as output:
        return subprocess.Popen(argv, stdout=output, stderr=output, cwd=ROOT, env=alone, start_new_session=True)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill what ``started`` and all that it has started; Ray's processes have groups of their own."""
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:  # it ended by itself
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for one in below:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(below, timeout=60)
