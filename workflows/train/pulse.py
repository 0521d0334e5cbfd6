"""A worker's pulse: a thread that tells the board how far the worker is, and hears whether to stop."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError

from workflows.train.board import READING, Place

BEAT_S = 0.5


class Pulse:
    """How far a worker is, and whether it was asked to stop."""

    def __init__(self, board: Any, rank: int) -> None:
        self._board, self._rank = board, rank
        self._ended = threading.Event()
        self.place: Place = (0, READING)
        """Set by the worker as it goes on."""
        self.stop = False
        """Whether the driver asks to stop. Workers hear of it at different times, and have to agree on a step."""

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Exchange both with the board while the block runs."""
        thread = threading.Thread(target=self._beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _beat(self) -> None:
        with suppress(RayError):  # the board is gone; the worker fails where it reports
            while not self._ended.wait(BEAT_S):
                self.stop = ray.get(self._board.beat.remote(self._rank, self.place))
