"""What runs on the cluster: the job's command in a process of its own, or a look at the packages of the nodes.

Ray keeps one log of what a job writes to stdout and stderr. The result, which the command prints to stdout, is
therefore held back and written last, in lines that ``result_in`` recognises. Only the standard library and what Ray
itself needs are imported, so that nodes without our packages can say so.
"""

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version

HOOK = "workflows.submit.remote.name_python"
PYTHON = "LIKENESS_PYTHON"
"""Environment variable with the interpreter that Ray runs on, which need not be the ``python`` on PATH."""
COMMAND = f'exec "${{{PYTHON}:-python}}" -m workflows.submit.remote'
"""How a shell on the cluster starts this module."""
MISSING = "--missing"
"""First argument if the nodes' packages are asked for; the requirements follow."""
LOOK_S = 120.0
"""Seconds in which a node must say what it has."""
MARK = "likeness-result: "
"""Beginning of the lines of a result."""
CHARACTERS = 8000
"""Characters of a result in one line; Ray hands longer lines on in pieces."""


def name_python() -> None:
    """Tell the job's command which Python to start. Ray calls this in each of its processes that work for the job, and
    one of them starts the command."""
    os.environ[PYTHON] = sys.executable


def framed(text: str) -> list[str]:
    """The lines from which ``result_in`` gets the text back."""
    return [MARK + json.dumps(text[i : i + CHARACTERS]) for i in range(0, len(text), CHARACTERS)]


def result_in(lines: Iterable[str]) -> str:
    """The result among the lines of a log; empty if there is none."""
    return "".join(json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK))


def main(argv: list[str]) -> int:
    """Run ``likeness`` with these arguments and return its exit code."""
    if argv[:1] == [MISSING]:
        return _with_result(lambda: _print_missing(argv[1:]))
    _drop_hook()
    from workflows import cli

    sys.argv = ["likeness", *argv]  # as artefacts record it
    return _with_result(lambda: cli.main(argv))


def _drop_hook() -> None:
    """The hook has done its work in the process that started this one; the job's workers need none, and Ray refuses a
    second one beside it."""
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    os.environ.pop(WORKER_PROCESS_SETUP_HOOK_ENV_VAR, None)
    config = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR) or "{}")
    variables = config.get("runtime_env", {}).get("env_vars", {})
    if variables.pop(WORKER_PROCESS_SETUP_HOOK_ENV_VAR, None):
        os.environ[RAY_JOB_CONFIG_JSON_ENV_VAR] = json.dumps(config)


def _with_result(run: Callable[[], int]) -> int:
    held = io.StringIO()
    try:
        with redirect_stdout(held):
            return run()
    finally:
        for line in framed(held.getvalue()):
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def _print_missing(requirements: list[str]) -> int:
    """Print, as JSON, which of the requirements some node of the cluster does not meet."""
    import ray

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    look = ray.remote(num_cpus=0)(missing)
    asked = [look.options(label_selector={"ray.io/node-id": node}).remote(requirements) for node in nodes]
    there, _ = ray.wait(asked, num_returns=len(asked), timeout=LOOK_S)  # a node that is lost meanwhile gets no work
    sys.stdout.write(json.dumps(sorted({one for each in ray.get(there) for one in each})))
    return 0


def missing(requirements: list[str]) -> list[str]:
    """Those of the requirements, such as ``torch>=2.5``, that the packages of this Python do not meet."""
    from packaging.requirements import Requirement

    found = []
    for one in map(Requirement, requirements):
        try:
            met = one.specifier.contains(version(one.name), prereleases=True)
        except PackageNotFoundError:
            met = False
        if not met:
            found.append(str(one))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
