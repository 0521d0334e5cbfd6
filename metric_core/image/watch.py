"""Ends this process when a picture keeps its decoder busy for too long, since nothing inside the process can stop it.

Jobs decode in worker processes, and hand the work of one that ended to another, which then decodes in ``apart``.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS, EACH = 60, 2
"""CPU seconds of the whole process, with its other threads, for some pictures, and more for each: one that is decoded
here takes about one at most."""


@contextmanager
def ended_if_stuck(pictures: int) -> Iterator[None]:
    """The block, in which so many pictures are decoded, ends the process by SIGPROF when it lasts too long. Any number
    of threads may be in one. Setting the timer costs as much as a tenth of decoding a small picture."""
    with _lock:
        _deadlines[threading.get_ident()] = time.process_time() + SECONDS + EACH * pictures
        _arm()
    try:
        yield
    finally:
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
