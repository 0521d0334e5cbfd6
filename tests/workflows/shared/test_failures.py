"""Ray that does not start, or an actor that dies, ends in one line of error and leaves nothing behind."""

import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError

from metric_core.errors import DataError, JobFailed
from workflows.shared import cluster
from workflows.shared.options import RunOptions

TIMED_OUT = (
    "The current node timed out during startup. This could happen because\n\nsome of the Ray processes" + 99 * " x"
)


@pytest.mark.parametrize("failures", [1, 2])
def test_a_start_up_that_takes_too_long_is_tried_again_and_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], failures: int
) -> None:
    folders = []

    def init(**how: object) -> None:
        folders.append(how["_temp_dir"])
        if len(folders) <= failures:
            raise Exception(TIMED_OUT)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **how: str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    expected = nullcontext() if failures == 1 else pytest.raises(JobFailed)
    with expected as error, cluster.connected(RunOptions()):
        pass
    assert len(set(folders)) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("Ray did not start (The current node timed out during startup.")
    assert told.endswith("trying once more")
    if error:
        (line,) = str(error.value).splitlines()
        assert line.startswith("Ray could not be started on this machine: The current node timed out during startup.")
        assert "try again when the machine is less busy" in line
    assert not (tmp_path / "scratch").exists()


def test_a_dead_actor_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(JobFailed) as error, cluster.connected(RunOptions()):
        raise RayActorError("01", "The actor died unexpectedly.\n\tpid: 7\nIts worker process has died.")
    assert str(error.value) == "RayActorError: Its worker process has died. (--verbose shows the full message)"
    with pytest.raises(DataError, match=r"^no faces$"), cluster.connected(RunOptions()):
        raise DataError("no faces")
