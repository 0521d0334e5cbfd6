"""A store of MLflow that cannot be used is found out in seconds, in one line without its password, and left alone."""

import base64
import re
import sqlite3
import time
from pathlib import Path

import pytest
from sqlalchemy.exc import SQLAlchemyError
from support import answering
from support.heads import closed_port
from support.tiny import untrained

from metric_core.errors import ConfigError
from workflows import cli
from workflows.shared import tracking

SECRET = "s3cret-pw"


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set, and therefore restored, because a login in an address is put there."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "nobody")


def refusal(uri: str) -> str:
    start = time.monotonic()
    with pytest.raises(ConfigError) as refused:
        tracking.require_ready(uri, "likeness", "likeness")
    assert time.monotonic() - start < 15
    text = str(refused.value)
    assert len(text.splitlines()) == 1
    assert SECRET not in text
    return text


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (401, "no", "text/plain", "answers but refuses the user or the password; set MLFLOW_TRACKING_USERNAME and"),
        (403, "{}", "application/json", "answers but this user may not read the experiment 'likeness'; ask for the"),
        (503, "busy", "text/plain", r"is no MLflow server, or one in trouble \(HTTP 503 for experiments/get-by-name"),
        (200, "<html>", "text/html", "is no MLflow server"),
        (200, "{", "application/json", "cannot be used"),
    ],
)
def test_a_server_that_refuses(status: int, body: str, kind: str, message: str) -> None:
    with answering.server(status, body, kind) as (place, seen):
        found = refusal(f"http://anna:{SECRET}@{place}")
        login = base64.b64encode(f"anna:{SECRET}".encode()).decode()
        assert [line.rsplit(maxsplit=1)[1] for line in seen] == [login]
    assert place in found
    assert re.search(message, found)


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "postgresql+psycopg2", "mysql+pymysql"])
def test_nothing_answers(scheme: str) -> None:
    place = closed_port()
    found = refusal(f"{scheme}://anna:{SECRET}@{place}/runs")
    assert found.startswith(f"nothing answers at {scheme}://{place}/runs, the MLflow store (")


@pytest.mark.parametrize("scheme", ["", "http://", "http://anna:s3cret-pw@"])
def test_what_answers_through_a_proxy_is_asked_through_it(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MLflow's own client does; nothing here finds the server by its name."""
    with answering.server(200, '{"experiment": {"experiment_id": "7"}}') as (place, seen):
        monkeypatch.setenv("http_proxy", f"{scheme}{place}")
        monkeypatch.setenv("no_proxy", "other.invalid")
        tracking.require_ready("http://mlflow.invalid:5000", "likeness")
        assert [line.split()[1].partition("?")[0] for line in seen] == [
            f"http://mlflow.invalid:5000/api/2.0/mlflow/{what}" for what in ("experiments/get-by-name", "runs/create")
        ]
        monkeypatch.setenv("no_proxy", "other.invalid,mlflow.invalid")
        assert refusal("http://mlflow.invalid:5000").startswith("nothing answers at http://mlflow.invalid:5000, the ML")
    monkeypatch.setenv("no_proxy", "")
    assert refusal("http://mlflow.invalid:5000").startswith(
        f"nothing answers at http://{place}, the proxy for http://mlflow.invalid:5000, the MLflow store ("
    )


def test_a_server_that_no_proxy_names_is_knocked_at_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://{closed_port()}")
    monkeypatch.setenv("no_proxy", "127.0.0.0/8")
    with answering.server(200) as (place, seen):
        tracking.require_ready(f"http://{place}", "likeness")
    assert len(seen) == 1


def test_a_server_that_would_take_a_run_gets_none() -> None:
    with answering.server(200, '{"experiment": {"experiment_id": "7"}}') as (place, seen):
        tracking.require_ready(f"http://{place}", "likeness", "likeness")
    api = "/api/2.0/mlflow"
    asked = [line.rsplit(maxsplit=2)[0].partition("?")[0] for line in seen]
    assert asked == [
        f"GET {api}/experiments/get-by-name",
        f"POST {api}/runs/create",
        f"POST {api}/model-versions/create",
    ]


def test_files(tmp_path: Path) -> None:
    tracking.require_ready(f"sqlite:///{tmp_path}/new/folder/m.db", "likeness")
    assert not list(tmp_path.iterdir()), "nothing is made yet"
    (tmp_path / "text").write_text("not a database" * 100)
    assert "cannot be used: (sqlite3.DatabaseError) file is not a database;" in refusal(f"sqlite:///{tmp_path}/text")
    assert f"no file can be made in it: '{tmp_path}/text'" in refusal(f"sqlite:///{tmp_path}/text/m.db")
    with sqlite3.connect(tmp_path / "m.db") as made:
        made.execute("CREATE TABLE experiments (name TEXT)")
    made.close()
    tracking.require_ready(f"sqlite:///{tmp_path}/m.db", "likeness")
    with pytest.raises(SQLAlchemyError, match="readonly database"):
        tracking._require_database(f"sqlite:///file:{tmp_path}/m.db?mode=ro&uri=true")


def test_a_refused_job_leaves_nothing(
    people: Path,
    ray_session: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training and an embed job, whose store is given by an option, the environment, and a file of options."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://anna:{SECRET}@{closed_port()}")
    out = tmp_path / "new" / "out"
    faces = ["--faces", str(tmp_path / "faces")]
    assert cli.main(["catalogue", "--source", str(people), "--out", faces[1]]) == 0
    capsys.readouterr()
    embed = ["embed", *faces, "--model", untrained(str(tmp_path / "model")), "--out", str(out)]
    train = ["train", *faces, "--steps", "2", "--identities", "6", "--out", str(out)]
    with answering.server(401) as (place, _):
        (tmp_path / "c.yaml").write_text(f"tracking_uri: http://anna:{SECRET}@{place}\n")
        for argv in (embed, train, [*train, "--config", str(tmp_path / "c.yaml")]):
            assert cli.main(argv) == 2
            shown = capsys.readouterr()
            assert shown.out == ""
            assert SECRET not in shown.err
            assert "refuses the user" in shown.err if "--config" in argv else "nothing answers at" in shown.err
            assert {path.name for path in tmp_path.iterdir()} == {"c.yaml", "faces", "model"}
