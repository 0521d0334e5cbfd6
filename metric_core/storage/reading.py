"""Reading: whole objects, byte ranges, and many of them at a time."""

import errno
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from metric_core.errors import DataError, Missing, NotReadable
from metric_core.storage.addresses import file_system, is_local
from metric_core.storage.listing import require_regular

Range = tuple[str, int, int | None]
"""Address, offset and length in bytes; a length of None means up to the end."""
ReadResult = bytes | Missing | NotReadable | OSError
FILE_ERRORS = (NotReadable, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors of a single file. Other errors are those of the storage and may be gone at the next try."""
WHOLE = 4 << 30
"""Most bytes of an object that is read whole, unless the caller knows better: 4 GiB, above all that jobs write so."""
TEXT = 1 << 30
"""Most bytes of a text file."""
PIECE = 8 << 20
"""Bytes of a large file that are held in memory at once."""
PROBE, SLOW, READERS = 8, 0.001, 16
"""Local files are read by ``READERS`` threads if the first ``PROBE`` reads take over ``SLOW`` seconds each, as those
of a network mount do."""


def open_read(uri: str, *, ahead: bool = True) -> BinaryIO:
    """A seekable binary reader.

    Raises:
        Missing: nothing is there.
        NotReadable: it is a device, a named pipe or a socket, which may have no end, or keep its reader waiting.

    ``ahead``: from an object store, fetch more than is requested, in blocks. Good for reading from start to end, bad
    for random access.
    """
    try:
        if is_local(uri):  # fsspec costs 5x a plain open on small files
            return open(uri.removeprefix("file://"), "rb", opener=_open_file)
        fs, path = file_system(uri)
        file: BinaryIO = fs.open(path, "rb", cache_type="readahead" if ahead else "none")
        return file
    except FileNotFoundError:
        raise Missing(f"{uri}: there is no such file") from None


def _open_file(path: str, flags: int) -> int:
    """A file's descriptor; of a named pipe without waiting for its writer. Raises NotReadable."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    found = os.fstat(descriptor)
    try:
        if not stat.S_ISDIR(found.st_mode):  # which ``open`` refuses itself
            require_regular(found, path)
    except NotReadable:
        os.close(descriptor)
        raise
    return descriptor


def read_bytes(uri: str, offset: int = 0, length: int | None = None, most: int = WHOLE) -> bytes:
    """A whole object, or ``length`` bytes from ``offset``; fewer if the object ends earlier.

    Raises:
        Missing: nothing is there.
        NotReadable: as ``open_read``; or it is read to its end and has more than ``most`` bytes.
    """
    if is_local(uri):
        with open_read(uri) as f:
            if length is None:
                _require_few(uri, os.fstat(f.fileno()).st_size - offset, most)
            f.seek(offset)
            return f.read() if length is None else f.read(length)
    fs, path = file_system(uri)
    try:
        if length is None and most < WHOLE:  # a request more, which objects of any size are not worth
            _require_few(uri, fs.size(path) - offset, most)
        return bytes(fs.cat_file(path, start=offset or None, end=None if length is None else offset + length))
    except FileNotFoundError:
        raise Missing(f"{uri}: there is no such file") from None
    except OSError:
        if offset and fs.size(path) <= offset:  # stores refuse a range that starts after the end
            return b""
        raise


def _require_few(uri: str, size: int, most: int) -> None:
    if size > most:
        raise NotReadable(f"{uri} has {size} bytes; at most {most} were expected")


def read_text(uri: str, most: int = TEXT) -> str:
    """A text file in UTF-8, with or without a byte order mark. Raises as ``read_bytes``, or DataError for another
    encoding."""
    try:
        return read_bytes(uri, most=most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is not in UTF-8 ({error}); save it in that encoding") from error


def is_storage_error(error: Exception) -> bool:
    """Whether an error raised while parsing a file comes from the storage and not from the bytes. For bytes that it
    cannot parse, Arrow raises a plain OSError without an errno, or a ValueError."""
    return isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None)


def read_many(wanted: Sequence[Range], most: int = WHOLE) -> list[ReadResult]:
    """``read_bytes`` of each (uri, offset, length), many at a time. An error of a single file is returned in place of
    its bytes; an error of the storage is raised. ``most`` holds for local files: objects of a store do not change."""
    out: list[ReadResult] = [b""] * len(wanted)
    protocols: dict[str, list[int]] = {}
    for at, (uri, _, _) in enumerate(wanted):
        protocols.setdefault("file" if is_local(uri) else uri.partition("://")[0], []).append(at)
    for protocol, places in protocols.items():
        some = [wanted[at] for at in places]
        for at, result in zip(places, _read_local(some, most) if protocol == "file" else _read_remote(some)):
            out[at] = result
    return out


def sha256(uri: str) -> str:
    """Hex digest of an object's bytes, read in pieces."""
    with open_read(uri) as f:
        return sha256_of(f)


def sha256_of(file: BinaryIO) -> str:
    """Hex digest of an open file's bytes from its position on, read in pieces."""
    digest = hashlib.sha256()
    while piece := file.read(PIECE):
        digest.update(piece)
    return digest.hexdigest()


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A local path to the object's bytes, for libraries that only read files; a download is deleted after use.

    Raises:
        Missing: there is no such local file.
    """
    if is_local(uri):
        if not Path(uri).exists():
            raise Missing(f"{uri}: there is no such file")
        yield Path(uri)
        return
    fs, path = file_system(uri)
    with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
        target = Path(folder) / path.rsplit("/", 1)[-1]
        fs.get_file(path, str(target))
        yield target


def _read_one(wanted: Range, most: int = WHOLE) -> ReadResult:
    try:
        return read_bytes(*wanted, most)
    except (Missing, *FILE_ERRORS) as error:
        return error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return error
        raise


def _read_local(wanted: list[Range], most: int) -> list[ReadResult]:
    start = time.monotonic()
    first = [_read_one(w, most) for w in wanted[:PROBE]]
    rest = wanted[PROBE:]
    if time.monotonic() - start < PROBE * SLOW:
        return first + [_read_one(w, most) for w in rest]
    with ThreadPoolExecutor(READERS) as pool:
        return first + list(pool.map(partial(_read_one, most=most), rest))


def _read_remote(wanted: list[Range]) -> list[ReadResult]:
    fs, _ = file_system(wanted[0][0])
    starts = [offset or None for _, offset, _ in wanted]
    ends = [None if length is None else offset + length for _, offset, length in wanted]
    results = fs.cat_ranges([fs._strip_protocol(uri) for uri, _, _ in wanted], starts, ends, on_error="return")
    # Failed reads are repeated one by one, which also distinguishes a missing object from other errors.
    return [bytes(r) if isinstance(r, bytes) else _read_one(w) for r, w in zip(results, wanted)]
