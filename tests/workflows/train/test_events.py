"""What befalls a training is told in one line, to everyone, once."""

import json
from pathlib import Path
from typing import Any

import pytest

from workflows.train.board import EXCHANGING, READING
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
        ([at(9, 1), at(9, 1)], {0: CLOSED, 1: DIED}, ("lost", "lost worker 1 of 2 (its process ended)")),
        ([at(9, 1), at(9, 1, node="x")], {0: CLOSED}, ("lost", "lost worker 1 of 2 (with the node)")),
        ([at(9, 1)] * 3, {1: DIED, 2: DIED}, ("lost", "lost workers 1, 2 of 3 (ended)")),
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
            ("lost", "lost worker 1 of 2 (its process ended)"),
        ),
    ],
)
def test_failures_in_words(seen: list[dict[str, Any]], failures: dict[int, str], expected: tuple[str, str]) -> None:
    change = {"seen": dict(enumerate(seen)), "failures": failures}
    assert described(change, 600, {"a": "10.0.0.1"}) == expected
