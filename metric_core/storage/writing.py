"""Atomic writes, two of them conditional, and deletion. Local writes raise StorageFull when the disk is full."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from metric_core.errors import ConfigError
from metric_core.storage import durable
from metric_core.storage.addresses import file_system, is_local
from metric_core.storage.listing import exists
from metric_core.storage.reading import read_bytes

_TRIES = 100


def write_bytes(uri: str, data: bytes) -> None:
    """Write an object in one atomic step, replacing an existing one."""
    if not is_local(uri):
        fs, path = file_system(uri)
        fs.pipe_file(path, data)
        return
    durable.write(Path(uri), data)


def put_file(source: Path, uri: str) -> None:
    """Copy a finished local file to an address in one atomic step, replacing an existing one."""
    if not is_local(uri):
        fs, path = file_system(uri)
        fs.put_file(str(source), path)
        return
    durable.copy(source, Path(uri))


@contextmanager
def new_file(uri: str) -> Iterator[Path]:
    """A local path to write a large file to; when the block ends without an error, it is put in place atomically."""
    if not is_local(uri):
        with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
            temp = Path(folder) / "file"
            yield temp
            put_file(temp, uri)
        return
    with durable.new(Path(uri)) as temp:
        yield temp


def create_if_absent(uri: str, data: bytes, *, private: bool = False) -> bool:
    """Write an object only if none is there. Exactly one of several writers gets True.

    ``private``: only this user may read the file; who may read an object is its store's to say."""
    if not is_local(uri):
        fs, path = file_system(uri)
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True
    return durable.create(Path(uri), data, durable.PRIVATE if private else durable.RIGHTS)


def make_private(uri: str) -> None:
    """Take the rights to a local file from all others, who may have had them; objects are left as they are."""
    if is_local(uri):
        durable.make_private(Path(uri))


def replace_if_match(uri: str, data: bytes, expected: bytes) -> bool:
    """Replace an object only if it still holds ``expected``. Exactly one of several writers gets True.

    On S3 the put request carries the ETag of the compared bytes (``If-Match``); on a local file system a lock
    file makes compare and replace one step.

    Raises:
        ConfigError: another kind of store, for which fsspec has no conditional put.
    """
    if is_local(uri):
        return durable.replace(Path(uri), data, expected)
    fs, path = file_system(uri)
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
        return bool(fs.cat_file(path) == data)  # True if only the response was lost and the put was repeated
    fs.invalidate_cache(path)
    return True


def change(uri: str, new_of: Callable[[bytes | None], bytes]) -> bool:
    """Replace a small object by what follows from it, whoever else changes it meanwhile.

    Args:
        uri: its address.
        new_of: gets its bytes, None if there is none, and returns the new ones; called again if another writer was
            first.

    Returns:
        False if other writers were first a hundred times.

    Raises:
        ConfigError: as ``replace_if_match``.
    """
    for _ in range(_TRIES):
        old = read_bytes(uri) if exists(uri) else None
        new = new_of(old)
        if new == old or (create_if_absent(uri, new) if old is None else replace_if_match(uri, new, old)):
            return True
    return False


def remove_tree(uri: str) -> None:
    """Delete a folder and everything in it; it need not exist."""
    fs, path = file_system(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def remove(uri: str) -> None:
    """Delete one file; it need not exist."""
    fs, path = file_system(uri)
    if fs.exists(path):
        fs.rm_file(path)


def remove_unfinished(uri: str) -> None:
    """Delete the temporary files that killed writers left directly inside a local folder; other stores have none."""
    if is_local(uri):
        durable.remove_unfinished(Path(uri))
