"""``likeness submit``: run a job on a cluster, under a name that makes the same command safe to repeat."""

import json
import os
import shlex
from importlib.metadata import version
from socket import gethostname
from typing import Any

from metric_core.errors import ConfigError
from metric_core.storage import without_secrets
from workflows.arguments import command_line
from workflows.cli import job_of
from workflows.shared import provenance
from workflows.shared.console import say
from workflows.submit import names, places, remote, sent
from workflows.submit.config import SubmitConfig
from workflows.submit.head import Head
from workflows.submit.watch import how, watch

TRACKING = "MLFLOW_TRACKING_URI"


def run(config: SubmitConfig) -> dict[str, Any]:
    """Submit the job or attach to it, and wait for its end unless told otherwise.

    Returns:
        The submission's name, the job's id, its state, and what it printed as its result.

    Raises:
        ConfigError: the head is not there or lets nobody in, it is reached through a tunnel and does not have a local
            path, or the name belongs to another job.
        JobFailed: the job failed; the error has its exit code.
        Detached: interrupted while the job goes on.
    """
    options, command, name = _asked(config)
    head = Head(config.head)
    _require_known_there(config, head)
    jobs = head.jobs()
    found = names.find(jobs, name, command)
    first = f"{found.job_id} is there already, {found.state.lower()}"
    if not found.state:
        _note_what_stays_here(config)
        runtime_env, more = sent.environment(head, config, jobs)
        metadata = {names.NAME: name, names.COMMAND: command, **_facts(), **more}
        head.submit(f"{remote.COMMAND} {shlex.join(options)}", found.job_id, runtime_env, metadata)
        first = f"submitted {found.job_id} to {config.head}; {how(found.job_id)}"
    answer = {"name": name, "job": found.job_id, "state": found.state or "PENDING"}
    if found.state == names.DONE:
        say(f"{name} is done already; another --name runs it again")
        return {**answer, "result": _read(remote.result_in(head.log(found.job_id).splitlines()), config)}
    if config.detach:
        say(first)
        return {**answer, "result": None}
    return {**answer, "state": names.DONE, "result": _read(watch(head, found.job_id, first), config)}


def show(result: dict[str, Any]) -> str:
    """The job's own result as it would stand here, or which job was submitted."""
    found = result["result"]
    if found is None:
        return f"{result['job']}: {result['state']}"
    return found if isinstance(found, str) else json.dumps(found)


def _asked(config: SubmitConfig) -> tuple[list[str], str, str]:
    """The command line to run there, as a list and as a text without secrets, and the submission's name."""
    job, _ = job_of(config.command)
    parsed, flags = config.parsed
    options = command_line(parsed)
    name = config.name or names.default_name(job, [*options, *flags])
    line = [*job.split(), *options, *flags]
    return line, without_secrets(shlex.join(line)), name


def _require_known_there(config: SubmitConfig, head: Head) -> None:
    """Raises ConfigError where a loopback address is a tunnel, or leads into a container, and the job has addresses
    that only this machine knows."""
    here, hosts = gethostname(), head.hosts()
    if not places.is_this_machine(config.head) or not hosts or here in hosts:
        return
    beyond = f"http://{hosts[0]}"
    passed = {name: os.environ[name] for name in config.pass_env}
    problems = [*places.of_variables(passed, beyond), *places.of_job(config.parsed[0], beyond, config.shared)]
    if problems:
        where = ", ".join(hosts[:3]) + (" …" if len(hosts) > 3 else "")
        raise ConfigError.of([*problems, f"{config.head} leads to a cluster on {where}, not to this machine, {here}"])


def _note_what_stays_here(config: SubmitConfig) -> None:
    """Say that the job will not see the MLflow server that a job here would use."""
    named = getattr(config.parsed[0], "tracking_uri", "none is taken")
    if named is None and os.environ.get(TRACKING) and TRACKING not in config.pass_env:
        say(f"{TRACKING} is set here and not sent; the nodes' own counts, unless --tracking-uri or --pass-env names it")


def _facts() -> dict[str, str]:
    commit = provenance.git_commit()
    return {names.VERSION: version("likeness-faces"), **({names.COMMIT: commit} if commit else {})}


def _read(text: str, config: SubmitConfig) -> Any:
    """What the job printed: an object where it was asked for JSON."""
    return json.loads(text) if "--json" in config.parsed[1] and text else text.rstrip("\n")
