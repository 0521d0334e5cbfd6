"""What is on its way to MLflow: small entries that are sent in order, each once, by a thread of its own.

While MLflow does not answer nothing waits for it: the entries are kept, also in a file, and sent when it answers
again. What an entry is, and how it is sent, is left to ``tracking``; where the file lies, to the job.
"""

import json
import threading
from collections.abc import Callable
from typing import Any

from metric_core import storage
from metric_core.errors import LikenessError
from workflows.shared.console import one_line, say

RETRY_S = 5.0
"""Seconds until entries that could not be sent are tried again."""
MOST = 500
"""Entries that are sent together."""
GRACE_S = 60.0
"""Seconds that closing waits for the entry that is being sent."""

Entry = dict[str, Any]
"""What JSON can hold."""


class Outbox:
    """Sends entries in the order in which they were put."""

    def __init__(self, address: str | None = None) -> None:
        """``address``: of the file that keeps what was not sent, also for the next run; without one nothing does."""
        self._address = address
        self._changed = threading.Condition()
        self._left: list[Entry] = stored(address, "a part of the curves is lost") if address else []
        self._thread: threading.Thread | None = None
        self._closing = self._away = False
        self._kept = bool(self._left)  # whether there is a file

    @property
    def keeps(self) -> bool:
        """Whether a file keeps what was not sent."""
        return self._address is not None

    @property
    def left(self) -> list[Entry]:
        """What was not sent yet; at first, what an earlier run left."""
        with self._changed:
            return list(self._left)

    def open(self, send: Callable[[list[Entry]], str | None]) -> None:
        """Start sending. ``send`` returns what is in the way, in one line, or None once the entries have arrived; it
        may get entries again that have arrived already."""
        self._closing = False
        self._thread = threading.Thread(target=self._run, args=[send], daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Send an entry as soon as possible; returns at once."""
        with self._changed:
            self._left.append(entry)
            if self._away:
                self._keep()
            self._changed.notify()

    def close(self) -> int:
        """Try once more to send what is left; returns how many entries could not be sent, and keeps them."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread:
            self._thread.join(GRACE_S)
        with self._changed:
            if self._left:
                self._keep()
            return len(self._left)

    def _run(self, send: Callable[[list[Entry]], str | None]) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._left or self._closing)
                batch, closing = self._left[:MOST], self._closing
            if not batch:
                return
            problem = send(batch)
            with self._changed:
                if problem is None:
                    del self._left[: len(batch)]
                    self._arrived()
                    continue
                if closing:
                    return
                if not self._away:
                    say(f"MLflow does not answer ({problem}); the job goes on, and its curves are sent later")
                    self._away = True
                    self._keep()
                self._changed.wait_for(lambda: self._closing, RETRY_S)

    def _arrived(self) -> None:
        """Entries have arrived, and perhaps all."""
        if self._left:
            return
        if self._away:
            say("MLflow answers again; the curves were sent")
            self._away = False
        if self._address and self._kept:
            storage.remove(self._address)
            self._kept = False

    def _keep(self) -> None:
        if self._address:
            try:
                storage.write_bytes(self._address, json.dumps(self._left).encode())
                self._kept = True
            except (OSError, LikenessError) as error:  # figures must not end what they are of
                say(f"the curves could not be kept in {self._address} ({one_line(error)}); they are tried again")


def stored(address: str, loss: str) -> list[Entry]:
    """The entries that an earlier run kept in a file; none if it is damaged, which ``loss`` says the meaning of."""
    if not storage.exists(address):
        return []
    try:
        found = json.loads(storage.read_bytes(address))
    except ValueError:
        found = None
    if isinstance(found, list) and all(isinstance(one, dict) for one in found):
        return found
    say(f"{address} was damaged, so {loss}")
    return []
