"""A job that may open too few files, or write too short ones, or write nowhere: one line, and nothing half-written."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.drivers import ROOT
from support.tiny import untrained

LIKENESS = [sys.executable, "-m", "workflows.cli"]


@pytest.fixture(scope="module")
def made(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with faces and an untrained model."""
    root = tmp_path_factory.mktemp("made")
    job = [*LIKENESS, "catalogue", "--source", str(people), "--out", str(root / "faces")]
    subprocess.run(job, cwd=ROOT, check=True, capture_output=True)
    untrained(str(root / "model"))
    return root


def last_lines(script: str, argv: list[str]) -> tuple[int, list[str]]:
    """Exit code and messages of a job, run by ``bash -c`` behind a line of script."""
    words = ["bash", "-c", f'{script}; exec "$@"', "bash", *LIKENESS, *argv]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr.splitlines()


JOBS = {
    "catalogue": ["--source", "{people}"],
    "embed": ["--faces", "{made}/faces", "--model", "{made}/model"],
    "train": ["--faces", "{made}/faces", "--steps", "1", "--tracking-uri", "sqlite:///{made}/m.db"],
}


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ("ulimit -n 64", 2, "limited to 64 open files (ulimit -n); Ray needs 1024: raise the limit"),
        ("ulimit -f 1", 2, "limited to 1024 bytes of a file (ulimit -f); Ray needs 67108864: raise the limit"),
    ],
)
def test_limits_of_the_process(
    job: str, script: str, code: int, message: str, made: Path, people: Path, tmp_path: Path
) -> None:
    argv = [word.format(made=made, people=people) for word in JOBS[job]]
    found, lines = last_lines(script, [job, *argv, "--out", str(tmp_path / "out")])
    if job == "catalogue":  # without Ray
        code, message = (0, "") if "-n" in script else (1, "out: File too large while writing faces-000000.parquet")
    assert found == code, lines
    assert message in lines[-1] if lines else not message, lines
    assert len([line for line in lines if line.startswith("likeness")]) == (1 if code else 0)
    assert not list(tmp_path.rglob("*.unfinished"))
    assert code == 0 or not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_a_folder_that_may_not_be_written_to(job: str, made: Path, people: Path, tmp_path: Path) -> None:
    from support import small_disk

    small_disk.require(tmp_path)
    (tmp_path / "disk").mkdir()
    argv = [word.format(made=made, people=people) for word in JOBS[job]]
    mount = f"mount -t tmpfs -o ro tmpfs {tmp_path}/disk"
    words = [*small_disk.UNSHARE, "bash", "-c", f'{mount}; exec "$@"', "bash", *LIKENESS, job, *argv]
    done = subprocess.run(
        [*words, "--out", str(tmp_path / "disk/out")], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"likeness {job}: {tmp_path}/disk/out: plan.json cannot be written there (Read-only file system); give --out "
        f"another folder, or the right to write to this one"
    )
