"""One run at a time per output folder: a lease, which is a small file that names its holder, renewed by a heartbeat.

The lease of a dead process on this machine is taken over at once. One of another machine is watched for three beats
first, because clocks differ; so is one that was damaged, because a live holder writes it again. What the work is, and
how it continues, is left to the jobs.
"""

import json
import math
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
from metric_core.errors import ConfigError, JobRunning, Missing, NotWritable, StorageFull
from workflows.shared.console import say

NAME = ".lease.json"
BEAT_S = 10.0
MISSED = 3
ATTEMPTS = 3
"""How often a lease that changes while it is renewed is looked at again: it may have been damaged in between."""
LONG_DEAD_S = 600.0
"""Age of another machine's beat that no difference of clocks explains; its lease is not watched first."""


class Lease:
    """The lease of a folder. Once another run took it over, since this process was suspended, it is not taken back."""

    def __init__(self, folder: str) -> None:
        self._folder, self._address = folder, storage.join(folder, NAME)
        self._mine = {
            "host": socket.gethostname(),
            "boot": _boot_id(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "token": uuid.uuid4().hex,  # one process may claim twice
        }
        self._lost = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether another run had taken it over by the last beat."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raises JobRunning if another run had taken the lease over by the last beat."""
        if self.lost:
            raise JobRunning(
                f"{self._folder}: this run was silent for too long, and another one took over; wait for that one"
            )

    def claim(self) -> None:
        """Take the lease if it is free or its holder is dead, after up to ``MISSED`` beats. Raises JobRunning."""
        while not storage.create_if_absent(self._address, self._content()):
            try:
                data = storage.read_bytes(self._address)
                holder = _holder(data)
                if holder and self._is_mine(holder):  # the answer to a first request was lost, and it was repeated
                    return
                alive = self._alive(holder, data) if holder else self._changes(data, "its lease is damaged")
            except Missing:  # released in between
                continue
            if alive:
                who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
                raise JobRunning(f"{self._folder} is being written by {who}; wait for it, or stop it and start again")
            if not storage.replace_if_match(self._address, self._content(), expected=data):
                raise JobRunning(f"{self._address}: another run has just taken over this lease; wait for it")
            return

    def beat(self, done: threading.Event) -> None:
        """Renew the lease until ``done`` is set, or until another run has taken it over."""
        while not done.wait(BEAT_S) and not self._lost.is_set():
            try:
                if not self._keep():
                    self._lost.set()
            except Missing:
                self._lost.set()
            except (OSError, StorageFull, NotWritable):  # this beat is missed, and the next one may succeed
                continue

    def confirm(self) -> None:
        """``check`` after reading the lease: to be called before writing what only its holder may write.

        A process that was suspended and continues may come here before its next beat.
        """
        try:
            holder = _holder(storage.read_bytes(self._address))
            if not (self._is_mine(holder) if holder else self._keep()):
                self._lost.set()
        except Missing:
            self._lost.set()
        self.check()

    def release(self) -> None:
        """Remove the lease if it is still ours. If the store does not answer it stays, like that of a dead process."""
        try:
            self.confirm()
            storage.remove(self._address)
            storage.remove(f"{self._address}.lock")  # left by a takeover
        except (JobRunning, OSError):  # the error that ended the job matters more
            return

    def _alive(self, holder: dict[str, Any], data: bytes) -> bool:
        """Whether the holder, whose lease contains ``data``, still runs. Raises Missing if it is released meanwhile."""
        if holder["host"] == socket.gethostname():
            return bool(holder["boot"] == _boot_id() and _started(holder["pid"]) == holder["started"])
        age = time.time() - holder["beat"]
        if age >= LONG_DEAD_S:
            return False
        if abs(age) < MISSED * BEAT_S:
            return True
        return self._changes(data, f"the run on {holder['host']} looks dead, or its clock differs")

    def _changes(self, data: bytes, why: str) -> bool:
        """Whether the lease, which contains ``data``, is renewed within ``MISSED`` beats. Raises Missing if it is
        released meanwhile."""
        watch = MISSED * BEAT_S
        say(f"{self._folder}: {why}; watching for {watch:g} s")
        time.sleep(watch)
        return storage.read_bytes(self._address) != data

    def _renew(self, data: bytes) -> bool:
        """Write a new beat if the lease still contains ``data``; returns whether it did."""
        try:
            return storage.replace_if_match(self._address, self._content(), expected=data)
        except ConfigError:  # a store without conditional writes, where nobody can take over either
            storage.write_bytes(self._address, self._content())
            return True

    def _keep(self) -> bool:
        """Renew the lease if it still names this holder, or nobody since it was damaged; returns whether it did."""
        for _ in range(ATTEMPTS):
            data = storage.read_bytes(self._address)
            holder = _holder(data)
            if holder and not self._is_mine(holder):
                return False
            # A write that is delayed must not replace the lease of a run that took over meanwhile.
            if self._renew(data):
                return True
        return False

    def _is_mine(self, holder: dict[str, Any]) -> bool:
        return {name: holder.get(name) for name in self._mine} == self._mine

    def _content(self) -> bytes:
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


def _holder(data: bytes) -> dict[str, Any] | None:
    """Whom a lease names; None if it was damaged or emptied."""
    try:
        found = json.loads(data)
        texts = all(isinstance(found[name], str) for name in ("host", "boot"))
        numbers = type(found["pid"]) is int and found["pid"] > 0 and math.isfinite(found["beat"])
        return found if texts and numbers and "started" in found else None
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _started(pid: int) -> float | None:
    """When the process started, None if there is none. A pid alone is not enough: it is used again after a while. One
    that has ended and that its parent has not asked about yet (a zombie) is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except (psutil.NoSuchProcess, OverflowError):
        return None


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else str(psutil.boot_time())
