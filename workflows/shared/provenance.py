"""Where an artefact came from: times, host, versions, commit. Recorded beside the content, not part of its digest."""

import platform
import socket
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any


def record(**more: Any) -> dict[str, Any]:
    """The facts of this process, with ``more`` of the job; no address in them keeps a user or a password."""
    facts = {
        "finished": now(),
        "host": socket.gethostname(),
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "likeness": version("likeness-faces"),
        "git_commit": git_commit(),
        **more,
    }
    return {name: _without_secrets(value) for name, value in facts.items()}


def now() -> str:
    """The time, to the second, as it is recorded."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _without_secrets(value: Any) -> Any:
    from metric_core.storage import without_secrets  # the commit alone needs none of the library

    if isinstance(value, dict):
        return {name: _without_secrets(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_secrets(one) for one in value]
    return without_secrets(value) if isinstance(value, str) else value


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from; None for an installed package, or without git."""
    # Given, so that git does not search upwards: an installed package may lie inside somebody else's repository.
    folder = Path(__file__).parents[2] / ".git"
    command = ["git", f"--git-dir={folder}", "rev-parse", "--verify", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git executable
        return None
    return found.stdout.strip() if found.returncode == 0 else None
