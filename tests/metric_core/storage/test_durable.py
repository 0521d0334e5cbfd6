"""A file is on the disk before it gets its name, and its name is on the disk before the write returns."""

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metric_core.errors import ConfigError
from metric_core.storage import durable

DATA = b"0123456789"
PUT: dict[str, Callable[[Path, Path], object]] = {
    "write": lambda source, path: durable.write(path, DATA),
    "create": lambda source, path: durable.create(path, DATA),
    "copy": durable.copy,
}


@pytest.fixture
def system_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The calls that change the disk, in order: (name, inode, size at that moment)."""
    calls: list[tuple[str, int, int]] = []

    def record(name: str, stat_of: Callable[..., os.stat_result]) -> None:
        original = getattr(os, name)

        def recording(*args: object, **kwargs: object) -> object:
            result = original(*args, **kwargs)
            stat = stat_of(*args)
            calls.append((name, stat.st_ino, stat.st_size))
            return result

        monkeypatch.setattr(os, name, recording)

    record("fsync", os.fstat)
    record("replace", lambda source, target: os.stat(target))
    record("link", lambda source, target: os.stat(target))
    record("mkdir", lambda folder, *_: os.stat(folder))
    return calls


@pytest.mark.parametrize("how", PUT)
def test_nothing_has_a_name_before_it_is_on_the_disk(
    tmp_path: Path, system_calls: list[tuple[str, int, int]], how: str
) -> None:
    (tmp_path / "source").write_bytes(DATA)
    path = tmp_path / "a" / "b" / "file"
    PUT[how](tmp_path / "source", path)
    assert path.read_bytes() == DATA
    top, a, b, file = (p.stat().st_ino for p in (tmp_path, tmp_path / "a", path.parent, path))
    assert [call[:2] for call in system_calls] == [
        ("mkdir", a),
        ("fsync", top),
        ("mkdir", b),
        ("fsync", a),
        ("fsync", file),
        ("link" if how == "create" else "replace", file),
        ("fsync", b),
    ]
    assert [size for _, inode, size in system_calls if inode == file] == [len(DATA)] * 2, "synced when complete"


def test_the_second_creator_syncs_the_name_of_the_first(
    tmp_path: Path, system_calls: list[tuple[str, int, int]]
) -> None:
    """The first may have died before its sync, and what the second writes next must not outlive the first's file."""
    (tmp_path / "file").write_bytes(b"first")
    assert not durable.create(tmp_path / "file", DATA)
    assert system_calls[-1][:2] == ("fsync", tmp_path.stat().st_ino)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        durable.create(tmp_path / "file" / "below", DATA)


def test_a_disk_without_hard_links_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(ConfigError, match="has no hard links"):
        durable.create(tmp_path / "plan.json", DATA)
    assert not list(tmp_path.iterdir())


def test_a_deleted_lock_file_is_not_a_lock(tmp_path: Path) -> None:
    """One process waits for a lock, its holder deletes the file, and a third creates it again: the one that waits must
    then wait for the third."""
    path, lock = tmp_path / "x", tmp_path / "x.lock"
    path.write_bytes(b"0")
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(durable.replace(path, b"2", b"0")))
    with open(lock, "w") as first, open(tmp_path / "other", "w") as third:
        fcntl.flock(first, fcntl.LOCK_EX)
        waiting.start()
        while f" {os.fstat(first.fileno()).st_ino} " not in blocked():
            time.sleep(0.01)
        fcntl.flock(third, fcntl.LOCK_EX)
        os.replace(tmp_path / "other", lock)
        fcntl.flock(first, fcntl.LOCK_UN)
        while f" {os.fstat(third.fileno()).st_ino} " not in blocked():
            time.sleep(0.01)
        path.write_bytes(b"1")
    waiting.join()
    assert answers == [False]
    assert path.read_bytes() == b"1"


def blocked() -> str:
    """The inodes of files whose lock a process waits for, each between spaces."""
    lines = Path("/proc/locks").read_text().splitlines()
    return " ".join(f" {line.split()[6].split(':')[-1]} " for line in lines if line.split()[1] == "->")
