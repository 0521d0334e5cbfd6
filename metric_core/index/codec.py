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
        return _completed(faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8)))


def map_file(path: Path) -> Any:
    """An index whose codes stay in the file, which is mapped into memory. Raises Corrupt if FAISS cannot read it."""
    with _limited(path.stat().st_size):
        return _completed(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))


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


def merge(index: Any, other: Any) -> None:
    """Append the rows of another index of the same template, numbered after those that are there; ``other`` is empty
    afterwards.

    ``merge_from`` of FAISS 1.15 writes behind the end of a list of packed codes whose length is a multiple of its
    blocks' bytes (``BlockInvertedLists::add_entries``): such lists are extended here.
    """
    ivf, rows = faiss.try_extract_index_ivf(index), index.ntotal
    lists = None if ivf is None else faiss.downcast_InvertedLists(ivf.invlists)
    if isinstance(lists, faiss.BlockInvertedLists):
        more = faiss.downcast_InvertedLists(faiss.extract_index_ivf(other).invlists)
        for number, size in enumerate(list_sizes(ivf)):
            if size and size % lists.block_size == 0:
                _extend(lists, more, number, rows)
    index.merge_from(other, rows if ivf is not None else 0)


def _extend(lists: Any, more: Any, number: int, rows: int) -> None:
    """Move one list's rows behind those of the list of the same number, which fills its last block."""
    before, added = lists.list_size(number), more.list_size(number)
    if not added:
        return
    ids = faiss.rev_swig_ptr(more.get_ids(number), added)
    blocks = -(-added // more.n_per_block) * more.block_size  # bytes
    codes = faiss.rev_swig_ptr(more.get_codes(number), blocks)
    lists.resize(number, before + added)
    faiss.rev_swig_ptr(lists.get_ids(number), before + added)[before:] = ids + rows
    at = before // lists.n_per_block * lists.block_size
    faiss.rev_swig_ptr(lists.get_codes(number), at + blocks)[at:] = codes
    more.resize(number, 0)


def list_sizes(ivf: Any) -> list[int]:
    """Rows in each list of an inverted-file index."""
    size = ivf.invlists.list_size  # each look-up of it costs more than the call
    return [size(number) for number in range(ivf.nlist)]


def read_file(path: Path) -> Any:
    """An index in memory, which may be changed. Raises Corrupt if FAISS cannot read it."""
    with _limited(path.stat().st_size):
        return _completed(faiss.read_index(str(path)))


def _completed(index: Any) -> Any:
    """The index with the pointer to its product quantizer, which FAISS 1.15 leaves empty in fast-scan ones that it
    reads, so that decoding a vector crashes (``IndexIVFFastScan::sa_decode``)."""
    if isinstance(index, faiss.IndexIVFPQFastScan) and index.fine_quantizer is None:
        index.fine_quantizer = index.pq
    return index


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
