"""What an artefact is told of where it came from."""

import subprocess
import sys
from pathlib import Path

import pytest

from workflows.shared import provenance


def test_a_checkout_has_a_commit() -> None:
    root = Path(provenance.__file__).parents[2]
    told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert provenance.git_commit() == told.strip()


def test_git_need_not_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code = "from workflows.shared import provenance; print(provenance.git_commit())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out == "None\n"
