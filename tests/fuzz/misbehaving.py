"""A reader that does what its input says, to show that the watchdog notices it."""

import os
import time
from pathlib import Path

from fuzz.case import Case, Format


def _read(case: Case, folder: Path) -> object:
    if case.data == b"foreign":
        raise KeyError("x")
    if case.data == b"crash":
        os.abort()
    while case.data == b"hang":
        time.process_time()
    return [bytearray(os.urandom(1) * (64 << 20)) for _ in range(40 if case.data == b"memory" else 0)]


FORMATS = {"misbehaving": Format("misbehaving", lambda folder: {}, _read, lambda case: True, lambda name: [], ())}
