"""The mailbox between a training's driver and its workers, a small actor."""

from typing import Any

import ray


@ray.remote(num_cpus=0)
class Board:
    """By it workers tell the driver how far they are, and the driver tells them to stop."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._stop = False

    def post(self, event: dict[str, Any]) -> bool:
        """Leave an event for the driver; the answer is whether to stop."""
        self._events.append(event)
        return self._stop

    def take(self) -> list[dict[str, Any]]:
        """All events since the last call."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Ask the workers to stop at the next step they agree on."""
        self._stop = True
