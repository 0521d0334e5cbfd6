"""One run at a time on an output folder: a small file that says who holds it, kept fresh by a heartbeat.

A dead process of this machine is taken over from at once, one of another machine after three missed beats: clocks
differ, so that what looks old is watched for that long. What the work is, and how it continues, is left to the jobs.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from metric_core import storage
from metric_core.errors import ConfigError, JobRunning, Missing, StorageFull
from workflows.shared.console import say

NAME = ".lease.json"
BEAT_S = 10.0
MISSED = 3
LONG_DEAD_S = 600.0
"""Age of another machine's beat that no difference of clocks explains; nobody is watched then."""


class Lease:
    """A lease that is held. One that was taken over, because this process slept for too long, is never taken back."""

    def __init__(self, folder: str) -> None:
        self._folder, self._address = folder, storage.join(folder, NAME)
        self._mine = {
            "host": socket.gethostname(),
            "boot": _boot_id(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "token": uuid.uuid4().hex,  # one process may ask twice
        }
        self._lost = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether another run has taken it over, as far as the last beat knows."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raises JobRunning when another run has taken the lease over."""
        if self.lost:
            raise JobRunning(
                f"{self._folder}: this run was silent for too long, and another one took over; wait for that one"
            )

    def claim(self) -> None:
        """Take it when it is free or its holder is dead, which may take ``MISSED`` beats to see. Raises JobRunning."""
        while not storage.create_if_absent(self._address, self._stamped()):
            try:
                data = storage.read_bytes(self._address)
                holder = json.loads(data)
                if self._is_mine(holder):  # the first answer got lost and the store was asked twice
                    return
                alive = self._alive(holder, data)
            except Missing:  # given up in between
                continue
            if alive:
                raise JobRunning(
                    f"{self._folder} is being written by process {holder['pid']} on {holder['host']}; wait for it, or "
                    f"stop it and start again"
                )
            if not storage.replace_if_match(self._address, self._stamped(), expected=data):
                raise JobRunning(f"{self._address}: another run took the lease over a moment ago; wait for it")
            return

    def beat(self, done: threading.Event) -> None:
        """Keep it fresh until ``done``, or until it is another's."""
        while not done.wait(BEAT_S) and not self._lost.is_set():
            try:
                data = storage.read_bytes(self._address)
                # A write that hangs must not land on the lease of a run that took over meanwhile.
                if not self._is_mine(json.loads(data)) or not self._replace(data):
                    self._lost.set()
            except Missing:
                self._lost.set()
            except (OSError, StorageFull):  # a beat is missed, and the next one may come through
                continue

    def confirm(self) -> None:
        """``check``, looking at the lease itself: before what only its holder may write.

        A process that slept and woke up again can be faster here than at its next beat.
        """
        try:
            if not self._is_mine(json.loads(storage.read_bytes(self._address))):
                self._lost.set()
        except Missing:
            self._lost.set()
        self.check()

    def release(self) -> None:
        """Give it up, if it is still ours. Where the store does not answer it stays, as if this process were dead."""
        try:
            self.confirm()
            storage.remove(self._address)
            storage.remove(f"{self._address}.lock")  # of a takeover
        except (JobRunning, OSError):  # whatever ended the job is what is to be told
            return

    def _alive(self, holder: dict[str, Any], data: bytes) -> bool:
        """Whether the one whose lease holds ``data`` still runs. Raises Missing when it gives up meanwhile."""
        if holder["host"] == socket.gethostname():
            return bool(holder["boot"] == _boot_id() and _started(holder["pid"]) == holder["started"])
        age = time.time() - holder["beat"]
        if age >= LONG_DEAD_S:
            return False
        watch = MISSED * BEAT_S
        if abs(age) < watch:
            return True
        say(f"{self._folder}: its run on {holder['host']} looks dead, or has another clock; watching for {watch:g} s")
        time.sleep(watch)
        return storage.read_bytes(self._address) != data

    def _replace(self, data: bytes) -> bool:
        """Beat, unless the lease is no longer ``data``; whether it was."""
        try:
            return storage.replace_if_match(self._address, self._stamped(), expected=data)
        except ConfigError:  # a store without conditional writes, where nobody can take over either
            storage.write_bytes(self._address, self._stamped())
            return True

    def _is_mine(self, holder: dict[str, Any]) -> bool:
        return {name: holder.get(name) for name in self._mine} == self._mine

    def _stamped(self) -> bytes:
        return json.dumps(self._mine | {"beat": time.time()}).encode()


@contextmanager
def held(uri: str) -> Iterator[Lease]:
    """Hold the lease of an output folder for the length of the block.

    Raises:
        JobRunning: another live run holds it.
    """
    lease = Lease(uri)
    lease.claim()
    done = threading.Event()
    thread = threading.Thread(target=lease.beat, args=(done,), daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        done.set()
        thread.join()
        lease.release()


def _started(pid: int) -> float | None:
    """When the process started: a pid alone is used again after a while."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else str(psutil.boot_time())
