"""A small actor that carries messages between a training's driver and its workers."""

from collections import Counter
from typing import Any

import ray


@ray.remote(num_cpus=0)
class Board:
    """Workers report their progress to the driver here, and the driver asks them to stop."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._stop = False
        self._starts: Counter[int] = Counter()

    def started(self, rank: int) -> int:
        """Notes that a worker starts; returns how often one of its rank did before, in this run of the job."""
        self._starts[rank] += 1
        return self._starts[rank] - 1

    def post(self, event: dict[str, Any]) -> bool:
        """Leaves an event for the driver; returns whether to stop."""
        self._events.append(event)
        return self._stop

    def take(self) -> list[dict[str, Any]]:
        """Returns all events since the last call."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Asks the workers to stop at the next step they report."""
        self._stop = True
