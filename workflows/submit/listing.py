"""``likeness jobs list``: the jobs that a cluster remembers."""

from datetime import datetime
from typing import Any

from metric_core.storage import without_secrets
from workflows.submit import names
from workflows.submit.config import ListConfig
from workflows.submit.head import Head


def run(config: ListConfig) -> dict[str, Any]:
    """All submitted jobs, the latest first, or those of a name."""
    jobs = [job for job in Head(config.head).jobs() if config.name in (None, names.name_of(job))]
    return {"jobs": [facts(job) for job in reversed(jobs)]}


def show(result: dict[str, Any]) -> str:
    """A table."""
    rows = [("JOB", "STATE", "STARTED", "COMMAND")]
    rows += [(job["job"], job["state"], job["started"] or "", job["command"]) for job in result["jobs"]]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join("  ".join([*(text.ljust(width) for text, width in zip(row, widths)), row[3]]) for row in rows)


def facts(job: Any) -> dict[str, Any]:
    """What there is to say about a job. Its environment, which may hold passwords, is left out."""
    stored = job.metadata or {}
    ended = names.state_of(job) not in names.LIVE
    return {
        "job": job.submission_id,
        "name": names.name_of(job),
        "state": names.state_of(job),
        "exit_code": names.exit_code(job) if ended else None,
        "started": _time(job.start_time),
        "ended": _time(job.end_time) if ended else None,
        "command": stored.get(names.COMMAND, without_secrets(job.entrypoint)),
        "likeness": stored.get(names.VERSION),
        "git_commit": stored.get(names.COMMIT),
        "sent": stored.get(names.SENT),
    }


def _time(milliseconds: int | None) -> str | None:
    """Local time of a Unix time."""
    return datetime.fromtimestamp(milliseconds / 1000).isoformat(" ", "seconds") if milliseconds else None
