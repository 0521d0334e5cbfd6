"""``likeness jobs logs``: what a submitted job has said."""

from typing import Any

from workflows.submit import names, remote
from workflows.submit.config import LogsConfig
from workflows.submit.head import Head
from workflows.submit.watch import is_the_job_s, watch


def run(config: LogsConfig) -> dict[str, Any]:
    """The lines of the latest job of a name, and its result. Raises Missing if the cluster has no such job."""
    head = Head(config.head)
    job_id = names.latest(head.jobs(), config.name).submission_id
    if config.follow:
        return {"job": job_id, "lines": [], "result": watch(head, job_id)}
    lines = head.log(job_id).splitlines()
    return {"job": job_id, "lines": list(filter(is_the_job_s, lines)), "result": remote.result_in(lines)}


def show(result: dict[str, Any]) -> str:
    """The lines as they stand, the result last."""
    return "\n".join([*result["lines"], *result["result"].splitlines()])
