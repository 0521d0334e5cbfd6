"""Remote files are downloaded once for all processes, checked, and removed in the order of their use."""

import errno
import hashlib
import mmap
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import fsspec
import pytest

from metric_core import storage
from metric_core.errors import ConfigError, Corrupt, StorageFull
from metric_core.storage import digests, downloads
from metric_core.storage.digests import DigestMemory

FOLDER = "memory://downloads"
SIZE = 100


def content(name: str) -> bytes:
    return name.encode() * SIZE


def sha256(name: str) -> str:
    return hashlib.sha256(content(name)).hexdigest()


@pytest.fixture(autouse=True)
def remote() -> Iterator[None]:
    """Files a, b, c and d of ``SIZE`` bytes."""
    for name in "abcd":
        storage.write_bytes(f"{FOLDER}/{name}", content(name))
    yield
    fsspec.filesystem("memory").rm("/downloads", recursive=True)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files downloaded so far."""
    names: list[str] = []
    original = downloads.open_read

    def counting(address: str) -> BinaryIO:
        names.append(address.rsplit("/", 1)[-1])
        return original(address)

    monkeypatch.setattr(downloads, "open_read", counting)
    return names


@pytest.fixture
def cache(tmp_path: Path) -> storage.Cache:
    """Room for two files."""
    return storage.Cache(tmp_path / "cache", limit_bytes=2 * SIZE)


def use(cache: storage.Cache, name: str, *, again: bool = False) -> None:
    with storage.verified(f"{FOLDER}/{name}", sha256(name), again=again, cache=cache) as path:
        assert path.read_bytes() == content(name)
        assert path.parent == cache.folder / "files"


def kept(cache: storage.Cache) -> str:
    """The names of the local copies; an unfinished one is a question mark."""
    names = {sha256(name): name for name in "abcd"}
    return "".join(sorted(names.get(path.name, "?") for path in (cache.folder / "files").iterdir()))


def last_used(cache: storage.Cache, name: str, seconds: int) -> None:
    path = cache.folder / "files" / sha256(name)
    os.utime(cache.folder / "digests" / hashlib.sha256(os.fsencode(path)).hexdigest(), (seconds, seconds))


def test_a_file_is_downloaded_once_and_not_hashed_again(
    cache: storage.Cache, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    original = digests.sha256_of

    def counting(file: BinaryIO) -> str:
        hashed.append(file.name)
        return original(file)

    monkeypatch.setattr(digests, "sha256_of", counting)
    for _ in range(3):
        use(cache, "a")
    assert (fetched, hashed) == (["a"], [])
    use(cache, "a", again=True)
    assert (fetched, len(hashed)) == (["a"], 1)
    assert (cache.folder / "files" / sha256("a")).stat().st_mode & 0o077 == 0, "faces are nobody else's business"


def test_an_s3_object_is_downloaded_once_by_several_processes(bucket: str, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    storage.write_bytes(f"{bucket}/shard", data)
    expected = hashlib.sha256(data).hexdigest()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    args = (f"{bucket}/shard", expected, tmp_path / "cache", queue)
    processes = [context.Process(target=_download, args=args) for _ in range(3)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=100) for _ in processes]
    for process in processes:
        process.join()
    assert {(found, inode) for found, inode in answers} == {(expected, answers[0][1])}, "all have the same file"
    assert os.listdir(tmp_path / "cache" / "files") == [expected]


def _download(address: str, expected: str, folder: Path, queue: "multiprocessing.Queue[tuple[str, int]]") -> None:
    with storage.verified(address, expected, cache=storage.Cache(folder)) as path:
        queue.put((hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_ino))


def test_others_wait_for_a_download_and_use_it(
    cache: storage.Cache, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, begun, go_on = downloads.open_read, threading.Event(), threading.Event()

    def waiting(address: str) -> BinaryIO:
        begun.set()
        assert go_on.wait(60)
        return original(address)

    monkeypatch.setattr(downloads, "open_read", waiting)
    threads = [threading.Thread(target=use, args=(cache, "a")) for _ in range(3)]
    threads[0].start()
    assert begun.wait(60)
    for thread in threads[1:]:
        thread.start()
    (unfinished,) = (cache.folder / "files").iterdir()
    while waiters_for(unfinished) < 2:
        time.sleep(0.01)
    go_on.set()
    for thread in threads:
        thread.join()
    assert fetched == ["a"]
    assert kept(cache) == "a"


def waiters_for(path: Path) -> int:
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sum(line[1] == "->" and line[6].endswith(f":{path.stat().st_ino}") for line in lines)


def test_the_longest_unused_file_makes_room(cache: storage.Cache, fetched: list[str]) -> None:
    use(cache, "a")
    use(cache, "b")
    last_used(cache, "a", 1)
    last_used(cache, "b", 2)
    use(cache, "a")  # now b is the one unused for longest
    use(cache, "c")
    assert kept(cache) == "ac"
    use(cache, "b")
    assert fetched == ["a", "b", "c", "b"]


def test_the_file_asked_for_stays_even_alone_beyond_the_limit(tmp_path: Path) -> None:
    cache = storage.Cache(tmp_path, limit_bytes=0)
    use(cache, "a")
    assert kept(cache) == "a"
    use(cache, "b")
    assert kept(cache) == "b"


def test_a_full_disk_holds_fewer_files(
    cache: storage.Cache, monkeypatch: pytest.MonkeyPatch, fetched: list[str]
) -> None:
    use(cache, "a")
    usage = shutil.disk_usage(cache.folder)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage._replace(free=SIZE - 1))
    use(cache, "b")
    assert kept(cache) == "b"


def test_a_file_in_use_is_not_removed(cache: storage.Cache) -> None:
    with storage.verified(f"{FOLDER}/a", sha256("a"), cache=cache) as path:
        last_used(cache, "a", 1)
        use(cache, "b")
        use(cache, "c")
        assert kept(cache) == "ac"
        assert path.read_bytes() == content("a")
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    last_used(cache, "a", 1)
    use(cache, "d")
    assert kept(cache) == "cd"
    assert mapped[:] == content("a"), "a mapped file can be read after its removal"
    mapped.close()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_removed_or_replaced_before_it_is_locked_is_not_used(
    cache: storage.Cache, fetched: list[str], monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    use(cache, "a")
    path, original, inodes = cache.folder / "files" / sha256("a"), downloads.fcntl.flock, []

    def interfering(file: BinaryIO, how: int) -> None:
        if not inodes:
            inodes.append(path.stat().st_ino)
            if replaced:
                shutil.copyfile(path, cache.folder / "copy")
                os.replace(cache.folder / "copy", path)
            else:
                path.unlink()
        original(file, how)

    monkeypatch.setattr(downloads.fcntl, "flock", interfering)
    with storage.verified(f"{FOLDER}/a", sha256("a"), cache=cache):
        last_used(cache, "a", 1)
        use(cache, "b")
        use(cache, "c")
        assert path.read_bytes() == content("a"), "the file that is there now is the one that is locked"
    assert fetched == ["a", *([] if replaced else ["a"]), "b", "c"]


def test_what_killed_writers_left_is_taken_over_or_removed(cache: storage.Cache) -> None:
    use(cache, "a")
    for name in "bc":
        (cache.folder / "files" / f".{sha256(name)}.unfinished").write_bytes(b"x" * 10 * SIZE)
    use(cache, "b")
    assert kept(cache) == "ab"


def test_unfinished_downloads_of_others_count(cache: storage.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two downloads at the same time share the room."""
    use(cache, "a")

    def room(self: downloads.Downloads, size: int) -> None:
        monkeypatch.undo()
        use(cache, "c")  # while b, which has its size already, is being downloaded
        assert kept(cache) == "?c"

    monkeypatch.setattr(downloads.Downloads, "_make_room", room)
    use(cache, "b")
    assert kept(cache) == "bc"


def test_a_damaged_remote_file_is_reported_and_not_kept(cache: storage.Cache) -> None:
    storage.write_bytes(f"{FOLDER}/a", content("b"))
    with (
        pytest.raises(Corrupt, match=rf"{FOLDER}/a: its sha256 is {sha256('b')}, expected {sha256('a')}"),
        storage.verified(f"{FOLDER}/a", sha256("a"), cache=cache),
    ):
        pass
    assert kept(cache) == ""


def test_a_damaged_copy_is_downloaded_again(cache: storage.Cache, fetched: list[str]) -> None:
    use(cache, "a")
    (cache.folder / "files" / sha256("a")).write_bytes(b"damaged")
    use(cache, "a")
    assert fetched == ["a", "a"]


def test_a_disk_that_loses_what_was_just_written_is_reported(
    cache: storage.Cache, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DigestMemory, "sha256", lambda *_, **__: "0" * 64)
    with pytest.raises(Corrupt, match="is failing; use another cache folder"):
        use(cache, "a")
    assert fetched == ["a"]
    assert kept(cache) == ""


def test_no_room_for_the_copy_is_reported(cache: storage.Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads.os, "fsync", full)
    with pytest.raises(StorageFull, match=r"No space left on device .* free some space"):
        use(cache, "a")
    assert kept(cache) == "", "the unfinished file does not fill the disk"


def test_a_cache_folder_that_cannot_be_written_to_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"cannot be written to .* set another cache folder"):
        use(storage.Cache(tmp_path / "file"), "a")
