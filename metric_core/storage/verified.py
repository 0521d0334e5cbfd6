"""Large files that are known by their sha256, such as the shards of an index: opened only if their bytes are right, and
without reading them whole each time.

    with storage.verified("s3://bucket/index/shards/…", sha256) as path:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)

A local file is hashed where it lies, and its digest is remembered together with its state, so that it is hashed once
and not at every start (``digests``). A remote file is downloaded once for all processes of a machine, hashed on the
way, to a folder of bounded size from which the longest unused files are removed (``downloads``). Both are in the
user's cache folder, which can be deleted when no process is opening files:

    <cache>/digests/<sha256 of an address>    one line: digest, state, address
    <cache>/files/<sha256>                    a downloaded file, readable by the user only

A copy outlives its remote original. Whether that is still there, and sound, is for ``require_stored`` to say; where
faces must be erased, ``forget`` the copies, or delete this folder.

fsspec's own caches (filecache, simplecache) would not do: they compare no digest, are bounded by age and not by size,
do not lock a file that is in use, and every process downloads by itself.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_cache_path

from metric_core.errors import ConfigError, Corrupt
from metric_core.storage.addresses import absolute, is_local
from metric_core.storage.digests import DigestMemory, wrong
from metric_core.storage.downloads import Downloads


@dataclass(frozen=True)
class Cache:
    """Where digests are remembered and remote files are copied to."""

    folder: Path = field(default_factory=lambda: user_cache_path("likeness"))
    """On Linux ~/.cache/likeness, or in the folder that XDG_CACHE_HOME names. The files in it are trusted as the
    user's own."""
    limit_bytes: int = 20 << 30
    """Most bytes of downloaded files, in the end; 0 or more. Files in use are kept even beyond it, and a disk with less
    room holds fewer."""

    def __post_init__(self) -> None:
        if self.limit_bytes < 0:
            raise ConfigError(f"limit_bytes of the cache is {self.limit_bytes}; expected 0 or more")


@contextmanager
def verified(address: str, sha256: str, *, again: bool = False, cache: Cache | None = None) -> Iterator[Path]:
    """A local path to a file with this sha256. Open or map it inside the block; a file that is open or mapped stays
    readable afterwards.

    Args:
        address: a local path, whose file is used where it is, or a remote address, which is copied to the cache.
        sha256: the expected digest, 64 lower-case hexadecimal digits.
        again: hash the local file (or the local copy) even if it has not changed since it was last hashed.
        cache: another cache than the user's.

    Raises:
        Missing: there is nothing at the address.
        Corrupt: the bytes have another sha256. A damaged copy of a good remote file is downloaded again instead.
        StorageFull: the disk has no room for the copy, even after the removal of all copies that are not in use.
        ConfigError: the cache folder cannot be written to, and the file is remote. Local files do without it.
    """
    if is_local(address):
        require_stored(address, sha256, again=again, cache=cache)
        yield Path(absolute(address))
        return
    _require_digest(address, sha256)
    cache = cache or Cache()
    folder = _folder(cache)
    with Downloads(folder / "files", cache.limit_bytes, _memory(folder)).hold(address, sha256, again=again) as path:
        yield path


def require_stored(address: str, sha256: str, *, again: bool = False, cache: Cache | None = None) -> None:
    """Require that what lies at the address has this sha256, whatever copies there are of it.

    Args:
        address: a local path or a remote address.
        sha256: the expected digest, 64 lower-case hexadecimal digits.
        again: hash it even if it has not changed since it was last hashed.
        cache: another cache than the user's.

    Raises:
        Missing, Corrupt: there is nothing, or it has another digest.
    """
    _require_digest(address, sha256)
    memory = _memory(_folder(cache or Cache()))
    if is_local(address):
        address = absolute(address)
        found = memory.sha256(Path(address), sha256, again=again)
    else:
        found = memory.sha256_stored(address, sha256, again=again)
    if found != sha256:
        raise wrong(address, found, sha256)


def _require_digest(address: str, sha256: str) -> None:
    if not re.fullmatch("[0-9a-f]{64}", sha256):  # it becomes a file's name
        raise Corrupt(
            f"{address}: its expected sha256 is given as {sha256!r}, not as 64 hexadecimal digits; the manifest that "
            f"says so was damaged; restore it from a backup or build it again"
        )


def _folder(cache: Cache) -> Path:
    return cache.folder.expanduser().absolute()


def _memory(folder: Path) -> DigestMemory:
    return DigestMemory(folder / "digests")


def forget(sha256s: Iterable[str], *, cache: Cache | None = None) -> int:
    """Remove this user's copies of remote files on this machine; who has one open keeps it until it is closed. Returns
    the number of copies that were there."""
    folder = _folder(cache or Cache()) / "files"
    removed = 0
    for sha256 in sha256s:
        copy = folder / sha256
        if re.fullmatch("[0-9a-f]{64}", sha256) and copy.exists():
            copy.unlink(missing_ok=True)
            removed += 1
    return removed
