"""Reading: whole objects, ranges, and many of them at a time."""

import errno
import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from metric_core.errors import DataError, Missing
from metric_core.storage.addresses import file_system, is_local

Range = tuple[str, int, int | None]
"""Address, offset and length; None is to the end."""
Answer = bytes | Missing | OSError
OF_ONE_FILE = (PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that say something of one file; others are the storage's, and may be over when it is asked again."""
PROBE, SLOW, READERS = 8, 0.001, 16
"""Reads after which a local path that took longer than so many seconds each, a network mount's, is read by threads."""


def open_read(uri: str, *, ahead: bool = True) -> BinaryIO:
    """A seekable binary reader. Raises ``Missing`` when nothing is there.

    ``ahead``: of an object store, fetch more than is asked for, in blocks: right for reading from front to end, and
    wrong for jumping about.
    """
    try:
        if is_local(uri):  # fsspec costs 5x a plain open on small files
            return open(uri.removeprefix("file://"), "rb")
        fs, path = file_system(uri)
        file: BinaryIO = fs.open(path, "rb", cache_type="readahead" if ahead else "none")
        return file
    except FileNotFoundError:
        raise Missing(f"{uri}: there is no such file") from None


def read_bytes(uri: str, offset: int = 0, length: int | None = None) -> bytes:
    """A whole object, or ``length`` bytes of it from ``offset``; fewer where it ends before. Raises ``Missing``."""
    if is_local(uri):
        with open_read(uri) as f:
            f.seek(offset)
            return f.read() if length is None else f.read(length)
    fs, path = file_system(uri)
    try:
        return bytes(fs.cat_file(path, start=offset or None, end=None if length is None else offset + length))
    except FileNotFoundError:
        raise Missing(f"{uri}: there is no such file") from None
    except OSError:
        if offset and fs.size(path) <= offset:  # stores refuse a range behind the end
            return b""
        raise


def read_text(uri: str) -> str:
    """A text file in UTF-8, with or without a mark in front. Raises Missing, or DataError for another encoding."""
    try:
        return read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is not in UTF-8 ({error}); save it in that encoding") from error


def is_trouble(error: Exception) -> bool:
    """Whether an error that came up while a file was parsed is the storage's and not of the bytes. What Arrow says of
    bytes it cannot parse is a plain OSError without a number, or a ValueError."""
    return isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None)


def read_many(wanted: Sequence[Range]) -> list[Answer]:
    """What ``read_bytes`` gives for each (uri, offset, length), many at a time; in place of bytes the error, if it says
    something of one file only."""
    out: list[Answer] = [b""] * len(wanted)
    kinds: dict[str, list[int]] = {}
    for at, (uri, _, _) in enumerate(wanted):
        kinds.setdefault("file" if is_local(uri) else uri.partition("://")[0], []).append(at)
    for kind, places in kinds.items():
        read = _read_local if kind == "file" else _read_remote
        for at, answer in zip(places, read([wanted[at] for at in places])):
            out[at] = answer
    return out


def sha256(uri: str) -> str:
    """Hex digest of an object's bytes, read in 8 MiB pieces."""
    digest = hashlib.sha256()
    with open_read(uri) as f:
        while piece := f.read(8 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A local path to the object's bytes, for libraries that only read files; a download is deleted after use."""
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


def _read_one(wanted: Range) -> Answer:
    try:
        return read_bytes(*wanted)
    except (Missing, *OF_ONE_FILE) as error:
        return error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return error
        raise


def _read_local(wanted: list[Range]) -> list[Answer]:
    start = time.monotonic()
    first = [_read_one(w) for w in wanted[:PROBE]]
    rest = wanted[PROBE:]
    if time.monotonic() - start < PROBE * SLOW:
        return first + [_read_one(w) for w in rest]
    with ThreadPoolExecutor(READERS) as pool:
        return first + list(pool.map(_read_one, rest))


def _read_remote(wanted: list[Range]) -> list[Answer]:
    fs, _ = file_system(wanted[0][0])
    starts = [offset or None for _, offset, _ in wanted]
    ends = [None if length is None else offset + length for _, offset, length in wanted]
    answers = fs.cat_ranges([fs._strip_protocol(uri) for uri, _, _ in wanted], starts, ends, on_error="return")
    # What failed is asked for once more by itself, which also tells a missing object from other errors.
    return [bytes(a) if isinstance(a, bytes) else _read_one(w) for a, w in zip(answers, wanted)]
