"""Some columns or row groups of a Parquet file in storage, without fetching the rest, and many files ahead of use.

pyarrow itself reads 64 KiB at the end of every file that it opens, which is a tenth of a small file.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.errors import Corrupt

AHEAD = 8
"""Files that are read ahead: there are many small ones, and each takes round trips to an object store."""
TAIL = 4096
"""Bytes at the end of a file that are read for its footer: 8 and the footer, of 2 KiB in a part with two row groups."""

One = TypeVar("One")
Result = TypeVar("Result")


@contextmanager
def opened(
    address: str, remedy: str, *, coded: Sequence[str] = (), footer: pq.FileMetaData | None = None
) -> Iterator[pq.ParquetFile]:
    """A Parquet file of which only the footer is read, and then what is asked for.

    Args:
        address: of the file.
        remedy: what to do if it is damaged, for the message.
        coded: columns of strings that are read as dictionaries.
        footer: the file's footer, if it was read before.

    Raises:
        Missing: there is no such file.
        Corrupt: Arrow cannot parse what was read.
    """
    with storage.open_read(address, ahead=False) as f, parsed(address, remedy):
        footer = footer or _footer(f)
        yield pq.ParquetFile(f, metadata=footer, read_dictionary=list(coded), pre_buffer=True)


@contextmanager
def parsed(address: str, remedy: str) -> Iterator[None]:
    """The block parses what was read from a Parquet file of an artefact. Its sha256 tells that it is what was written,
    and not that its writer was right.

    Raises:
        Corrupt: Arrow cannot parse it.
    """
    try:
        yield
    except (OSError, pa.ArrowException, ValueError) as error:  # a ValueError for texts that are not UTF-8
        if storage.is_storage_error(error):
            raise
        what = " ".join(str(error).split())
        raise Corrupt(f"{address}: {what[:300]}; {remedy}") from error


def ahead(read: Callable[[One], Result], files: Iterable[One]) -> Iterator[Result]:
    """The result of ``read`` for each file, in order, while the next files are being read."""
    with ThreadPoolExecutor(AHEAD) as pool:
        running: deque[Future[Result]] = deque()
        for file in files:
            running.append(pool.submit(read, file))
            if len(running) > AHEAD:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _footer(f: BinaryIO) -> pq.FileMetaData:
    """A file ends with the footer, its length as 4 bytes, little endian, and ``PAR1``.

    See https://parquet.apache.org/docs/file-format/.
    """
    size = f.seek(0, os.SEEK_END)
    f.seek(max(0, size - TAIL))
    data = f.read()
    length = int.from_bytes(data[-8:-4], "little") + 8
    if len(data) < length <= size:
        f.seek(size - length)
        data = f.read()
    return pq.read_metadata(pa.BufferReader(data[-length:]))
