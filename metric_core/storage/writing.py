"""Writing, in steps that are seen whole or not at all, two of them conditional; and deleting."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metric_core.errors import ConfigError
from metric_core.storage import durable
from metric_core.storage.addresses import file_system, is_local


def write_bytes(uri: str, data: bytes) -> None:
    """Put an object in one atomic step, replacing what was there."""
    if not is_local(uri):
        fs, path = file_system(uri)
        fs.pipe_file(path, data)
        return
    durable.write(Path(uri), data)


def put_file(source: Path, uri: str) -> None:
    """Put a finished local file in one atomic step; the source is left alone."""
    if not is_local(uri):
        fs, path = file_system(uri)
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
        fs, path = file_system(uri)
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
        return bool(fs.cat_file(path) == data)  # when only the answer was lost and the put repeated, it is ours
    fs.invalidate_cache(path)
    return True


def remove_tree(uri: str) -> None:
    """Delete a folder and everything in it; an absent one is no error."""
    fs, path = file_system(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def remove(uri: str) -> None:
    """Delete one file; an absent one is no error."""
    fs, path = file_system(uri)
    if fs.exists(path):
        fs.rm_file(path)


def remove_unfinished(uri: str) -> None:
    """Delete what writers that were killed have left directly inside a folder; other stores show no such thing."""
    if is_local(uri):
        durable.remove_unfinished(Path(uri))
