"""Watches a training from the driver: its figures go to MLflow and the terminal, what befalls it to ``events``."""

import re
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray

from workflows.shared import cluster, console, metrics
from workflows.shared.console import say
from workflows.shared.tracking import Tracker
from workflows.train.config import TrainConfig
from workflows.train.events import Events

PATIENCE_S = 20.0
"""Seconds without running workers after which the wait is an event."""
NODE_S = 10.0
"""Seconds in which Ray finds out that a node is dead."""
CUT = re.compile(r"connection (closed|reset|refused)|read error|broken pipe|remote process exited", re.IGNORECASE)
"""What gloo and NCCL say where the worker at the other end is gone."""
GONE = ("ActorDiedError", "ActorUnavailableError", "RayActorError", "NodeDiedError", "WorkerHealthCheck")
"""How the failures of a worker begin whose process or node is gone."""


class Watcher:
    """Takes events off the board; ``saved`` is the step of the last checkpoint that is known of."""

    def __init__(
        self,
        config: TrainConfig,
        each: Mapping[str, float],
        saved: int,
        board: Any,
        tracker: Tracker,
        events: Events,
        bar: console.Bar,
    ) -> None:
        """``each``: what every worker takes of a node, as Ray names it. ``saved``: step of the checkpoint that an
        earlier run left, else 0."""
        self._config, self._each, self.saved = config, each, saved
        self._board, self._tracker, self._events, self._bar = board, tracker, events, bar
        self._waiting_since: float | None = time.monotonic()
        self._told_to_wait = False
        self._workers = 0
        self.last: dict[str, Any] = {}
        """All events so far, merged; later values replace earlier ones."""

    @property
    def running(self) -> bool:
        """Whether workers are at work."""
        return self._waiting_since is None

    def poll(self) -> None:
        """Pass on what has happened since the last time. Raises RayError if the board is gone."""
        figures, changes = ray.get(self._board.take.remote())
        for event in figures:
            self._record(event)
        for change in changes:
            self._changed(change)
        waited = 0.0 if self._waiting_since is None else time.monotonic() - self._waiting_since
        if waited > PATIENCE_S and not self._told_to_wait:
            self._told_to_wait = self._wait()

    def _record(self, event: dict[str, Any]) -> None:
        if "again" in event:  # as a checkpoint holds it; what was logged before is left out
            self._tracker.log({k: v for k, v in event["figures"].items() if np.isfinite(v)}, event["step"])
            return
        if "warning" in event and "warning" not in self.last:
            say(f"warning: {event['warning']}")
            self._tracker.tag("collapse", event["warning"])
        self.last |= event
        validation = {f"valid/{k}": v for k, v in event.get("validation", {}).items()}
        figures = {k: v for k, v in (event["figures"] | validation).items() if np.isfinite(v)}
        self._tracker.log(figures, event["step"])
        progress = {"done": event["step"], "total": self._config.steps}
        metrics.publish("train", self._config.out, figures | progress)
        if "validation" in event:
            shown = ", ".join(f"{k} {v:.4f}" for k, v in event["validation"].items())
            say(f"step {event['step']}: {shown}")
        self._bar.update(event["step"], f"loss {event['figures']['loss']:.4f}" if "loss" in event["figures"] else "")

    def _changed(self, change: dict[str, Any]) -> None:
        state = change["state"]
        if state == "SAVED":
            self.saved = change["step"]
        elif state == "STARTED":
            self._started(change)
        elif "failures" in change and state in ("RESTARTING", "SHUTTING_DOWN"):
            self._failed(change, ends=state == "SHUTTING_DOWN")
        elif state == "RESIZING":
            self._pause()
            self._events.add("resized", self.saved, f"the number of workers changes; going on from step {self.saved}")

    def _pause(self) -> None:
        if self._waiting_since is None:
            self._waiting_since, self._told_to_wait = time.monotonic(), False

    def _started(self, change: dict[str, Any]) -> None:
        step, workers, before = change["step"], change["workers"], self._workers or change["before"]
        self._waiting_since, self._workers, self.saved = None, workers, step
        if before:  # these workers are not the first ones
            number = "" if before == workers else f", after {before}"
            self._events.add("started", step, f"{_count(workers)}{number}: going on from step {step}")

    def _failed(self, change: dict[str, Any], *, ends: bool) -> None:
        self._pause()
        self._told_to_wait = ends
        kind, what = described(change, self._config.collective_timeout, _dead_nodes(change))
        then = "not tried again" if ends else f"going on from step {self.saved}"
        self._events.add(kind, self.saved, f"{what}; {then}")

    def _wait(self) -> bool:
        """Tells of a wait for room, if that is what it is."""
        room = cluster.workers_that_fit(cluster.nodes(), int(self._each["CPU"]), int(self._each.get("GPU", 0)))
        if room >= self._config.fewest_workers:
            return False
        needed = _count(self._config.fewest_workers)
        text = f"waiting for nodes: room for {room} of {needed}; then going on from step {self.saved}"
        self._events.add("waiting", self.saved, text)
        return True


def described(change: Mapping[str, Any], timeout: float, dead: Mapping[str, str]) -> tuple[str, str]:
    """What happened to workers that failed, as the kind of event and in words.

    Args:
        change: as the board leaves it.
        timeout: seconds that workers wait for one another.
        dead: {id: address} of the nodes that were there and are no more.
    """
    seen, failures = change["seen"], change["failures"]
    furthest = max((one["place"] for one in seen.values()), default=(0, 0))
    late = [rank for rank, one in seen.items() if one["place"] < furthest or one["silent"] > 0.5 * timeout]
    homeless = {rank: dead[one["node"]] for rank, one in seen.items() if one["node"] in dead}
    cut = set(seen) - set(failures) if _cut_off(change) else set()
    gone = sorted({rank for rank, text in failures.items() if text.startswith(GONE)} | set(homeless) | cut)
    waited = min((one["waited"] for one in seen.values()), default=0.0) > 0.8 * timeout
    # gloo raises where it waited, and NCCL ends the processes that did.
    timed_out = any("timed out" in text.lower() for text in failures.values()) or (late and not set(late) & set(gone))
    if len(seen) > 1 and waited and timed_out:
        who = f"{_ranks(late)} did not arrive" if late else "all workers arrived, and their exchange did not end,"
        return "hung", f"{who} at step {furthest[0] + 1} within {timeout:g} s (--collective-timeout)"
    if gone:
        nodes = sorted({homeless[rank] for rank in gone if rank in homeless})
        why = f"with node {', '.join(nodes)}" if nodes else "the process ended"
        return "lost", f"lost {_ranks(gone)} of {len(seen)} ({why})"
    rank, text = min(failures.items(), default=(-1, "no worker says why"))
    return "failed", f"{_ranks([rank])} failed ({text})" if rank >= 0 else f"the workers could not go on ({text})"


def _cut_off(change: Mapping[str, Any]) -> bool:
    """Whether all that failed did so because another worker's connection ended: that one is gone, then."""
    return bool(change["failures"]) and all(CUT.search(text) for text in change["failures"].values())


def _dead_nodes(change: Mapping[str, Any]) -> dict[str, str]:
    """{id: address} of the nodes that are no more. A connection ends before Ray knows that its node is dead."""
    dead, until = _lost_nodes(), time.monotonic() + NODE_S
    while _cut_off(change) and time.monotonic() < until and not any(s["node"] in dead for s in change["seen"].values()):
        time.sleep(0.2)
        dead = _lost_nodes()
    return dead


def _lost_nodes() -> dict[str, str]:
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if not node["Alive"]}


def _ranks(ranks: list[int]) -> str:
    return f"worker{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def _count(workers: int) -> str:
    return f"{workers} worker{'' if workers == 1 else 's'}"
