"""A job on a cluster as if it ran here: its lines on stderr, its result held for stdout, Ctrl-C, and its exit code."""

import re
import sys

from metric_core.errors import JobFailed, LikenessError
from workflows.shared.console import say
from workflows.submit import names, remote
from workflows.submit.head import Head

NOISE = re.compile(r"Running entrypoint for job |.{0,40}\sINFO job_manager\.py:")
"""Lines that Ray writes into each job's log: the command, which is known, and that its environment is being set up."""
DETACHED = 130
"""Exit code after an interrupt, while the job goes on."""
BAD_INPUT = 2
"""Exit code of a job whose options or data were bad."""
DETACH, STOP = "d", "s"
"""Answers to an interrupt."""


class Detached(LikenessError):
    """The user has stopped watching; the job goes on."""

    exit_code = DETACHED


class Lines:
    """Writes the lines of a job to stderr, once each, but for those of its result."""

    def __init__(self) -> None:
        self._log = ""
        self._seen = 0

    def restart(self) -> None:
        """Expect the log from its beginning again; what was written of it is not written twice."""
        self._log = ""

    def add(self, text: str) -> None:
        """Take the next piece of the log."""
        self._log += text
        end = self._log.rfind("\n") + 1
        for line in self._log[self._seen : end].splitlines():
            if is_the_job_s(line):
                sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
        self._seen = max(self._seen, end)

    @property
    def result(self) -> str:
        """What the job printed to stdout."""
        return remote.result_in(self._log.splitlines())


def is_the_job_s(line: str) -> bool:
    """Whether a line of a log is for people to read: neither Ray's own nor a part of the result."""
    return not (line.startswith(remote.MARK) or NOISE.match(line))


def watch(head: Head, job_id: str, first: str = "") -> str:
    """Show a job's lines until it ends, after a ``first`` line if there is one to say.

    Returns:
        What it printed to stdout.

    Raises:
        Detached: interrupted, and the job goes on.
        JobFailed: the job failed or was stopped; the error has its exit code.
    """
    lines = Lines()
    while True:
        try:
            if first:
                say(first)
            first = ""
            lines.restart()
            head.follow(job_id, lines.add)
            break
        except KeyboardInterrupt as signal:
            _ask(head, job_id, getattr(signal, "exit_code", DETACHED))
    require_success(head, job_id)
    return lines.result


def require_success(head: Head, job_id: str) -> None:
    """Raises JobFailed, with the job's exit code, unless it has ended well."""
    job = head.job(job_id)
    if names.state_of(job) in names.LIVE:
        raise JobFailed(
            f"the cluster no longer shows the lines of {job_id}, which is {names.in_words(job)}; {how(job_id)}"
        )
    code = names.exit_code(job)
    if code == 0:
        return
    lines = [line.strip() for line in (job.message or "").splitlines() if line.strip()]
    why = "" if job.driver_exit_code is not None or not lines else f": {lines[-1][:300]}"
    remedy = "correct the command, under the same name" if code == BAD_INPUT else "the same command continues it"
    error = JobFailed(f"{job_id} {names.in_words(job)} (exit code {code}){why}; {remedy}")
    error.exit_code = code
    raise error


def how(job_id: str) -> str:
    """How to go on with a job that runs."""
    return f"`likeness jobs logs --follow --name {job_id}` attaches, `likeness jobs stop --name {job_id}` stops it"


def _ask(head: Head, job_id: str, code: int) -> None:
    """After an interrupt: return to watch on, after stopping the job if the user says so.

    Raises:
        Detached: the user says so, or there is nobody to ask. It has the exit code ``code``.
    """
    answer = DETACH
    if code == DETACHED and sys.stdin.isatty() and sys.stderr.isatty():
        say(f"{job_id} runs on the cluster: [d]etach, [s]top it, or Enter to watch on?")
        try:
            answer = sys.stdin.readline().strip().lower()[:1]
        except KeyboardInterrupt:
            answer = DETACH
    if answer == DETACH:
        error = Detached(f"detached from {job_id}, which goes on; {how(job_id)}")
        error.exit_code = code
        raise error
    if answer == STOP:
        head.stop(job_id)
        say(f"stopping {job_id}")
