"""Ends this process when one picture keeps its decoder busy for too long, since nothing inside the process can.

Jobs decode in worker processes, and hand the work of one that ended to another, which then decodes in ``apart``.
"""

import signal
import threading
import time
from types import TracebackType

SECONDS = 60
"""CPU seconds of the whole process for one picture: what is decoded here takes about one, beside other threads."""


class ended_if_stuck:
    """A block that ends the process, by SIGPROF, when it lasts longer than ``SECONDS``; any number of threads may be in
    one. A class, because generators would take a per cent of the time for small pictures."""

    def __enter__(self) -> None:
        with _lock:
            _deadlines[threading.get_ident()] = time.process_time() + SECONDS
            _arm()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with _lock:
            del _deadlines[threading.get_ident()]
            _arm()


_lock = threading.Lock()
_deadlines: dict[int, float] = {}
"""When each thread's block must be over, in CPU seconds of the process."""


def _arm() -> None:
    """Set the process's timer to the earliest deadline; the system ends the process when it expires."""
    first = min(_deadlines.values(), default=None)
    signal.setitimer(signal.ITIMER_PROF, 0 if first is None else max(first - time.process_time(), 1e-3))
