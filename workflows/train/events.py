"""What befell a training: losses, restarts, waits, other numbers of workers, stops. Each is one line, for everyone.

It is shown on the terminal, set as a tag of the MLflow run, and kept in ``events.json`` beside the Model's files, which
no digest covers. What happened, and to whom, is found out in ``watcher``.
"""

import json
from datetime import datetime, timezone

from metric_core import storage
from workflows.shared.console import say
from workflows.shared.outbox import stored
from workflows.shared.tracking import Tracker

NAME = "events.json"


class Events:
    """The events of a training, over all its restarts."""

    def __init__(self, out: str, tracker: Tracker) -> None:
        self._address, self._tracker = storage.join(out, NAME), tracker
        self._events = stored(self._address, "the events so far are lost")
        for number, event in enumerate(self._events, start=1):  # a run that was killed may not have sent the last one
            self._tag(number, str(event.get("text")))

    def add(self, kind: str, step: int, text: str, *, shown: bool = True) -> None:
        """Note an event.

        Args:
            kind: lost, hung, failed, resized, waiting, started or stopped.
            step: of the checkpoint from which the training goes on.
            text: one line.
            shown: whether to print it; False if the command ends with it anyway.
        """
        text = storage.without_secrets(text)
        if shown:
            say(text)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._events.append({"time": now, "kind": kind, "step": step, "text": text})
        storage.write_bytes(self._address, json.dumps(self._events, indent=2).encode() + b"\n")
        self._tag(len(self._events), text)

    def _tag(self, number: int, text: str) -> None:
        self._tracker.tag(f"event.{number:03}", text)
