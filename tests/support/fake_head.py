"""A head without a cluster: it remembers what is submitted, and its jobs end as a test says."""

from collections.abc import Callable
from socket import gethostname
from types import SimpleNamespace
from typing import Any


class FakeHead:
    """Stands in for ``workflows.submit.head.Head``; ``ends`` says how the next job ends."""

    def __init__(self) -> None:
        self.kept: list[SimpleNamespace] = []
        self.logs: dict[str, str] = {}
        self.pieces: list[str] = []
        """What the next job writes, piece by piece."""
        self.ends: tuple[str, int | None] = ("SUCCEEDED", 0)
        """State and exit code of the next job; RUNNING, None for one that goes on."""
        self.missing = "[]"
        """What a look at the nodes finds missing, as JSON."""
        self.interrupts: list[BaseException] = []
        """Raised one by one while a job is followed, before it ends."""
        self.machines = [gethostname()]
        """Host names of its nodes."""
        self.stopped: list[str] = []
        self.forgotten: list[SimpleNamespace] = []

    def __call__(self, address: str) -> "FakeHead":
        self.address = address
        return self

    def submit(self, entrypoint: str, job_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]) -> None:
        assert job_id not in [job.submission_id for job in self.kept], "ids are unique"
        look = "--missing" in entrypoint
        status, code = ("SUCCEEDED", 0) if look else self.ends
        job = SimpleNamespace(submission_id=job_id, status=status, driver_exit_code=code, metadata=metadata)
        job.entrypoint, job.runtime_env, job.message = entrypoint, runtime_env, ""
        job.start_time, job.end_time = 1_800_000_000_000 + 1000 * len(self.kept), None
        self.kept.append(job)
        self.logs[job_id] = f'likeness-result: "{self.missing}"\n' if look else "".join(self.pieces)

    def jobs(self) -> list[SimpleNamespace]:
        return list(self.kept)

    def job(self, job_id: str) -> SimpleNamespace:
        return next(job for job in self.kept if job.submission_id == job_id)

    def stop(self, job_id: str) -> bool:
        self.stopped.append(job_id)
        job = self.job(job_id)
        running = job.status in ("PENDING", "RUNNING")
        if running:
            job.status, job.driver_exit_code = "STOPPED", None
        return running

    def log(self, job_id: str) -> str:
        return self.logs[job_id]

    def hosts(self) -> list[str]:
        return self.machines

    def forget(self, job_id: str) -> None:
        self.forgotten.append(self.job(job_id))
        self.kept.remove(self.forgotten[-1])

    def follow(self, job_id: str, show: Callable[[str], None]) -> None:
        for piece in self.pieces:
            show(piece)
            if self.interrupts:
                raise self.interrupts.pop(0)
