"""MLflow may go away: nothing waits for it, and nothing is lost or sent out of order."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from support.drivers import until

from metric_core.errors import JobFailed
from workflows.shared import outbox, tracking
from workflows.shared.outbox import Outbox
from workflows.shared.tracking import Tracker


class Server:
    """Stands for MLflow's client: it can go away, and it takes the same figure twice as one."""

    def __init__(self) -> None:
        self.away, self.status = False, "RUNNING"
        self.tags: dict[str, str] = {}
        self.figures: dict[tuple[str, int, int], float] = {}
        """By name, time and step."""
        self.called = threading.Event()

    def log_batch(self, run_id: str, metrics: Any = (), tags: Any = ()) -> None:
        self.called.set()
        if self.away:
            raise MlflowException("API request to http://user:secret@host failed")
        self.figures |= {(m.key, m.timestamp, m.step): m.value for m in metrics}
        self.tags |= {tag.key: tag.value for tag in tags}

    def set_terminated(self, run_id: str, status: str) -> None:
        if self.away:
            raise MlflowException("refused")
        self.status = status

    def steps(self, name: str) -> list[int]:
        """As MLflow shows a curve: by time, then by step."""
        return [step for key, _, step in sorted(self.figures, key=lambda one: one[1:]) if key == name]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(outbox, "RETRY_S", 0.01)
    return Server()


def tracker(server: Server, folder: Path) -> Tracker:
    found = Tracker("http://host", "run", False, server)  # type: ignore[arg-type]
    found.keep_in(Outbox(str(folder / "unsent.json")))
    return found


def test_figures_are_sent_once_mlflow_answers_again(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracker(server, tmp_path) as run:
        run.log({"loss": 3.0}, 1)
        server.away = True
        for step in range(2, 1500):
            run.log({"loss": 1 / step}, step)
        run.tag("collapse", "yes")
        until((tmp_path / "unsent.json").exists, "the figures are kept")
        server.called.clear()
        assert server.called.wait(10), "it tries again"
        server.away = False
        run.log({"loss": 0.0}, 1500)
    assert server.steps("loss") == list(range(1, 1501))
    assert server.tags == {"collapse": "yes"}
    assert server.status == "FINISHED"
    assert not (tmp_path / "unsent.json").exists()
    err = capsys.readouterr().err
    assert err.count("MLflow does not answer") == 1
    assert err.count("MLflow answers again") == 1
    assert "secret" not in err


def test_what_is_not_sent_at_the_end_is_sent_by_the_next_run(server: Server, tmp_path: Path) -> None:
    server.away = True
    run = tracker(server, tmp_path)
    for step in (10, 20, 30):
        run.log({"loss": 1.0, "auc": 0.5}, step)
    with pytest.raises(JobFailed, match=r"MLflow does not answer; 3 .* the same command sends"):
        run.finish("FINISHED")
    assert server.status == "RUNNING"
    server.away = False
    with tracker(server, tmp_path) as run:
        for step in (20, 30, 40):  # from the checkpoint of step 10
            run.log({"loss": 1.0, "auc": 0.5}, step)
    assert server.steps("loss") == server.steps("auc") == [10, 20, 30, 40]
    assert server.status == "FINISHED"


def test_what_ends_a_job_matters_more_than_mlflow(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.away = True
    tracker(server, tmp_path).__exit__(ValueError, ValueError("the cause"), None)
    assert "it does not know that the run has ended: refused" in capsys.readouterr().err


def test_a_clock_that_is_put_back_leaves_the_order(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracker(server, tmp_path) as run:
        for step, now in enumerate((100.0, 50.0, 70.0, 200.0)):
            monkeypatch.setattr(tracking.time, "time", lambda now=now: now)
            run.log({"loss": 1.0}, step)
    assert server.steps("loss") == [0, 1, 2, 3]


@pytest.mark.parametrize("damaged", ["", "[1]", "{}"])
def test_a_damaged_file_ends_no_training(
    server: Server, tmp_path: Path, damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unsent.json").write_text(damaged)
    with tracker(server, tmp_path) as run:
        run.log({"loss": 1.0}, 1)
    assert server.steps("loss") == [1]
    assert "was damaged" in capsys.readouterr().err


def test_a_store_appears_complete_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlflow.db"

    def interrupted(uri: str, artifacts: str | None) -> None:
        with sqlite3.connect(uri.removeprefix("sqlite:///")) as half:
            half.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        half.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tracking, "SqlAlchemyStore", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tracking.start(f"sqlite:///{path}", "likeness", "run", {}, verbose=False)
    assert not list(tmp_path.iterdir())
    with tracking.start(f"sqlite:///{path}", "likeness", "run", {"steps": 3}, verbose=False) as run:
        run.log({"loss": 1.0}, 1)
    assert run._client.get_run(run.run_id).info.status == "FINISHED"
    assert [one.name for one in tmp_path.glob("*.db")] == ["mlflow.db"]
    assert not list(tmp_path.glob(".*"))
