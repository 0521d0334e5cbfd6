"""Local copies of remote files: a folder of bounded size with one file for each sha256, shared by processes.

Every file has a lock (``flock``, on the file itself). Whoever downloads holds the unfinished file's lock: the others
wait, then find the finished file, and a lock that nobody holds shows that the writer was killed. Whoever uses a file
holds its lock too, shared with other users; only files that nobody holds are removed. That matters until the file is
open or mapped; afterwards its bytes stay until the last descriptor and map are gone, removed or not.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from metric_core.errors import ConfigError, Corrupt, Missing
from metric_core.storage import durable
from metric_core.storage.digests import UNUSABLE, DigestMemory, state_of, wrong
from metric_core.storage.listing import content_tag
from metric_core.storage.reading import PIECE, open_read


@dataclass(frozen=True)
class Downloads:
    """A folder of downloaded files. ``limit_bytes`` bounds their sum; only files in use can exceed it."""

    folder: Path
    limit_bytes: int
    memory: DigestMemory

    @contextmanager
    def hold(self, address: str, sha256: str, *, again: bool = False) -> Iterator[Path]:
        """A local copy of a remote file, which is not removed before the block ends.

        Raises: as ``verified`` does.
        """
        path, downloaded = self.folder / sha256, False
        while True:
            file = _open_if_there(path)
            if file is None:
                downloaded = self._download(address, sha256, path) or downloaded
                continue
            with file:
                fcntl.flock(file, fcntl.LOCK_SH)
                if not _is_at(file, path):  # removed before it was locked; what is there now is not locked
                    continue
                try:
                    found = self.memory.sha256(path, sha256, again=again and not downloaded)
                except Missing:  # another process found it damaged
                    continue
                if found == sha256:
                    yield path
                    return
                path.unlink(missing_ok=True)  # what decayed in the cache is fetched again, once
                if downloaded:
                    raise Corrupt(
                        f"{path}: its sha256 is {found} right after {sha256} was written; the disk or the memory "
                        f"of this machine is failing; use another cache folder"
                    )

    def _download(self, address: str, sha256: str, path: Path) -> bool:
        """Put the file at ``path``; False if another process did. Raises Missing, Corrupt, ConfigError, StorageFull."""
        temp = self.folder / f".{sha256}{durable.UNFINISHED}"
        with durable.raising_storage_full(path), self._opened(temp) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, temp):  # finished, or given up, by another process
                return False
            try:
                if path.exists():
                    temp.unlink()
                    return False
                tag = content_tag(address)
                found = self._fill(file, address)
                if found != sha256:
                    raise wrong(address, found, sha256)
                os.replace(temp, path)
            except BaseException:
                temp.unlink(missing_ok=True)
                raise
            # Only this module writes here, so that the state need not settle as that of other people's files.
            self.memory.remember(path, state_of(os.fstat(file.fileno())), sha256)
            if content_tag(address) == tag:
                self.memory.remember(address, tag, sha256)
            return True

    def _opened(self, temp: Path) -> BinaryIO:
        """The unfinished file, which may be another process's and is therefore not emptied."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return durable.open_lock(temp, durable.PRIVATE)
        except OSError as error:
            if error.errno not in UNUSABLE:
                raise
            raise ConfigError(
                f"{self.folder}: remote files are copied to this cache folder, and it cannot be written to "
                f"({error.strerror}); set another cache folder (XDG_CACHE_HOME on Linux) or copy the files to this "
                f"machine and give their path"
            ) from error

    def _fill(self, file: BinaryIO, address: str) -> str:
        """Stream the remote file into a local one, over what a killed writer left there; returns its sha256."""
        digest = hashlib.sha256()
        with open_read(address) as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(0)
            file.truncate(size)  # at once, so that the processes that download other files count this one
            self._make_room(size)
            while piece := source.read(PIECE):
                digest.update(piece)
                file.write(piece)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())  # a name without its bytes must not outlast a power cut
        return digest.hexdigest()

    def _make_room(self, size: int) -> None:
        """Remove what killed writers left and, from the longest unused, enough files for one of ``size`` bytes."""
        for path in self.folder.glob(f".*{durable.UNFINISHED}"):
            _remove_unless_held(path)
        total, files = 0, []
        for path in self.folder.iterdir():
            try:
                stat = path.stat()
            except FileNotFoundError:  # removed by another process
                continue
            total += stat.st_size
            files.append((self.memory.last_use_ns(path) or stat.st_mtime_ns, path, stat.st_size))
        excess = max(total - self.limit_bytes, size - shutil.disk_usage(self.folder).free)
        for _, path, freed in sorted(files):
            if excess <= 0:
                return
            if _remove_unless_held(path):
                excess -= freed


def _open_if_there(path: Path) -> BinaryIO | None:
    try:
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):  # _opened reports a folder that is a file
        return None


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_unless_held(path: Path) -> bool:
    """Remove a file that no process holds; whether it is gone."""
    try:
        with open(path, "r+b") as file:  # NFS has exclusive locks only for files open for writing
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                path.unlink()
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True
