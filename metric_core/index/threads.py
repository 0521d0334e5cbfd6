"""Parallel work on the chunks of a search, without threads inside threads.

The products of a search are small: BLAS threads that wait for each other would take more CPU time than the products.
So each product is computed by one thread, and chunks of queries are what runs in parallel.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from threadpoolctl import ThreadpoolController

from metric_core.index.engine import faiss


def each(work: Callable[[slice], None], chunks: Sequence[slice]) -> None:
    """Call ``work`` for every chunk, in as many threads as FAISS may use (``OMP_NUM_THREADS``, else all cores)."""
    threads = min(len(chunks), faiss.omp_get_max_threads())
    with _controller().limit(limits=1, user_api="blas"):
        if threads < 2:
            for chunk in chunks:
                work(chunk)
            return
        with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(work, chunks):
                pass


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()  # looks through the libraries of the process, which takes milliseconds
