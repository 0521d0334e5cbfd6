"""What SIGTERM and Ctrl-C do: a job ends where the same command continues, with one line and the signal's exit code.

By default they raise. A job that has something to finish first notes them instead, for the length of a block.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(KeyboardInterrupt):
    """A signal has stopped the job. A KeyboardInterrupt, so that nothing takes it for a failure."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = 128 + number
        """143 for SIGTERM, 130 for Ctrl-C."""


class Signals:
    """The signals that asked this process to stop."""

    def __init__(self) -> None:
        self.number: int | None = None
        """Of the one that counts: the last where they raise, the first where they are noted; None before."""

    @property
    def name(self) -> str:
        """Of the same one, such as SIGTERM."""
        return signal.Signals(self.number).name if self.number else ""

    def stopped(self, where: str = "") -> Stopped:
        """The error of a job that these signals have stopped; ``where`` says how far it came, as in ``at step 7``."""
        what = " ".join(filter(None, ["stopped", where]))
        return Stopped(f"{what}; the same command continues", self.number or signal.SIGINT)


@contextmanager
def raised() -> Iterator[Signals]:
    """SIGTERM and Ctrl-C raise Stopped in the block."""
    found = Signals()

    def stop(number: int, frame: FrameType | None) -> None:
        found.number = number
        raise found.stopped()

    with _handled(stop):
        yield found


@contextmanager
def noted() -> Iterator[Signals]:
    """SIGTERM and Ctrl-C are only noted in the block; a second Ctrl-C does what it did before the block."""
    found = Signals()
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        again = found.number is not None and number == signal.SIGINT
        found.number = found.number or number
        if again and callable(before):
            before(number, frame)

    with _handled(note):
        yield found


@contextmanager
def kept() -> Iterator[None]:
    """The handler of SIGTERM is after the block what it was before: starting Ray replaces it by one of Ray's."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """The handler of both signals in the block. No effect outside the main thread, where none can be set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = {number: earlier for number, earlier in before.items() if earlier is not signal.SIG_IGN}  # as with nohup
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
