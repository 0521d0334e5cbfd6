"""What a submission takes to the nodes: this checkout or nothing, packages that they lack, and named variables."""

import hashlib
import json
import os
import shlex
import uuid
from collections.abc import Sequence
from typing import Any

from metric_core.errors import JobFailed
from workflows.shared.console import say
from workflows.submit import names, remote, wheel
from workflows.submit.config import SubmitConfig
from workflows.submit.head import Head

STOPPING = {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
"""Seconds that Ray leaves a job which is stopped to write its checkpoint; its default is 3."""
INSTALLING_S = 900
"""Seconds that a node may take to install packages; Ray gives up on a job that has not started by then."""
WHEEL, PINS, INSTALLED, IMAGE = "wheel", "wheel and packages", "nothing", "image"
"""What may be sent, as it is stored with a submission."""


def environment(head: Head, config: SubmitConfig, jobs: Sequence[Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Ray's runtime environment for a job, and what to store with it.

    Args:
        head: the cluster.
        config: the submission.
        jobs: those that the cluster has had; one that was sent the same spares a look at the nodes.

    Raises:
        JobFailed: the wheel could not be built, or the nodes could not be looked at.
    """
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

    # The field of this name for a hook reaches the workers, but not the process that starts the job's command.
    variables = {**STOPPING, WORKER_PROCESS_SETUP_HOOK_ENV_VAR: remote.HOOK}
    passed = {name: os.environ[name] for name in config.pass_env}
    found: dict[str, Any] = {"env_vars": {**variables, **passed}}
    if config.image is not None:
        return {**found, "image_uri": config.image}, {names.SENT: IMAGE}
    if config.installed:
        return found, {names.SENT: INSTALLED}
    found["working_dir"] = str(wheel.built())
    needs = wheel.requirements()
    digest = hashlib.sha256(json.dumps(needs).encode()).hexdigest()[:16]
    sent = _sent_before(jobs, digest)
    if not sent:
        sent = PINS if _missing(head, {**found, "env_vars": variables}, needs) else WHEEL
    if sent == PINS:
        found |= {"pip": wheel.pins(), "config": {"setup_timeout_seconds": INSTALLING_S}}
    return found, {names.SENT: sent, names.NEEDS: digest}


def _sent_before(jobs: Sequence[Any], digest: str) -> str:
    """What the latest job with these requirements was sent that began to work; empty if there is none. One that failed
    by itself may have lacked packages; one that was killed had them."""
    began = [job for job in jobs if names.state_of(job) in ("RUNNING", names.DONE) or (job.driver_exit_code or 0) < 0]
    found = [job.metadata for job in began if (job.metadata or {}).get(names.NEEDS) == digest]
    return str(found[-1][names.SENT]) if found else ""


def _missing(head: Head, runtime_env: dict[str, Any], needs: list[str]) -> list[str]:
    """Which of the requirements some node does not meet, as a small job on the cluster finds out."""
    say("looking whether the nodes have the packages that Likeness needs")
    job_id = f"likeness-look-{uuid.uuid4().hex[:8]}"
    head.submit(f"{remote.COMMAND} {shlex.join([remote.MISSING, *needs])}", job_id, runtime_env, {})
    head.follow(job_id, lambda text: None)
    job, log = head.job(job_id), head.log(job_id)
    text = remote.result_in(log.splitlines())
    if names.state_of(job) != names.DONE or not text:
        lines = [line for line in (log or job.message or "no message").splitlines() if line.strip()]
        raise JobFailed(
            f"the nodes could not be looked at: {lines[-1].strip()[:200]} (job {job_id}); expected nodes with the "
            f"Python and Ray of this machine"
        )
    head.forget(job_id)
    missing: list[str] = json.loads(text)
    if missing:
        say(f"nodes lack {', '.join(missing)}: packages are installed in the versions here, which takes minutes once")
    return missing
