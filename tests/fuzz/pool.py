"""Worker processes that read cases, watched: one that takes too long, takes too much memory or dies is replaced."""

import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

import psutil
from fuzz import worker
from fuzz.case import CRASH, HANG, MEMORY, Case, Outcome

SECONDS = 10.0
"""CPU seconds of one case, with those of the processes that it starts."""
BYTES = 1 << 30
"""Memory of one case above what its process had before."""
GLANCE_S = 0.1
"""Seconds between looks at the workers."""
SILENT_S = 120.0
"""Seconds after which a case counts as a hang although it takes no CPU time."""
START_S = 300.0
"""Seconds that a worker may take to start."""

Tell = Callable[[Case, Outcome], None]


class Pool:
    """Some workers. ``tell`` is called with every case and its outcome."""

    def __init__(
        self,
        workers: int,
        tell: Tell,
        data_file: Path | None = None,
        *,
        module: str = "fuzz.formats",
        seconds: float = SECONDS,
    ) -> None:
        self._tell, self._how = tell, (module, str(data_file or ""), seconds)
        self._workers = [_Worker(*self._how) for _ in range(workers)]

    def submit(self, case: Case) -> None:
        """Have a case read; waits until a worker is free."""
        while not (free := [one for one in self._workers if one.case is None]):
            self._look()
        free[0].give(case)

    def close(self) -> None:
        """Wait for what is still read, and end the workers."""
        while any(one.case for one in self._workers):
            self._look()
        for one in self._workers:
            one.end()

    def _look(self) -> None:
        ready = wait([one.connection for one in self._workers if one.case], GLANCE_S)
        for place, one in enumerate(self._workers):
            if one.case is None:
                continue
            case, outcome = one.case, one.answer() if one.connection in ready else one.trouble()
            if outcome is None:
                continue
            self._tell(case, outcome)
            if not one.alive:
                self._workers[place] = _Worker(*self._how)


class _Worker:
    """One process."""

    def __init__(self, module: str, data_file: str, seconds: float) -> None:
        self._seconds_allowed = seconds
        self._folder = tempfile.mkdtemp(prefix="fuzz-")
        self.connection, theirs = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        self._process = spawn.Process(target=worker.serve, args=(theirs, self._folder, module, data_file))
        self._process.start()
        theirs.close()
        if not self.connection.poll(START_S):
            raise TimeoutError("a worker did not start")
        self.connection.recv()
        self._about = psutil.Process(self._process.pid)
        self.case: Case | None = None
        self.alive = True

    def give(self, case: Case) -> None:
        """Have it read a case."""
        self._cpu, self._base, self._since = self._seconds(), self._bytes(), time.monotonic()
        self.case = case
        with suppress(BrokenPipeError):
            self.connection.send(case)

    def answer(self) -> Outcome:
        """What it says; a worker that died says nothing."""
        self.case = None
        try:
            outcome, peak = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return self._killed(Outcome(CRASH, detail=f"exit code {self._process.exitcode}"))
        if peak - self._base > BYTES:
            return self._killed(Outcome(MEMORY, outcome.header, f"{(peak - self._base) >> 20} MiB; {outcome.detail}"))
        return outcome

    def trouble(self) -> Outcome | None:
        """Why it must be ended while it reads; None if it need not."""
        seconds, size = self._seconds() - self._cpu, self._bytes() - self._base
        if size > BYTES:  # first: filling memory takes time as well
            return self._killed(Outcome(MEMORY, detail=f"{size >> 20} MiB"))
        if seconds > self._seconds_allowed or time.monotonic() - self._since > SILENT_S:
            return self._killed(Outcome(HANG, detail=f"{seconds:.0f} CPU seconds"))
        return None

    def end(self) -> None:
        """Let it stop by itself."""
        self.connection.send(None)
        self._process.join(60)
        self._killed(Outcome(HANG))

    def _killed(self, outcome: Outcome) -> Outcome:
        for one in self._family():
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._process.join()
        self.connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.case, self.alive = None, False
        return outcome

    def _family(self) -> list[psutil.Process]:
        try:
            return [self._about, *self._about.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _seconds(self) -> float:
        """CPU seconds so far, with those of children, running or ended."""
        total = 0.0
        for one in self._family():
            with suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def _bytes(self) -> int:
        """Memory of the process that has most."""
        sizes = [0]
        for one in self._family():
            with suppress(psutil.NoSuchProcess):
                sizes.append(one.memory_info().rss)
        return max(sizes)
