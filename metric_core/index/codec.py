"""Reads FAISS indexes from bytes and files.

FAISS writes files neither atomically nor with a checksum and has had memory bugs on damaged ones. So a file is compared
with its digest before it comes here, and the memory that FAISS may allocate is limited by the file's size.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from metric_core.errors import Corrupt
from metric_core.index.engine import faiss

_LOOP_LIMIT = 1 << 24  # far above any count in our files that controls a loop (lists, chained transforms)
_reading = threading.Lock()  # the limits are global to the process


def load(data: bytes) -> Any:
    """An index from bytes that are known to be ours. Raises Corrupt if FAISS cannot read them."""
    with _limited(len(data)):
        return faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))


def map_file(path: Path) -> Any:
    """An index whose codes stay in the file, which is mapped into memory. Raises Corrupt if FAISS cannot read it."""
    with _limited(path.stat().st_size):
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def read_file(path: Path) -> Any:
    """An index in memory, which may be changed. Raises Corrupt if FAISS cannot read it."""
    with _limited(path.stat().st_size):
        return faiss.read_index(str(path))


@contextmanager
def _limited(size: int) -> Iterator[None]:
    """Limits for FAISS while it reads, from the file's bytes (FAISS counts up to 4 for each)."""
    limits = {"deserialization_loop_limit": _LOOP_LIMIT, "deserialization_vector_byte_limit": max(8 * size, 1 << 20)}
    with _reading:
        before = {name: getattr(faiss, f"get_{name}")() for name in limits}
        try:
            for name, value in limits.items():
                getattr(faiss, f"set_{name}")(value)
            yield
        except RuntimeError as error:
            raise Corrupt(f"FAISS cannot read the index: {str(error).splitlines()[0]}") from error
        finally:
            for name, value in before.items():
                getattr(faiss, f"set_{name}")(value)
