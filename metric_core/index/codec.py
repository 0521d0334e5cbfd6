"""Converts FAISS indexes to bytes and back, and computes the hash that identifies the template of an index.

FAISS writes files neither atomically nor with a checksum and has had memory bugs on damaged ones. So a file is compared
with its digest before FAISS reads it, and the memory that FAISS may allocate is limited by the file's size.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from metric_core import storage
from metric_core.errors import Corrupt
from metric_core.index.engine import faiss

_LOOP_LIMIT = 1 << 24  # far above any count in our files that controls a loop (lists, chained transforms)
_reading = threading.Lock()  # the limits are global to the process


def template_hash(template: bytes) -> str:
    """sha256 of the result of training; see ``trained_hash``."""
    return trained_hash(load(template))


def trained_hash(index: Any) -> str:
    """sha256 of an index's kind, dimension, metric and centroids; independent of the vectors in it."""
    ivf = faiss.try_extract_index_ivf(index)
    text = f"{type(index).__name__} {index.d} {index.metric_type} {ivf.nlist if ivf else 0}"
    digest = hashlib.sha256(text.encode())
    if ivf:
        digest.update(faiss.serialize_index(ivf.quantizer).tobytes())
    return digest.hexdigest()


def load(data: bytes) -> Any:
    """An index from bytes that are known to be ours. Raises Corrupt if FAISS cannot read them."""
    with _limited(len(data)):
        return faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))


def write_file(index: Any, path: Path) -> str:
    """Write an index to a local file and return the file's sha256, because FAISS writes no checksum."""
    faiss.write_index(index, str(path))
    return storage.sha256(str(path))


def read_file(path: Path, sha256: str, where: str) -> Any:
    """Read an index after comparing its bytes with their digest: FAISS reads damaged files without an error.

    Raises:
        Corrupt: the bytes are not those that were written.
    """
    if storage.sha256(str(path)) != sha256:
        raise Corrupt(f"{where}: its sha256 is not the manifest's; it was damaged or replaced, build the index again")
    with _limited(path.stat().st_size):
        return faiss.read_index(str(path))


@contextmanager
def _limited(size: int) -> Iterator[None]:
    """Limits for FAISS while it reads, from the file's bytes (FAISS counts up to 4 for each)."""
    limits = {"deserialization_loop_limit": _LOOP_LIMIT, "deserialization_vector_byte_limit": max(8 * size, 1 << 20)}
    limits = {
        name: value for name, value in limits.items() if hasattr(faiss, f"set_{name}")
    }  # older releases have none
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
