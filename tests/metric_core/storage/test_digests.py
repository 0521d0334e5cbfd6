"""A file is hashed once for each of its states, and a memory that fails costs time, never correctness."""

import errno
import hashlib
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest

from metric_core.errors import Missing, StorageFull
from metric_core.storage import digests, durable
from metric_core.storage.digests import DigestMemory

DATA = b"0123456789"
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files hashed so far."""
    names: list[str] = []
    original = digests.sha256_of

    def counting(file: BinaryIO) -> str:
        names.append(Path(file.name).name)
        return original(file)

    monkeypatch.setattr(digests, "sha256_of", counting)
    return names


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' files are older than they look: nobody can set a ctime."""
    monkeypatch.setattr(digests, "SETTLED_S", -(10**6))


@pytest.fixture
def memory(tmp_path: Path) -> DigestMemory:
    return DigestMemory(tmp_path / "cache" / "digests")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(DATA)
    return tmp_path / "file"


@pytest.mark.usefixtures("settled")
def test_a_file_is_hashed_once_until_it_is_hashed_again_on_purpose(
    memory: DigestMemory, file: Path, hashed: list[str]
) -> None:
    for _ in range(3):
        assert DigestMemory(memory.folder).sha256(file, SHA256) == SHA256
    assert hashed == ["file"]
    assert memory.sha256(file, SHA256, again=True) == SHA256
    assert len(hashed) == 2
    assert memory.sha256(file, "0" * 64) == SHA256, "what is remembered never passes for another digest"
    assert len(hashed) == 3


@pytest.mark.usefixtures("settled")
def test_another_digest_than_the_expected_one_is_not_remembered(
    memory: DigestMemory, file: Path, hashed: list[str]
) -> None:
    for _ in range(2):
        assert memory.sha256(file, "0" * 64) == SHA256
    assert len(hashed) == 2
    assert not memory.folder.exists()


def rewrite_with_the_same_times(file: Path) -> None:
    before = file.stat()
    file.write_bytes(DATA[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_mtime_ns, file.stat().st_size) == (before.st_mtime_ns, before.st_size)


def replace_with_the_same_times(file: Path) -> None:
    before = file.stat()
    (file.parent / "new").write_bytes(DATA[::-1])
    os.utime(file.parent / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(file.parent / "new", file)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "change",
    [rewrite_with_the_same_times, replace_with_the_same_times, lambda file: file.write_bytes(DATA + b"x")],
    ids=["rewritten", "replaced", "longer"],
)
def test_a_changed_file_is_hashed_whatever_its_size_and_mtime_say(
    memory: DigestMemory, file: Path, hashed: list[str], change: Callable[[Path], object]
) -> None:
    memory.sha256(file, SHA256)
    wait_for_the_next_tick_of(file)
    change(file)
    assert memory.sha256(file, SHA256) == hashlib.sha256(file.read_bytes()).hexdigest() != SHA256
    assert len(hashed) == 2


def wait_for_the_next_tick_of(file: Path) -> None:
    """Until the file system's clock has moved on: two changes in one of its steps may share a ctime."""
    probe = file.parent / "probe"
    probe.touch()
    while probe.stat().st_ctime_ns <= file.stat().st_ctime_ns:
        probe.touch()


@pytest.mark.parametrize(("age_ns", "times"), [(digests.SETTLED_S * 10**9, 2), (digests.SETTLED_S * 10**9 + 1, 1)])
def test_only_a_file_left_alone_for_two_seconds_is_remembered(
    memory: DigestMemory, file: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch, age_ns: int, times: int
) -> None:
    os.utime(file, (0, 0))  # an old mtime does not hide a young ctime
    now = file.stat().st_ctime_ns + age_ns
    monkeypatch.setattr(digests, "time", SimpleNamespace(time_ns=lambda: now))
    for _ in range(2):
        assert memory.sha256(file, SHA256) == SHA256
    assert len(hashed) == times


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(
    memory: DigestMemory, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = digests.sha256_of

    def changing(opened: BinaryIO) -> str:
        found = original(opened)
        file.write_bytes(DATA + b"x")
        return found

    monkeypatch.setattr(digests, "sha256_of", changing)
    assert memory.sha256(file, SHA256) == SHA256
    assert not memory.folder.exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", [b"", b"\xff\x00", SHA256.encode(), b"x" * 10**6])
def test_a_damaged_entry_is_no_entry(memory: DigestMemory, file: Path, hashed: list[str], damage: bytes) -> None:
    memory.sha256(file, SHA256)
    (entry,) = memory.folder.iterdir()
    good = entry.read_bytes()
    entry.write_bytes(damage)
    assert memory.sha256(file, SHA256) == SHA256
    assert len(hashed) == 2
    assert entry.read_bytes() == good
    entry.unlink()
    entry.mkdir()
    for _ in range(2):
        assert memory.sha256(file, SHA256) == SHA256
    assert len(hashed) == 4


@pytest.mark.usefixtures("settled")
def test_without_a_usable_folder_every_open_hashes(file: Path, hashed: list[str]) -> None:
    memory = DigestMemory(file / "digests")  # its parent is a file: unusable for the superuser too
    for _ in range(2):
        assert memory.sha256(file, SHA256) == SHA256
    assert hashed == ["file", "file"]
    assert memory.last_use_ns(file) == 0


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("error", [StorageFull("full"), OSError(errno.EROFS, "Read-only file system")])
def test_a_full_or_read_only_disk_is_no_failure(
    memory: DigestMemory, file: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(durable, "write", fail)
    assert memory.sha256(file, SHA256) == SHA256
    monkeypatch.undo()
    monkeypatch.setattr(digests, "SETTLED_S", -(10**6))
    memory.sha256(file, SHA256)
    monkeypatch.setattr(os, "utime", fail)
    monkeypatch.setattr(digests, "sha256_of", fail)
    assert memory.sha256(file, SHA256) == SHA256, "what can be read counts, even if its use cannot be noted"


@pytest.mark.usefixtures("settled")
def test_other_failures_are_not_hidden(memory: DigestMemory, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "write", fail)
    with pytest.raises(OSError, match="Input/output error"):
        memory.sha256(file, SHA256)


@pytest.mark.usefixtures("settled")
def test_the_longest_unused_entries_are_forgotten(
    memory: DigestMemory, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "ENTRIES", 10)
    files = [tmp_path / str(n) for n in range(11)]
    for n, path in enumerate(files):
        path.write_bytes(DATA)
        if n < 10:
            memory.sha256(path, SHA256)
            memory.remember(path, digests.state_of(path.stat()), SHA256)
            entry = memory.folder / hashlib.sha256(os.fsencode(path)).hexdigest()
            os.utime(entry, (n, n))
    memory.sha256(files[0], SHA256)  # used now
    memory.sha256(files[10], SHA256)
    hashed.clear()
    for path in files:
        if memory.last_use_ns(path):
            memory.sha256(path, SHA256)
    assert hashed == []
    assert [path.name for path in files if not memory.last_use_ns(path)] == ["1", "2"], "down to nine tenths"


def test_a_missing_file_is_reported(memory: DigestMemory, tmp_path: Path) -> None:
    with pytest.raises(Missing, match="nowhere"):
        memory.sha256(tmp_path / "nowhere", SHA256)


def _open(folder: Path, path: Path, sha256: str, queue: "multiprocessing.Queue[str]") -> None:
    for _ in range(20):
        queue.put(DigestMemory(folder).sha256(path, sha256))


def test_processes_share_a_memory(memory: DigestMemory, hashed: list[str]) -> None:
    path = Path(os.__file__)  # an old file
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_open, args=(memory.folder, path, expected, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    assert {queue.get(timeout=60) for _ in range(40)} == {expected}
    for process in processes:
        process.join()
    assert len(list(memory.folder.iterdir())) == 1
    assert memory.sha256(path, expected) == expected
    assert hashed == []


@pytest.mark.usefixtures("settled")
def test_bytes_that_decayed_without_a_trace_are_not_trusted_once_they_were_found(
    memory: DigestMemory, file: Path
) -> None:
    expected = hashlib.sha256(b"as it was").hexdigest()
    memory.remember(file, digests.state_of(os.stat(file)), expected)
    assert memory.sha256(file, expected) == expected, "nothing shows in the file's state"
    assert memory.sha256(file, expected, again=True) == SHA256
    assert memory.sha256(file, expected) == SHA256
