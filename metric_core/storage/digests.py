"""A memory of digests: which file, in which state, was found to have which sha256.

The state of a remote object is its content tag (size and ETag). A local file's state is its size, mtime, ctime, inode
and device. Everything that changes a file's bytes through the file system changes its ctime, which no program can set.
As in git's index ("racy git"), a file that is written twice within one step of the file system's clock may have the
same state twice; so a digest is remembered only if the file had been left alone for ``SETTLED_S`` when its hashing
began. What a memory cannot notice: bytes that decay on the disk, and writes through a memory map that the system has
not yet recorded. ``again=True`` finds both.

The memory is a folder with one small file for each remembered address, replaced atomically and compared whole, never
parsed: an entry that is damaged, of another state or of another address is no entry. A folder that cannot be read or
written remembers nothing, and all files are hashed.
"""

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from metric_core.errors import Corrupt, Missing, NotWritable, StorageFull
from metric_core.storage import durable
from metric_core.storage.listing import content_tag
from metric_core.storage.reading import open_read, sha256_of

SETTLED_S = 2
"""Seconds, those of the coarsest file systems (FAT)."""
ENTRIES = 10_000
"""Remembered addresses; those unused for longest are forgotten. An entry takes a block of the disk, usually 4 KiB."""
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""Errors of a folder that cannot be used: no permission, a read-only disk, or something else under a needed name."""


@dataclass(frozen=True)
class DigestMemory:
    """A folder of remembered digests, shared by any number of processes."""

    folder: Path

    def sha256(self, path: Path, expected: str, *, again: bool = False) -> str:
        """Hex sha256 of a file. It is not hashed if ``expected`` is remembered for its present state.

        Args:
            path: an absolute path.
            again: hash the file even so.

        Raises:
            Missing: there is no such file.
        """
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            raise Missing(f"{path}: there is no such file") from None
        if not again and self._remembers(path, state_of(stat), expected):
            return expected
        began_ns = time.time_ns()
        with open_read(str(path)) as file:
            before = os.fstat(file.fileno())
            found = sha256_of(file)
            after = os.fstat(file.fileno())
        settled = max(before.st_mtime_ns, before.st_ctime_ns) < began_ns - SETTLED_S * 10**9
        if found == expected and settled and state_of(before) == state_of(after):
            self.remember(path, state_of(before), found)
        elif found != expected:
            self.forget(path)  # bytes may decay without a trace in the file's state
        return found

    def sha256_stored(self, address: str, expected: str, *, again: bool = False) -> str:
        """Hex sha256 of a remote object. It is not read if ``expected`` is remembered for its present state.

        Args:
            address: a remote address.
            again: read the object even so.

        Raises:
            Missing: there is no such object.
        """
        state = content_tag(address)
        if not again and self._remembers(address, state, expected):
            return expected
        with open_read(address) as file:
            found = sha256_of(file)
        if found != expected:
            self.forget(address)
        elif content_tag(address) == state:
            self.remember(address, state, found)
        return found

    def remember(self, address: str | Path, state: str, sha256: str) -> None:
        """Remember the digest of a file in a state; without effect if the folder cannot be written to."""
        with _unless_unusable():
            durable.write(self._entry(address), _line(address, state, sha256))
            self._forget_oldest()

    def forget(self, address: str | Path) -> None:
        """Forget a file's digest; without effect if the folder cannot be written to."""
        with _unless_unusable():
            self._entry(address).unlink(missing_ok=True)

    def last_use_ns(self, path: Path) -> int:
        """When the file's digest was last remembered or recalled, in ns since 1970; 0 if there is no entry."""
        try:
            return self._entry(path).stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return 0

    def _remembers(self, address: str | Path, state: str, sha256: str) -> bool:
        entry = self._entry(address)
        with _unless_unusable():
            if entry.read_bytes() == _line(address, state, sha256):
                with _unless_unusable():  # an entry that can be read but not touched counts
                    os.utime(entry)
                return True
        return False

    def _forget_oldest(self) -> None:
        names = os.listdir(self.folder)
        if len(names) <= ENTRIES:
            return
        used = []
        for name in names:
            with suppress(FileNotFoundError):  # another process is forgetting as well
                used.append((os.stat(self.folder / name).st_mtime_ns, name))
        for _, name in sorted(used)[: len(names) - ENTRIES + ENTRIES // 10]:  # a tenth more, not to list at every write
            (self.folder / name).unlink(missing_ok=True)

    def _entry(self, address: str | Path) -> Path:
        return self.folder / hashlib.sha256(os.fsencode(address)).hexdigest()


def wrong(address: str | Path, found: str, expected: str) -> Corrupt:
    """The error that reports another digest than the expected one."""
    return Corrupt(
        f"{address}: its sha256 is {found}, expected {expected}; it was damaged or replaced; restore it from a backup "
        f"or build it again"
    )


def state_of(stat: os.stat_result) -> str:
    """The state of a local file."""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino} {stat.st_dev}"


def _line(address: str | Path, state: str, sha256: str) -> bytes:
    return f"{sha256} {state} ".encode() + os.fsencode(address) + b"\n"


@contextmanager
def _unless_unusable() -> Iterator[None]:
    """Leaves the block when the folder or the entry is missing, the folder cannot be used, or the disk is full; other
    errors are raised."""
    try:
        yield
    except (StorageFull, NotWritable):
        return
    except OSError as error:
        if error.errno not in (errno.ENOENT, *UNUSABLE, *durable.FULL):
            raise
