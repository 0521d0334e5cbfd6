"""Where an artefact came from: times, host, versions, commit. It is recorded beside content and never digested."""

import platform
import socket
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any


def record(**more: Any) -> dict[str, Any]:
    """The facts of this process, and whatever else the job knows."""
    return {
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "likeness": version("likeness-faces"),
        "git_commit": git_commit(),
        **more,
    }


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from; None for an installed package, or without git."""
    try:
        import git  # fails where there is no git executable
    except ImportError:
        return None
    try:
        return git.Repo(Path(__file__).parents[2]).head.commit.hexsha
    except (git.InvalidGitRepositoryError, git.NoSuchPathError, ValueError):  # ValueError: no commit yet
        return None
