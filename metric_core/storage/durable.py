"""Local files put in place whole and for good: written beside their place, synced to the disk, renamed, and the folder
synced as well, so that neither a kill nor a power cut leaves half of one, or none where one was promised.

Which addresses are local is ``storage``'s to know; everybody else calls that.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from metric_core.errors import ConfigError, StorageFull

UNFINISHED = ".unfinished"
"""Ending of a file's name before it is whole."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""What file systems answer that have no hard links, such as exFAT and most object stores that are mounted."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def write(path: Path, data: bytes) -> None:
    """Put a file, replacing what was there. Raises StorageFull, as all of these do."""
    _put(path, lambda temp: temp.write_bytes(data), os.replace)


def copy(source: Path, path: Path) -> None:
    """Put a copy of a finished file, replacing what was there."""
    _put(path, lambda temp: shutil.copyfile(source, temp), os.replace)


@contextmanager
def new(path: Path) -> Iterator[Path]:
    """A path to write a file to, which is put in place when the block ends well, replacing what was there."""
    with _full_said(path):
        with _temporary(path) as temp:
            yield temp
            _sync(temp)
            os.replace(temp, path)
        _sync(path.parent)


def create(path: Path, data: bytes) -> bool:
    """Put a file only if none is there; of several writers exactly one gets True."""
    return _put(path, lambda temp: temp.write_bytes(data), _link)


def replace(path: Path, data: bytes, expected: bytes) -> bool:
    """Replace a file only if it still holds ``expected``; a lock file makes compare and replace one step."""
    with _full_said(path), _locked(Path(f"{path}.lock")):
        if not path.exists() or path.read_bytes() != expected:
            return False
        write(path, data)
        return True


def remove_unfinished(folder: Path) -> None:
    """Delete what writers that were killed have left directly inside a folder."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def _put(path: Path, fill: Callable[[Path], object], place: Callable[[Path, Path], None]) -> bool:
    """Whether ``place`` found the name free."""
    with _full_said(path):
        with _temporary(path) as temp:
            fill(temp)
            _sync(temp)
            try:
                place(temp, path)
                free = True
            except FileExistsError:
                free = False
        _sync(path.parent)  # also for another who was first: it may have died before it came to this
    return free


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which its last user may delete."""
    while True:
        with open(path, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Deleted while this process waited, it may be there anew, and locked by another.
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                yield
                return


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name in the target's own folder, since rename and link are atomic only within a file system."""
    _make(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent)
    os.close(handle)
    temp = Path(name)
    try:
        os.chmod(temp, 0o644)
        yield temp
    finally:
        temp.unlink(missing_ok=True)


def _link(temp: Path, path: Path) -> None:
    """Fails when the name exists, unlike a rename."""
    try:
        os.link(temp, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise ConfigError(
            f"{path.parent}: this file system has no hard links ({error.strerror}), by which several writers agree who "
            f"is first; write to another disk or to an object store"
        ) from error


def _make(folder: Path) -> None:
    """Make a folder and those above it, each synced into its parent before anything is put inside."""
    if not folder.is_dir():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _full_said(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageFull(
            f"{path.parent}: {error.strerror} while {path.name} was written; what is done stays and nothing is half "
            f"written; make room and start again with the same arguments"
        ) from error
