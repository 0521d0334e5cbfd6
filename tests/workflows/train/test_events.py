"""What befalls a training is told in one line, to everyone, once."""

import json
from pathlib import Path
from typing import Any

import pytest

from workflows.train import watcher
from workflows.train.board import EXCHANGING, READING
from workflows.train.config import TrainConfig
from workflows.train.events import Events
from workflows.train.watcher import described


class Tags(dict[str, str]):
    """Stands for a tracker."""

    tag = dict.__setitem__


def test_events_of_all_runs_are_in_one_file_and_tags_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tags: Any = Tags()
    Events(str(tmp_path), tags).add("lost", 30, "lost worker 1 of 2; going on from step 30")
    tags.clear()  # as if the run had been killed before it was sent
    again = Events(str(tmp_path), tags)
    again.add("started", 30, "1 worker, after 2: going on from step 30")
    again.add("stopped", 37, "stopped at step 37", shown=False)
    assert capsys.readouterr().err.splitlines() == [
        "lost worker 1 of 2; going on from step 30",
        "1 worker, after 2: going on from step 30",
    ]
    stored = json.loads((tmp_path / "events.json").read_text())
    assert [(one["kind"], one["step"]) for one in stored] == [("lost", 30), ("started", 30), ("stopped", 37)]
    assert tags == {f"event.{n:03}": one["text"] for n, one in enumerate(stored, start=1)}


@pytest.mark.parametrize("damaged", ["", "[1]", '{"a": 1}', "[{"])
def test_a_damaged_file_ends_no_training(tmp_path: Path, damaged: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.json").write_text(damaged)
    tags: Any = Tags()
    Events(str(tmp_path), tags).add("lost", 3, "lost")
    assert "events.json was damaged" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "events.json").read_text())) == 1


def at(step: int, part: int, waited: float = 0.1, silent: float = 0.1, node: str = "a") -> dict[str, Any]:
    return {"node": node, "place": (step, part), "waited": waited, "silent": silent}


DIED = "ActorDiedError: The actor died unexpectedly before finishing this task."
TIMED_OUT = "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation"
CLOSED = "RuntimeError: Connection closed by peer"


@pytest.mark.parametrize(
    ("seen", "failures", "expected"),
    [
        ([at(9, 1), at(9, 1)], {0: CLOSED, 1: DIED}, ("lost", "lost worker 1 of 2 (the process ended)")),
        ([at(9, 1), at(9, 1)], {0: CLOSED}, ("lost", "lost worker 1 of 2 (the process ended)")),
        ([at(9, 1), at(9, 1, node="x")], {0: CLOSED}, ("lost", "lost worker 1 of 2 (with node 10.0.0.2)")),
        ([at(9, 1)] * 3, {1: DIED, 2: DIED}, ("lost", "lost workers 1, 2 of 3 (the process ended)")),
        ([at(9, 1)], {0: "ValueError: no"}, ("failed", "worker 0 failed (ValueError: no)")),
        ([], {-1: "TimeoutError: late"}, ("failed", "the workers could not go on (TimeoutError: late)")),
        (
            [at(36, EXCHANGING, 599), at(36, READING, 600)],
            {0: TIMED_OUT},
            ("hung", "worker 1 did not arrive at step 37 within 600 s (--collective-timeout)"),
        ),
        (
            [at(36, EXCHANGING, 599), at(36, EXCHANGING, 600, silent=590)],
            {0: DIED},
            ("hung", "worker 1 did not arrive at step 37 within 600 s (--collective-timeout)"),
        ),
        (
            [at(36, EXCHANGING, 600), at(36, EXCHANGING, 600)],
            {0: TIMED_OUT, 1: TIMED_OUT},
            (
                "hung",
                "all workers arrived, and their exchange did not end, at step 37 within 600 s (--collective-timeout)",
            ),
        ),
        (
            [at(36, EXCHANGING, 599), at(36, EXCHANGING, 600, silent=500)],
            {0: CLOSED, 1: DIED},
            ("lost", "lost worker 1 of 2 (the process ended)"),
        ),
    ],
)
def test_failures_in_words(seen: list[dict[str, Any]], failures: dict[int, str], expected: tuple[str, str]) -> None:
    change = {"seen": dict(enumerate(seen)), "failures": failures}
    assert described(change, 600, {"x": "10.0.0.2"}) == expected


class Board:
    """Stands for the board: what ``take`` returns is given."""

    def __init__(self) -> None:
        self.changes: list[dict[str, Any]] = []
        self.take = self

    def remote(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        taken, self.changes = self.changes, []
        return [], taken


def test_a_training_that_shrinks_waits_and_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "PATIENCE_S", 0.0)
    monkeypatch.setattr(watcher.ray, "get", lambda value: value)
    monkeypatch.setattr(watcher.ray, "nodes", list)
    monkeypatch.setattr(watcher.cluster, "nodes", lambda: [(2, 0)])
    config = TrainConfig(faces="f", out="o", workers="2:4")
    board, tags = Board(), Tags()
    tracker: Any = tags
    log = Events(str(tmp_path), tracker)
    bar: Any = None
    watched = watcher.Watcher(config, {"CPU": 2}, 0, board, tracker, log, bar)
    watched.poll()
    assert not watched.running
    board.changes = [{"state": "STARTED", "step": 0, "workers": 4, "before": None}, {"state": "SAVED", "step": 10}]
    watched.poll()
    assert watched.running
    seen = dict(enumerate([at(12, 0)] * 4))
    board.changes = [{"state": "RESTARTING", "failures": {3: DIED}, "seen": seen}]
    watched.poll()
    watched.poll()
    assert not watched.running
    board.changes = [{"state": "STARTED", "step": 10, "workers": 2, "before": 4}, {"state": "SAVED", "step": 20}]
    watched.poll()
    board.changes = [{"state": "RESIZING"}, {"state": "STARTED", "step": 20, "workers": 4, "before": 2}]
    watched.poll()
    board.changes = [{"state": "SHUTTING_DOWN", "failures": {0: "ValueError: no"}, "seen": {0: at(22, 0)}}]
    watched.poll()
    assert list(tags.values()) == [
        "waiting for nodes: room for 1 of 2 workers; then going on from step 0",
        "lost worker 3 of 4 (the process ended); going on from step 10",
        "waiting for nodes: room for 1 of 2 workers; then going on from step 10",
        "2 workers, after 4: going on from step 10",
        "the number of workers changes; going on from step 20",
        "4 workers, after 2: going on from step 20",
        "worker 0 failed (ValueError: no); not tried again",
    ]
