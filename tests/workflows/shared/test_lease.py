"""A lease that another run has taken over is never taken back, and its holder notices."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from support.drivers import until

from metric_core import storage
from metric_core.errors import JobRunning
from workflows.shared import lease


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)


def stamp(path: Path, host: str, age: float) -> bytes:
    data = json.dumps({"host": host, "boot": "b", "pid": 1, "started": 0, "beat": time.time() - age}).encode()
    path.write_bytes(data)
    return data


def take_over(path: Path) -> bytes:
    """As another run does it, in one step: a plain write could fall into the middle of the holder's own renewal."""
    data = json.dumps({"host": "another", "boot": "b", "pid": 1, "started": 0, "beat": time.time()}).encode()
    while not storage.replace_if_match(str(path), data, expected=path.read_bytes()):
        pass
    return data


def test_a_lease_that_was_taken_over_is_not_taken_back(quick: None, tmp_path: Path) -> None:
    path = tmp_path / lease.NAME
    with lease.held(str(tmp_path)) as held:
        first = path.read_bytes()
        until(lambda: path.read_bytes() != first, "it is renewed")
        held.check()
        theirs = take_over(path)
        until(lambda: held.lost, "the next beat notices")
        with pytest.raises(JobRunning, match="another one took over"):
            held.check()
    assert path.read_bytes() == theirs, "neither renewed nor removed"


def test_a_lease_that_is_gone_is_lost(quick: None, tmp_path: Path) -> None:
    with lease.held(str(tmp_path)) as held:
        storage.remove(str(tmp_path / lease.NAME))
        until(lambda: held.lost, "the next beat notices")
        with pytest.raises(JobRunning):
            held.check()
    assert not list(tmp_path.iterdir())


def test_a_beat_that_fails_is_only_missed(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise OSError("the store does not answer")

    with lease.held(str(tmp_path)) as held:
        with monkeypatch.context() as patch:
            patch.setattr(storage, "replace_if_match", refuse)
            time.sleep(0.3)
        before = (tmp_path / lease.NAME).read_bytes()
        until(lambda: (tmp_path / lease.NAME).read_bytes() != before, "the next beat succeeds")
        held.check()


def test_a_late_beat_does_not_replace_another_run_s_lease(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, theirs = storage.replace_if_match, []

    def late(uri: str, data: bytes, expected: bytes) -> bool:
        if not theirs:
            theirs.append(stamp(tmp_path / lease.NAME, "another", age=0))
        return replace(uri, data, expected)

    monkeypatch.setattr(storage, "replace_if_match", late)
    with lease.held(str(tmp_path)) as held:
        until(lambda: held.lost, "the next beat notices")
        with pytest.raises(JobRunning, match="another one took over"):
            held.check()
    assert (tmp_path / lease.NAME).read_bytes() == theirs[0]


def test_without_conditional_writes_a_lease_is_renewed(quick: None) -> None:
    with lease.held("memory://kept") as held:
        first = storage.read_bytes(f"memory://kept/{lease.NAME}")
        until(lambda: storage.read_bytes(f"memory://kept/{lease.NAME}") != first, "it is renewed")
        held.check()


def test_another_host_is_given_three_beats(quick: None, tmp_path: Path) -> None:
    stamp(tmp_path / lease.NAME, "another", age=lease.BEAT_S * 2)
    with pytest.raises(JobRunning, match="being written by process 1 on another"), lease.held(str(tmp_path)):
        pass
    stamp(tmp_path / lease.NAME, "another", age=lease.BEAT_S * (lease.MISSED + 1))
    with lease.held(str(tmp_path)):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ahead", [300.0, -300.0])
def test_a_wrong_clock_does_not_cost_another_host_its_lease(quick: None, tmp_path: Path, ahead: float) -> None:
    over = threading.Event()

    def beat() -> None:
        while not over.wait(lease.BEAT_S):
            stamp(tmp_path / lease.NAME, "another", age=-ahead)

    stamp(tmp_path / lease.NAME, "another", age=-ahead)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(JobRunning, match="being written by process 1 on another"), lease.held(str(tmp_path)):
            pass
    finally:
        over.set()
        thread.join()
    with lease.held(str(tmp_path)):  # it is not renewed any more
        pass


def test_a_lease_that_is_released_while_it_is_read_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = storage.read_bytes

    def gone(uri: str) -> bytes:
        monkeypatch.setattr(storage, "read_bytes", read)
        storage.remove(uri)
        return read(uri)

    stamp(tmp_path / lease.NAME, "another", age=0)
    monkeypatch.setattr(storage, "read_bytes", gone)
    with lease.held(str(tmp_path)) as held:
        held.confirm()


def test_of_many_who_find_a_stale_lease_one_gets_it(tmp_path: Path) -> None:
    stamp(tmp_path / lease.NAME, "another", age=1000)
    got: list[bool] = []
    gate, over = threading.Barrier(8), threading.Event()

    def take() -> None:
        gate.wait()
        try:
            with lease.held(str(tmp_path)):
                got.append(True)
                over.wait(30)
        except JobRunning:
            got.append(False)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(got) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    over.set()
    for thread in threads:
        thread.join()
    assert sorted(got) == [False] * 7 + [True]


WHOLE = {"host": "another", "boot": "b", "pid": 1, "started": 0, "beat": 0.0}
DAMAGED = {
    "empty": "",
    "cut": json.dumps(WHOLE)[:-9],
    "no text": "\udcff\udcfe",
    "a number": "5",
    "a list": "[]",
    "null": "null",
    "nothing in it": "{}",
    "no beat": json.dumps({name: value for name, value in WHOLE.items() if name != "beat"}),
    "pid a text": json.dumps(WHOLE | {"pid": "1"}),
    "pid negative": json.dumps(WHOLE | {"pid": -1}),
    "pid a truth": json.dumps(WHOLE | {"pid": True}),
    "beat not finite": json.dumps(WHOLE | {"beat": float("nan")}),
    "beat a list": json.dumps(WHOLE | {"beat": []}),
    "host a number": json.dumps(WHOLE | {"host": 5}),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_lease_is_taken_over(quick: None, tmp_path: Path, text: str) -> None:
    (tmp_path / lease.NAME).write_bytes(text.encode(errors="surrogateescape"))
    with lease.held(str(tmp_path)) as held:
        held.confirm()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_live_holder_mends_its_lease(quick: None, tmp_path: Path, text: str) -> None:
    path = tmp_path / lease.NAME
    with lease.held(str(tmp_path)) as held:
        path.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(JobRunning, match=r"is being written by (another process|process \d+ on .*); wait for it"):
            lease.Lease(str(tmp_path)).claim()
        until(lambda: json.loads(path.read_bytes())["pid"] == os.getpid(), "it is written again")
        path.write_bytes(text.encode(errors="surrogateescape"))
        held.confirm()
        assert json.loads(path.read_bytes())["pid"] == os.getpid(), "at once, before what only the holder may write"
    assert not path.exists()


def test_a_pid_that_no_process_can_have(tmp_path: Path) -> None:
    with lease.held(str(tmp_path)):
        mine = json.loads((tmp_path / lease.NAME).read_bytes())
    (tmp_path / lease.NAME).write_text(json.dumps(mine | {"pid": 10**30, "token": "other"}))
    with lease.held(str(tmp_path)) as held:
        held.confirm()


def test_a_killed_holder_that_its_parent_has_not_asked_about_is_dead(tmp_path: Path) -> None:
    program = (
        "import sys, time; from workflows.shared.lease import Lease; Lease(sys.argv[1]).claim(); print(); "
        "sys.stdout.flush(); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(JobRunning, match=f"process {holder.pid}"), lease.held(str(tmp_path)):
        pass
    holder.kill()
    until(lambda: psutil.Process(holder.pid).status() == psutil.STATUS_ZOMBIE, "it is a zombie")
    with lease.held(str(tmp_path)) as held:
        held.confirm()
    holder.wait()
