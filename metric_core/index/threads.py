"""Parallel work on the chunks of a search, without threads inside threads.

The products of a search are small: BLAS threads that wait for each other would take more CPU time than the products.
So each product is computed by one thread, and chunks of queries are what runs in parallel.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

from threadpoolctl import ThreadpoolController

from metric_core.index.engine import faiss

_LEAST = 64
"""Queries per thread below which dividing them costs more than it saves."""

_lock = threading.Lock()
_holders = 0
_limit: Any = None


def available() -> int:
    """Threads that a search may use: ``OMP_NUM_THREADS``, else all cores."""
    threads: int = faiss.omp_get_max_threads()
    return threads


def cut(total: int, most: int) -> list[slice]:
    """Chunks of at most ``most`` of ``total`` queries, about equally large and for all threads if there are many."""
    count = -(-total // most)
    if total >= _LEAST * (threads := available()):
        count = -(-count // threads) * threads
    edges = [total * number // count for number in range(count + 1)] if count else [0]
    return [slice(first, last) for first, last in pairwise(edges)]


def each(work: Callable[[slice], None], chunks: Sequence[slice]) -> None:
    """Call ``work`` for every chunk, in as many threads as there may be."""
    threads = min(len(chunks), available())
    with _one_blas_thread():
        if threads < 2:
            for chunk in chunks:
                work(chunk)
            return
        for _ in _pool(available()).map(work, chunks):
            pass


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay. A thread that is started while an earlier one still ends gets a heap of its own from malloc;
    with new ones for every call, those took up to 10 MB on a busy machine."""
    return ThreadPoolExecutor(threads, "search", initializer=faiss.omp_set_num_threads, initargs=(1,))


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has no threads but the one that forked it


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    """The limit is the process's: the first of several searches at once sets it, the last one lifts it."""
    global _holders, _limit
    with _lock:
        if not _holders:
            _limit = _controller().limit(limits=1, user_api="blas")
        _holders += 1
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if not _holders:
                _limit.restore_original_limits()


@contextmanager
def one() -> Iterator[None]:
    """One thread for the products and for FAISS, where work comes in such small pieces that most threads would wait."""
    with _controller().limit(limits=1):
        yield


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks through the libraries of the process, which takes milliseconds
