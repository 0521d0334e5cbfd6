"""The one place that opens addresses: local paths and anything fsspec knows (s3://, gs://, memory://).

Writes are atomic (a reader sees the old object, the new one, or none) and two of them are conditional, which is
what leases and publishing are built on. What the bytes mean is left to the callers.
"""

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.core import url_to_fs

from metric_core import durable
from metric_core.errors import ConfigError, DataError, Missing

Range = tuple[str, int, int | None]
"""Address, offset and length; None is to the end."""
Answer = bytes | Missing | OSError
OF_ONE_FILE = (PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that say something of one file; others are the storage's, and may be over when it is asked again."""
PROBE, SLOW, READERS = 8, 0.001, 16
"""Reads after which a local path that took longer than so many seconds each, a network mount's, is read by threads."""


def is_local(uri: str) -> bool:
    """Whether the address is a path on this machine (or a mount that looks like one)."""
    return "://" not in uri or uri.startswith("file://")


def absolute(uri: str | Path) -> str:
    """The address with a local path made absolute; worker processes run in folders of their own."""
    text = str(uri)
    if not is_local(text):
        return text.rstrip("/")
    return str(Path(text.removeprefix("file://")).expanduser().absolute())


def join(uri: str, *parts: str) -> str:
    """The address of something inside a folder."""
    return "/".join([uri.rstrip("/"), *parts])


def exists(uri: str) -> bool:
    """Whether a file, an object or a folder is there."""
    fs, path = _fs(uri)
    return bool(fs.exists(path))


def is_file(uri: str) -> bool:
    """Whether a file or object (not a folder) is there."""
    if is_local(uri):
        return os.path.isfile(uri.removeprefix("file://"))
    fs, path = _fs(uri)
    try:
        return bool(fs.info(path)["type"] == "file")  # fsspec's isfile says no when a store does not answer
    except FileNotFoundError:
        return False


def names(uri: str) -> list[str]:
    """Sorted names directly inside a folder; an absent folder has none."""
    fs, path = _fs(uri)
    try:
        return sorted(entry.rstrip("/").rsplit("/", 1)[-1] for entry in fs.ls(path, detail=False))
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise ConfigError(f"{uri} is a file; a folder was expected") from None


def files_and_folders(uri: str) -> tuple[list[str], list[str]]:
    """Sorted names of the files, and of the folders, directly inside a folder; links count as what they lead to."""
    if is_local(uri):
        with os.scandir(uri) as inside:
            found = [(entry.name, entry.is_dir()) for entry in inside]
    else:
        fs, path = _fs(uri)
        found = [(e["name"].rstrip("/").rsplit("/", 1)[-1], e["type"] == "directory") for e in fs.ls(path, detail=True)]
    return sorted(n for n, folder in found if not folder), sorted(n for n, folder in found if folder)


def glob(pattern: str) -> list[str]:
    """Sorted addresses that fit a pattern with ``*``, ``?`` or ``[...]``."""
    fs, path = _fs(pattern)
    protocol = "" if is_local(pattern) else pattern.split("://")[0] + "://"
    return [protocol + (found.lstrip("/") if protocol else found) for found in sorted(fs.glob(path))]


def size(uri: str) -> int:
    """Bytes of a file or object."""
    fs, path = _fs(uri)
    return int(fs.size(path))


def content_tag(uri: str) -> str:
    """A string that changes when the bytes do: size and mtime of a file, the ETag of an object. Raises Missing."""
    if is_local(uri):
        try:
            return _stat_tag(os.stat(uri))
        except FileNotFoundError:
            raise Missing(f"{uri}: there is no such file") from None
    fs, path = _fs(uri)
    try:
        return _info_tag(fs.info(path))
    except FileNotFoundError:
        raise Missing(f"{uri}: there is no such file") from None


def read_text(uri: str) -> str:
    """A text file in UTF-8, with or without a mark in front. Raises Missing, or DataError for another encoding."""
    try:
        return read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is not in UTF-8 ({error}); save it in that encoding") from error


def walk(uri: str) -> Iterator[tuple[str, str]]:
    """(path relative to the folder, content tag) of every file below it, in byte order; hidden ones left out."""
    if not is_local(uri):
        fs, root = _fs(uri)
        found = fs.find(root, detail=True)
        for path in sorted(found):
            relative = path[len(root.rstrip("/")) + 1 :]
            if not any(part.startswith(".") for part in relative.split("/")):
                yield relative, _info_tag(found[path])
        return
    yield from _walk_local(uri, "")


def open_read(uri: str, *, ahead: bool = True) -> BinaryIO:
    """A seekable binary reader. Raises ``Missing`` when nothing is there.

    ``ahead``: of an object store, fetch more than is asked for, in blocks: right for reading from front to end, and
    wrong for jumping about.
    """
    try:
        if is_local(uri):  # fsspec costs 5x a plain open on small files
            return open(uri.removeprefix("file://"), "rb")
        fs, path = _fs(uri)
        return fs.open(path, "rb", cache_type="readahead" if ahead else "none")
    except FileNotFoundError:
        raise Missing(f"{uri}: there is no such file") from None


def read_bytes(uri: str, offset: int = 0, length: int | None = None) -> bytes:
    """A whole object, or ``length`` bytes of it from ``offset``; fewer where it ends before. Raises ``Missing``."""
    if is_local(uri):
        with open_read(uri) as f:
            f.seek(offset)
            return f.read() if length is None else f.read(length)
    fs, path = _fs(uri)
    try:
        return bytes(fs.cat_file(path, start=offset or None, end=None if length is None else offset + length))
    except FileNotFoundError:
        raise Missing(f"{uri}: there is no such file") from None
    except OSError:
        if offset and fs.size(path) <= offset:  # stores refuse a range behind the end
            return b""
        raise


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


def write_bytes(uri: str, data: bytes) -> None:
    """Put an object in one atomic step, replacing what was there."""
    if not is_local(uri):
        fs, path = _fs(uri)
        fs.pipe_file(path, data)
        return
    durable.write(Path(uri), data)


def put_file(source: Path, uri: str) -> None:
    """Put a finished local file in one atomic step; the source is left alone."""
    if not is_local(uri):
        fs, path = _fs(uri)
        fs.put_file(str(source), path)
        return
    durable.copy(source, Path(uri))


@contextmanager
def new_file(uri: str) -> Iterator[Path]:
    """A local path to write a large file to, which is put in place in one atomic step when the block ends well."""
    if not is_local(uri):
        with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
            temp = Path(folder) / "file"
            yield temp
            put_file(temp, uri)
        return
    with durable.new(Path(uri)) as temp:
        yield temp


def create_if_absent(uri: str, data: bytes) -> bool:
    """Put an object only if none is there; of several writers exactly one gets True."""
    if not is_local(uri):
        fs, path = _fs(uri)
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True
    return durable.create(Path(uri), data)


def replace_if_match(uri: str, data: bytes, expected: bytes) -> bool:
    """Replace an object only if it still holds ``expected``; of several writers exactly one gets True.

    On S3 the put carries the ETag of the bytes that were compared (``If-Match``); on a local file system a lock
    file makes compare and replace one step. Other stores have no conditional put in fsspec: ConfigError.
    """
    if is_local(uri):
        return durable.replace(Path(uri), data, expected)
    fs, path = _fs(uri)
    if "s3" not in fs.protocol:
        raise ConfigError(f"{uri}: conditional replacement needs a local path or s3://, not {fs.protocol}")
    if not fs.exists(path):
        return False
    tag = fs.info(path)["ETag"]
    if fs.cat_file(path) != expected:
        return False
    bucket, name, _ = fs.split_path(path)
    try:
        fs.call_s3("put_object", Bucket=bucket, Key=name, Body=data, IfMatch=tag)
    except OSError as error:
        if "PreconditionFailed" not in str(error) and "condition" not in str(error):
            raise
        return bool(fs.cat_file(path) == data)  # when only the answer was lost and the put repeated, it is ours
    fs.invalidate_cache(path)
    return True


def remove_tree(uri: str) -> None:
    """Delete a folder and everything in it; an absent one is no error."""
    fs, path = _fs(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def remove(uri: str) -> None:
    """Delete one file; an absent one is no error."""
    fs, path = _fs(uri)
    if fs.exists(path):
        fs.rm_file(path)


def remove_unfinished(uri: str) -> None:
    """Delete what writers that were killed have left directly inside a folder; other stores show no such thing."""
    if is_local(uri):
        durable.remove_unfinished(Path(uri))


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
    fs, path = _fs(uri)
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
    fs, _ = _fs(wanted[0][0])
    starts = [offset or None for _, offset, _ in wanted]
    ends = [None if length is None else offset + length for _, offset, length in wanted]
    answers = fs.cat_ranges([fs._strip_protocol(uri) for uri, _, _ in wanted], starts, ends, on_error="return")
    # What failed is asked for once more by itself, which also tells a missing object from other errors.
    return [bytes(a) if isinstance(a, bytes) else _read_one(w) for a, w in zip(answers, wanted)]


def _fs(uri: str) -> tuple[Any, str]:
    fs, path = _s3(uri) if uri.startswith("s3://") else url_to_fs(uri)
    if not isinstance(fs, fsspec.AbstractFileSystem):
        raise ConfigError(f"{uri}: not an address that fsspec can open")
    fs.invalidate_cache(path)  # a listing from before does not know what other processes have written since
    return fs, path


def _s3(uri: str) -> tuple[Any, str]:
    try:
        from metric_core.s3 import S3
    except ImportError as error:
        raise ConfigError(f'{uri}: S3 needs s3fs ({error}); pip install "likeness-faces[s3]"') from error
    return S3(), S3._strip_protocol(uri)


def _walk_local(root: str, prefix: str) -> Iterator[tuple[str, str]]:
    with os.scandir(os.path.join(root, prefix)) as entries:
        # A folder sorts with its slash, so that the order is that of whole paths, as in an object store.
        below = sorted((e.name + "/" if e.is_dir() else e.name, e) for e in entries if e.name[0] != ".")
    for name, entry in below:
        if name.endswith("/"):
            yield from _walk_local(root, prefix + name)
        else:
            try:
                stat = entry.stat()
            except FileNotFoundError:  # a link that leads nowhere; whoever reads it is told so
                stat = entry.stat(follow_symlinks=False)
            yield prefix + name, _stat_tag(stat)


def _stat_tag(stat: os.stat_result) -> str:
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _info_tag(info: dict[str, Any]) -> str:
    tag = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("created")
    return f"{info['size']}-{str(tag).strip(chr(34))}"
