"""One run at a time on an output folder: a small file that says who holds it, kept fresh by a heartbeat.

A dead process of this machine is taken over from at once, one of another machine after three missed beats. What the
work is, and how it continues, is left to the jobs.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from metric_core import storage
from metric_core.errors import JobRunning

NAME = ".lease.json"
BEAT_S = 10.0
MISSED = 3


@contextmanager
def held(uri: str) -> Iterator[None]:
    """Hold the lease of an output folder for the length of the block.

    Raises:
        JobRunning: another live run holds it.
    """
    address = storage.join(uri, NAME)
    mine = _claim(address)
    done = threading.Event()
    thread = threading.Thread(target=_beat, args=(address, mine, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        storage.remove(address)
        storage.remove(f"{address}.lock")  # of a takeover


def _claim(address: str) -> dict[str, Any]:
    mine = {"host": socket.gethostname(), "boot": _boot_id(), "pid": os.getpid(), "started": _started(os.getpid())}
    if storage.create_if_absent(address, _stamped(mine)):
        return mine
    data = storage.read_bytes(address)
    holder = json.loads(data)
    if _alive(holder):
        raise JobRunning(
            f"{address.removesuffix('/' + NAME)} is being written by process {holder['pid']} on {holder['host']}; "
            f"wait for it, or stop it and start again"
        )
    if not storage.replace_if_match(address, _stamped(mine), expected=data):
        raise JobRunning(f"{address}: another run took the lease over a moment ago; wait for it")
    return mine


def _alive(holder: dict[str, Any]) -> bool:
    if holder["host"] == socket.gethostname():
        return holder["boot"] == _boot_id() and _started(holder["pid"]) == holder["started"]
    return time.time() - holder["beat"] < MISSED * BEAT_S


def _beat(address: str, mine: dict[str, Any], done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        storage.write_bytes(address, _stamped(mine))


def _stamped(mine: dict[str, Any]) -> bytes:
    return json.dumps(mine | {"beat": time.time()}).encode()


def _started(pid: int) -> float | None:
    """When the process started: a pid alone is used again after a while."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else str(psutil.boot_time())
