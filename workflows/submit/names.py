"""What a name means on a cluster: attach to its live job, say that it is done, or start the next one. Pure functions
over the jobs that a head remembers."""

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metric_core.errors import ConfigError, Missing

NAME, COMMAND, VERSION, COMMIT, SENT, NEEDS = (
    "likeness_name",
    "likeness_command",
    "likeness_version",
    "likeness_commit",
    "likeness_sent",
    "likeness_needs",
)
"""Keys of what is stored with a submission."""
LIVE = ("PENDING", "RUNNING")
"""States of a job that has not ended."""
DONE = "SUCCEEDED"


@dataclass(frozen=True)
class Found:
    """What a name stands for on the cluster."""

    job_id: str
    """The latest job, or the one to submit."""
    state: str
    """The latest job's state; empty if a job is to be submitted."""


def default_name(job: str, options: Sequence[str]) -> str:
    """A name for these options of a job: the same ones, the same name."""
    digest = hashlib.sha256(shlex.join(options).encode()).hexdigest()
    return f"{job.replace(' ', '-')}-{digest[:8]}"


def find(jobs: Sequence[Any], name: str, command: str) -> Found:
    """The job of this name to attach to, or that is done; else the id of the job to submit.

    Args:
        jobs: all of the cluster, the oldest first.
        name: of the submission.
        command: the command line, which a live or finished job of the name must have.

    Raises:
        ConfigError: a live or finished job of the name has another command line.
    """
    same = [job for job in jobs if name_of(job) == name]
    if same and state_of(same[-1]) in (*LIVE, DONE):
        other = (same[-1].metadata or {}).get(COMMAND, same[-1].entrypoint)
        if other != command:
            raise ConfigError(
                f"{name} is the name of another job that is {in_words(same[-1])}: `{other}`; asked for: `{command}`; "
                f"choose another --name"
            )
        return Found(same[-1].submission_id, state_of(same[-1]))
    used = {job.submission_id for job in jobs}
    ids = (name if n == 1 else f"{name}-{n}" for n in range(1, len(used) + 2))
    return Found(next(one for one in ids if one not in used), "")


def latest(jobs: Sequence[Any], name: str) -> Any:
    """The latest job of a name, or the job with this id. Raises Missing if there is none."""
    found = [job for job in jobs if name in (name_of(job), job.submission_id)]
    if not found:
        known = ", ".join(dict.fromkeys(name_of(job) for job in jobs[-5:])) or "none"
        raise Missing(f"the cluster has no job {name!r}; its latest: {known}")
    return found[-1]


def name_of(job: Any) -> str:
    """The name that a job was submitted under; of a job that is not from here, its id."""
    return str((job.metadata or {}).get(NAME, job.submission_id))


def state_of(job: Any) -> str:
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    return str(getattr(job.status, "value", job.status))


def in_words(job: Any) -> str:
    """A job's state in a sentence."""
    states = {"PENDING": "being started", "RUNNING": "running", DONE: "done", "FAILED": "failed", "STOPPED": "stopped"}
    return states.get(state_of(job), state_of(job))


def exit_code(job: Any) -> int:
    """The exit code for a job that has ended: its own, as a shell shows it; 143 for a job that was stopped."""
    if state_of(job) == DONE:
        return 0
    code = job.driver_exit_code
    if code is None:
        return 143 if state_of(job) == "STOPPED" else 1
    return 128 - int(code) if code < 0 else int(code)
