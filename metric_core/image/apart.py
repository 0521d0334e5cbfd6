"""Pictures in a process of their own, which is ended when one takes too much memory or time, or crashes a decoder.

Decoders are in C: nothing inside a process can stop one, and a crash takes the process with it. The process is started
for the first picture, serves one at a time, and ends with its parent. Which pictures go there is decided in
``preprocess``, what is done with them as well.
"""

import atexit
import json
import math
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from metric_core.errors import ImageUnreadable, JobFailed
from metric_core.image.limits import MEMORY, SECONDS, SPARE

Answer = Callable[[dict[str, Any], bytes], np.ndarray]

PROGRAM = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from metric_core.image import apart, preprocess
preprocess.warm()
apart.serve(preprocess.answer)
"""
PATIENCE_S = 20 * SECONDS
"""Seconds by the clock for one picture: more than ``SECONDS``, because a machine may be busy."""
TOO_SLOW = f"too-slow: decoding it takes more than {SECONDS} s of a CPU"


def call(request: dict[str, Any], data: bytes) -> np.ndarray:
    """What ``preprocess.answer`` returns for a request, which must survive JSON, and a picture's bytes.

    Raises:
        ImageUnreadable: as ``answer``, or with the codes too-slow and crashed.
        JobFailed: the process does not start.
    """
    with _lock:
        helper = _helpers.pop() if _helpers else _Helper()
        answer = helper.ask(request, data)
        _helpers.append(helper)  # unless it raised, and has ended
    if isinstance(answer, str):
        raise ImageUnreadable(answer)
    return answer


class _Helper:
    """The process, from its parent's side."""

    def __init__(self) -> None:
        words = [sys.executable, "-c", PROGRAM, json.dumps(sys.path)]
        pipe, none = subprocess.PIPE, subprocess.DEVNULL
        self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=none)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        if not self._from.read(1):
            raise JobFailed(f"the process that decodes costly pictures does not start (exit code {self.end()})")

    def ask(self, request: dict[str, Any], data: bytes) -> np.ndarray | str:
        """The array, or the message of the ImageUnreadable. Raises ImageUnreadable if the process ended."""
        with suppress(BrokenPipeError):  # it has ended, and there will be no answer
            _send(self._to, request, data)
        answered = select.poll()  # select knows the first 1,024 open files of a process only
        answered.register(self._from, select.POLLIN)
        if not answered.poll(PATIENCE_S * 1000):
            self._process.kill()
        received = _receive(self._from)
        if received is None:
            raise ImageUnreadable(_reason(self.end()))
        head, body = received
        if "fault" in head:
            self.end()
            raise RuntimeError(head["fault"])
        return head["error"] if "error" in head else np.frombuffer(body, np.uint8).reshape(head["shape"])

    def end(self) -> int:
        """End the process; returns its exit code."""
        with suppress(BrokenPipeError):
            self._to.close()
        self._from.close()
        return self._process.wait()


_lock = threading.Lock()
_helpers: list[_Helper] = []
"""The process, if it runs."""


@atexit.register
def end() -> None:
    """End the process; the next picture gets a new one."""
    while _helpers:
        _helpers.pop().end()


def _reason(code: int) -> str:
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return TOO_SLOW
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"crashed: decoding it ended the decoder's process with {how}"


def serve(answer: Answer) -> None:
    """Answer requests on stdin until it is closed, with no more than ``MEMORY`` and ``SECONDS`` for each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if base := _address_space():
        _limit(resource.RLIMIT_AS, base + MEMORY + SPARE)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(b"!")
    answers.flush()
    while (received := _receive(requests)) is not None:
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + SECONDS)
        head: dict[str, Any]
        try:
            array = answer(*received)
            head, body = {"shape": array.shape}, array.tobytes()
        except ImageUnreadable as error:
            head, body = {"error": str(error)}, b""
        except MemoryError:
            head, body = {"error": f"too-large: decoding it takes more than {MEMORY // 10**6} MB"}, b""
        except Exception:  # noqa: BLE001  # a fault of ours, which the parent raises
            head, body = {"fault": traceback.format_exc()}, b""
        del received
        _send(answers, head, body)


def _limit(what: int, soft: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _address_space() -> int:
    """Bytes of this process's address space; 0 where the system does not tell, and does not limit it either."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[0]) * resource.getpagesize() if path.exists() else 0


def _send(to: IO[bytes], head: dict[str, Any], body: bytes) -> None:
    text = json.dumps(head).encode()
    to.write(len(text).to_bytes(8, "little") + len(body).to_bytes(8, "little") + text)
    to.write(body)
    to.flush()


def _receive(from_: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """The next message; None at the end, or where it is cut short."""
    sizes = from_.read(16)
    text, body = int.from_bytes(sizes[:8], "little"), int.from_bytes(sizes[8:], "little")
    head, data = from_.read(text), from_.read(body)
    return (json.loads(head), data) if len(sizes) == 16 and len(head) == text and len(data) == body else None
