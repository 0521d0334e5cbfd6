"""Chunks of a search run in parallel, and the process's threads are afterwards as they were."""

import threading

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from metric_core.index import threads


def _blas() -> set[int]:
    return {library["num_threads"] for library in ThreadpoolController().info() if library["user_api"] == "blas"}


def test_searches_at_once_leave_the_number_of_blas_threads_as_it_was():
    with threadpool_limits(2, user_api="blas"):
        first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

        def first(chunk: slice) -> None:
            first_in.set()
            assert second_in.wait(30)

        def second(chunk: slice) -> None:
            second_in.set()
            assert first_out.wait(30)

        one = threading.Thread(target=threads.each, args=(first, [slice(0, 1)]))
        other = threading.Thread(target=threads.each, args=(second, [slice(0, 1)]))
        one.start()
        assert first_in.wait(30)
        other.start()
        one.join(30)
        first_out.set()
        other.join(30)
        assert _blas() == {2}


def test_every_chunk_is_worked_on_and_an_error_is_not_lost():
    done: list[int] = []
    threads.each(lambda chunk: done.append(chunk.start), [slice(n, n + 1) for n in range(20)])
    assert sorted(done) == list(range(20))

    def fail(chunk: slice) -> None:
        raise ValueError(f"chunk {chunk.start}")

    with pytest.raises(ValueError, match="chunk 0"):
        threads.each(fail, [slice(0, 1), slice(1, 2)])


@pytest.mark.parametrize(("total", "most"), [(0, 10), (1, 10), (10, 10), (11, 10), (1000, 300), (1024, 880)])
def test_chunks_cover_all_queries_and_none_is_too_large(total, most):
    chunks = threads.cut(total, most)
    assert [n for chunk in chunks for n in range(chunk.start, chunk.stop)] == list(range(total))
    assert all(0 < chunk.stop - chunk.start <= most for chunk in chunks)
