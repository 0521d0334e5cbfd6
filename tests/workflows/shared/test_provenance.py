"""What an artefact records of where it came from."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workflows.shared import provenance


def test_a_checkout_has_a_commit() -> None:
    root = Path(provenance.__file__).parents[2]
    expected = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert provenance.git_commit() == expected.strip()


def test_git_need_not_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code = "from workflows.shared import provenance; print(provenance.git_commit())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out == "None\n"


def test_only_a_checkout_s_own_commit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of a repository that an installed package lies in, nor of one without a commit, nor of another one."""

    def git(*arguments: str) -> None:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments]
        subprocess.run(command, check=True, capture_output=True)

    def found(root: Path) -> str:
        code = "from workflows.shared import provenance; print(provenance.git_commit())"
        out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        return out.stdout.strip()

    installed = tmp_path / "venv" / "site-packages"
    original = Path(provenance.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", "")
    for root in (tmp_path, installed):
        (root / "workflows" / "shared").mkdir(parents=True)
        for name in ("__init__.py", "shared/__init__.py", "shared/provenance.py"):
            shutil.copy(original / "workflows" / name, root / "workflows" / name)
    git("init")
    assert found(tmp_path) == "None", "no commit yet"
    git("commit", "--allow-empty", "--message", "first")
    assert len(found(tmp_path)) == 40
    assert found(installed) == "None"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert found(installed) == "None"
