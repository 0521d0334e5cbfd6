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


def map_codes(path: Path, codes: Path) -> Any:
    """An inverted-file index that scans the mapped ``codes``, of which ``write_codes`` says more, and has no ids: only
    searches that return a list and a place in it are for it. Raises Corrupt if the files do not fit together."""
    index = map_file(path)
    ivf = faiss.extract_index_ivf(index)
    held = codes.stat().st_size
    if held != ivf.ntotal * ivf.code_size:
        raise Corrupt(f"{codes} has {held} bytes, expected {ivf.ntotal} codes of {ivf.code_size} bytes")
    if not held:
        return index
    mapped = faiss.OnDiskInvertedLists(ivf.nlist, ivf.code_size, str(codes))
    places, at = faiss.OnDiskOneListVector(), 0
    for size in list_sizes(ivf):
        place = faiss.OnDiskOneList()
        place.size = place.capacity = size
        place.offset = at
        places.push_back(place)
        at += size * ivf.code_size
    mapped.lists.swap(places)
    mapped.totsize, mapped.read_only = held, True
    mapped.do_mmap()
    ivf.replace_invlists(mapped, True)
    mapped.this.disown()
    return index


def write_codes(index: Any, path: Path) -> None:
    """Write the codes of all lists, one list after the other.

    FAISS writes a list's ids behind its codes, 8 bytes for each row, so that the pages of the ones come with those of
    the others into the memory of a process that maps its file.
    """
    ivf = faiss.extract_index_ivf(index)
    with open(path, "wb") as file:
        for number, size in enumerate(list_sizes(ivf)):
            if size:
                file.write(faiss.rev_swig_ptr(ivf.invlists.get_codes(number), size * ivf.code_size))


def list_sizes(ivf: Any) -> list[int]:
    """Rows in each list of an inverted-file index."""
    return [ivf.invlists.list_size(number) for number in range(ivf.nlist)]


def read_file(path: Path) -> Any:
    """An index in memory, which may be changed. Raises Corrupt if FAISS cannot read it."""
    with _limited(path.stat().st_size):
        return faiss.read_index(str(path))


@contextmanager
def _limited(size: int) -> Iterator[None]:
    """Limits for FAISS while it reads, from the file's bytes. FAISS counts up to 4 for each, and with 8-bit product
    codes a table of 1 KB per list and sub-vector too, though it makes none for inner products."""
    limits = {"deserialization_loop_limit": _LOOP_LIMIT, "deserialization_vector_byte_limit": max(32 * size, 1 << 28)}
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
