"""Atomic and durable writes of local files: each is written to a temporary name in its folder, synced, and renamed, and
the folder is synced, so that after a kill or a power cut a file is never half there, and never lost once reported.

New files and folders have the rights that the process's umask leaves, and the group that their folder hands on.

Other packages call ``storage``, which uses this module for addresses that are local.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from metric_core.errors import ConfigError, NotWritable, StorageFull

UNFINISHED = ".unfinished"
"""Ending of a temporary file's name."""
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""Errors of file systems without hard links, such as exFAT and most mounted object stores."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk, a full quota, and a file above the process's limit (``ulimit -f``)."""
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of a folder that may not be written to."""
RIGHTS, PRIVATE = 0o666, 0o600
"""Rights of a file before the umask takes some away, and of one that nobody else may read."""


def write(path: Path, data: bytes) -> None:
    """Write a file, replacing an existing one. Raises StorageFull, as all functions that write do."""
    _put(path, lambda temp: temp.write_bytes(data), os.replace)


def copy(source: Path, path: Path) -> None:
    """Write a copy of a finished file, replacing an existing one."""
    _put(path, lambda temp: shutil.copyfile(source, temp), os.replace)


@contextmanager
def new(path: Path) -> Iterator[Path]:
    """A temporary path to write to; when the block ends without an error, the file replaces the one at ``path``."""
    with raising_storage_full(path):
        with _temporary(path) as temp:
            yield temp
            _sync(temp)
            os.replace(temp, path)
        _sync(path.parent)


def create(path: Path, data: bytes, rights: int = RIGHTS) -> bool:
    """Write a file only if none is there. Exactly one of several writers gets True.

    Raises:
        ConfigError: the file system has no hard links.
    """
    return _put(path, lambda temp: temp.write_bytes(data), _link, rights)


def replace(path: Path, data: bytes, expected: bytes) -> bool:
    """Replace a file only if it still holds ``expected``; a lock file makes compare and replace one step."""
    with raising_storage_full(path), _locked(Path(f"{path}.lock")):
        if not path.exists() or path.read_bytes() != expected:
            return False
        write(path, data)
        return True


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files that killed writers have left directly inside a folder."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


@contextmanager
def private() -> Iterator[None]:
    """What this process writes in the block can be read by this user only: files have 0600, folders 0700."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_private(path: Path) -> None:
    """Take the rights to a file from all others, if it is this user's and its file system has rights."""
    found = path.stat()
    if found.st_uid == os.geteuid() and found.st_mode & 0o077:
        with suppress(OSError):
            path.chmod(found.st_mode & 0o700)


@contextmanager
def raising_storage_full(path: Path) -> Iterator[None]:
    """Turns the errors of a full disk or quota into StorageFull, and those of a folder that may not be written to into
    NotWritable."""
    try:
        yield
    except OSError as error:
        if error.errno in READ_ONLY:
            raise NotWritable(
                f"{path.parent}: {path.name} cannot be written there ({error.strerror}); give --out another folder, or "
                f"the right to write to this one"
            ) from error
        if error.errno not in FULL:
            raise
        raise StorageFull(
            f"{path.parent}: {error.strerror} while writing {path.name}; finished files are kept and no partial file "
            f"is left; free some space and start again with the same arguments"
        ) from error


def _put(path: Path, fill: Callable[[Path], object], place: Callable[[Path, Path], None], rights: int = RIGHTS) -> bool:
    """Write a temporary file with ``fill`` and move it with ``place``; returns whether the name was free."""
    with raising_storage_full(path):
        with _temporary(path, rights) as temp:
            fill(temp)
            _sync(temp)
            try:
                place(temp, path)
                free = True
            except FileExistsError:
                free = False
        _sync(path.parent)  # also when another writer was first: it may have died before its own sync
    return free


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, which another process may delete after its use.

    Raises:
        NotWritable: a link has its name, which could lead to any file.
    """
    while True:
        with open_lock(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # If it was deleted while this process waited, another process may have created and locked a new one.
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                yield
                return


def open_lock(path: Path, rights: int = RIGHTS) -> BinaryIO:
    """Open a file for locking or writing, made if it is not there, and never through a link. Raises NotWritable."""
    try:
        return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, rights), "r+b")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise NotWritable(f"{path} is a link; expected a file of Likeness; remove it and start again") from error


@contextmanager
def _temporary(path: Path, rights: int = RIGHTS) -> Iterator[Path]:
    """A temporary file in the target's folder, because rename and link are atomic only within a file system."""
    _make(path.parent)
    # Not of tempfile, whose files are private: the umask cannot be asked for without changing it for all threads.
    temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}{UNFINISHED}")
    os.close(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, rights))
    try:
        yield temp
    finally:
        temp.unlink(missing_ok=True)


def _link(temp: Path, path: Path) -> None:
    """Give the file its name. Unlike a rename, this raises FileExistsError when the name exists."""
    try:
        os.link(temp, path)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        raise ConfigError(
            f"{path.parent}: this file system has no hard links ({error.strerror}), which are needed to let only one "
            f"of several writers create a file; write to another disk or to an object store"
        ) from error


def _make(folder: Path) -> None:
    """Make a folder and its parents; each is synced into its parent before anything is written inside."""
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
