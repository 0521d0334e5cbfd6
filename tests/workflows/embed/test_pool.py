"""Units on actors that die, fail and refuse: none is lost, and no more are handed out than fit."""

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from metric_core.errors import DataError, JobFailed
from workflows.embed.pool import ATTEMPTS, IN_FLIGHT, ActorPool


class Worker:
    """Does what the unit says, once or always; every attempt leaves a file in a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        if (self._folder / "refuse").exists():
            raise RuntimeError("this process does not come up")

    def ready(self) -> None:
        pass

    def work(self, unit: str, decoded: str | None) -> str:
        number, _, what = unit.partition(" ")
        tries = len(list(self._folder.glob(f"{number}-*")))
        (self._folder / f"{number}-{tries}").touch()
        if what == "die" or (what == "die-once" and not tries):
            os._exit(1)
        if what == "fail" or (what == "fail-once" and not tries):
            raise OSError("the store does not answer")
        if what == "refuse":
            raise DataError("this cannot be")
        if what == "bug":
            raise KeyError("x")
        if what == "slow":
            time.sleep(1)
            (self._folder / f"end-{number}").touch()
        return f"{number} {decoded}"


def pool_of(folder: Path, actors: int = 2, **more: Any) -> ActorPool:
    actor = ray.remote(Worker).options(num_cpus=0, max_concurrency=IN_FLIGHT)
    return ActorPool(lambda: actor.remote(str(folder)), actors, **more)


def test_whatever_dies_or_fails_once_is_done_again(
    ray_session: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    todo = [f"{n} {what}" for n, what in enumerate([*["fine"] * 8, "die-once", "fail-once", *["fine"] * 8])]
    answers = dict(pool_of(tmp_path).run(todo))
    assert answers == {unit: f"{unit.split()[0]} None" for unit in todo}, "each once, none lost"
    assert len(list(tmp_path.glob("8-*"))) == len(list(tmp_path.glob("9-*"))) == 2
    assert re.fullmatch(
        r"lost an actor; another one takes its place; units to do again: [12]\n", capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("die", rf"3 die: given up after {ATTEMPTS} attempts; .*died"),
        ("fail", rf"3 fail: given up after {ATTEMPTS} attempts; .*the store does not answer"),
        ("refuse", "this cannot be"),
        ("bug", "KeyError: 'x'"),
    ],
)
def test_what_keeps_failing_ends_the_job(ray_session: None, tmp_path: Path, what: str, message: str) -> None:
    error = DataError if what == "refuse" else JobFailed
    with pytest.raises(error, match=message):
        dict(pool_of(tmp_path).run(["0 fine", "1 fine", "2 fine", f"3 {what}", "4 fine"]))
    assert len(list(tmp_path.glob("3-*"))) == (ATTEMPTS if what in ("die", "fail") else 1)


def test_a_unit_is_not_blamed_for_its_neighbour(ray_session: None, tmp_path: Path) -> None:
    """A slow unit would share a process with the unit that kills it at every attempt; they are separated at once."""
    with pytest.raises(JobFailed, match=rf"^1 die: given up after {ATTEMPTS} attempts"):
        dict(pool_of(tmp_path, actors=1).run(["0 slow", "1 die"]))
    assert len(list(tmp_path.glob("1-*"))) == ATTEMPTS
    assert len(list(tmp_path.glob("0-*"))) <= 2, "it was lost at most once"


def test_actors_that_do_not_come_up_end_the_job(ray_session: None, tmp_path: Path) -> None:
    (tmp_path / "refuse").touch()
    with pytest.raises(JobFailed, match=r"the actors: given up .*: this process does not come up"):
        dict(pool_of(tmp_path).run(["0 fine"]))


def test_decoders_run_ahead_but_not_far(ray_session: None, tmp_path: Path) -> None:
    started: list[str] = []

    @ray.remote(num_cpus=0)
    def decode(unit: str) -> str:
        return f"decoded-{unit.split()[0]}"

    def counted(unit: str) -> Any:
        started.append(unit)
        return decode.remote(unit)

    todo = [f"{n} {'die-once' if n == 20 else 'fine'}" for n in range(40)]
    done = 0
    for unit, answer in pool_of(tmp_path, actors=1, decode=counted, decoders=3).run(todo):
        assert answer == f"{unit.split()[0]} decoded-{unit.split()[0]}"
        done += 1
        time.sleep(0.01)
        assert len(set(started)) - done <= 3 + IN_FLIGHT, "bounded in flight"
    assert done == 40
    assert len(started) > 40, "the dead actor's units were decoded again"


def test_stopping_early_lets_what_runs_finish(ray_session: None, tmp_path: Path) -> None:
    running = pool_of(tmp_path, actors=1).run(["0 fine", *(f"{n} slow" for n in range(1, 100))])
    assert next(running)[0] == "0 fine"
    running.close()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"0-0", "1-0", "end-1"}, "running units were finished, and no others started"


def test_a_unit_that_failed_is_handed_out_with_more_care(ray_session: None, tmp_path: Path) -> None:
    def careful(unit: str) -> str:
        (tmp_path / f"careful-{unit.split()[0]}").touch()
        return str(unit)

    assert len(dict(pool_of(tmp_path, after_failure=careful).run(["0 fine", "1 die-once"]))) == 2
    assert (tmp_path / "careful-1").exists()
