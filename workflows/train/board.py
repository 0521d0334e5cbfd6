"""A small actor that carries messages between a training's driver, its workers and Ray Train's controller."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.train import ControllerError, PreemptionError, WorkerGroupError
from ray.train.v2._internal.execution.callback import ControllerCallback  # for developers, in no public module

Place = tuple[int, int]
"""How far a worker is: the number of its step, and of the part of that step."""
READING, EXCHANGING, REPORTING = 0, 1, 2
"""Parts of a step. A worker that is further than another has arrived where it waits for the other."""
ENDING = ("RESTARTING", "RESIZING")
"""States of Ray Train's controller in which it ends all workers."""


@dataclass
class Seen:
    """What the board knows of a worker that has started."""

    node: str
    """Ray's id of its node."""
    place: Place = (0, READING)
    since: float = field(default_factory=time.monotonic)
    """When it came there."""
    heard: float = field(default_factory=time.monotonic)
    """When it was last heard of."""


@ray.remote(num_cpus=0)
class Board:
    """Workers report their progress to the driver here, and the driver asks them to stop."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._changes: list[dict[str, Any]] = []
        self._stop = False
        self._starts: Counter[int] = Counter()
        self._workers: dict[int, Seen] = {}

    def started(self, rank: int, node: str) -> int:
        """Notes that a worker starts; returns how often one of its rank did before, in this run of the job."""
        self._workers[rank] = Seen(node)
        self._starts[rank] += 1
        return self._starts[rank] - 1

    def beat(self, rank: int, place: Place) -> bool:
        """Notes how far a worker is; returns whether to stop."""
        seen = self._workers.get(rank)
        if seen is not None:  # else the others have failed, and it is about to be ended
            seen.heard = time.monotonic()
            if seen.place != place:
                seen.place, seen.since = place, seen.heard
        return self._stop

    def post(self, event: dict[str, Any]) -> None:
        """Leaves an event for the driver."""
        self._events.append(event)

    def change(self, change: dict[str, Any]) -> None:
        """Leaves for the driver what happened to the workers, with how far each had come."""
        now = time.monotonic()
        seen = {
            rank: {"node": one.node, "place": one.place, "waited": now - one.since, "silent": now - one.heard}
            for rank, one in self._workers.items()
        }
        self._changes.append(change | {"seen": seen})
        if change["state"] in ENDING:
            self._workers.clear()

    def take(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Returns all events and changes since the last call."""
        events, self._events = self._events, []
        changes, self._changes = self._changes, []
        return events, changes

    def stop(self) -> None:
        """Asks the workers to stop at the next step."""
        self._stop = True


class Reporter(ControllerCallback):
    """Tells the board what Ray Train's controller does with the workers. It runs in the controller's process."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called by Ray, also when a state follows itself."""
        if type(previous_state) is type(current_state):
            return
        state = current_state._state_type.name
        ending = getattr(current_state, "next_state", current_state)
        error = getattr(ending, "training_failed_error", None)
        change: dict[str, Any] = {"state": state}
        if error is not None:
            change["failures"] = _failures(error)
        self._board.change.remote(change)


def _failures(error: Exception) -> dict[int, str]:
    """{rank: what happened to it, in one line} of those that failed first; rank -1 stands for none of them."""
    if isinstance(error, WorkerGroupError):
        return {rank: _first_line(one) for rank, one in error.worker_failures.items()}
    if isinstance(error, PreemptionError):
        return dict.fromkeys(error.preemption_info.preempted_ranks, "its node is taken away")
    inner = error.controller_failure if isinstance(error, ControllerError) else error
    return {-1: _first_line(inner)}


def _first_line(error: BaseException) -> str:
    base = getattr(error, "_base_exc", error)  # Ray Train wraps what a worker raises, to keep its traceback
    first = next(iter(str(base).strip().splitlines()), "")
    return f"{type(base).__name__}: {first}" if first else type(base).__name__
