"""``likeness jobs stop``: end a submitted job, which keeps what it has written."""

from typing import Any

from workflows.shared.console import say
from workflows.submit import names
from workflows.submit.config import OneConfig
from workflows.submit.head import Head


def run(config: OneConfig) -> dict[str, Any]:
    """Stop the latest job of a name and wait for its end; one that has ended stays as it is. Raises Missing if the
    cluster has no such job."""
    head = Head(config.head)
    job_id = names.latest(head.jobs(), config.name).submission_id
    stopped = head.stop(job_id)
    if stopped:
        say(f"stopping {job_id}")
        head.follow(job_id, lambda text: None)
    return {"job": job_id, "stopped": stopped, "state": names.state_of(head.job(job_id))}
