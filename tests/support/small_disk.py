"""A small tmpfs for a command that fills it, made larger afterwards."""

import subprocess
from pathlib import Path

import pytest
from support.drivers import ROOT

UNSHARE = ["unshare", "--map-root-user", "--mount"]


def run(script: str, at: Path, job: list[str], *, timeout: float) -> None:
    """Run a shell script with ``at`` and the words of ``job`` as its arguments.

    Only the script and its children see what it mounts, which needs no rights except to make namespaces. The mount is
    gone when the script ends, so it copies what is left to another disk before.
    """
    subprocess.run([*UNSHARE, "bash", "-c", script, "bash", str(at), *job], cwd=ROOT, check=True, timeout=timeout)


def require(at: Path) -> None:
    """Skip the test where no disk can be mounted."""
    try:
        allowed = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", str(at)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare here to mount a small disk with")
    if allowed.returncode:
        pytest.skip(f"no small disk can be mounted here: {allowed.stderr.decode().strip()}")
