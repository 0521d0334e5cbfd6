import pytest

from metric_core.sampling.sharding import share


@pytest.mark.parametrize(
    ("total", "size", "expected"),
    [(6, 3, [2, 2, 2]), (7, 3, [2, 2, 3]), (2, 4, [0, 1, 0, 1]), (5, 1, [5]), (0, 2, [0, 0])],
)
def test_share(total: int, size: int, expected: list[int]) -> None:
    shares = [share(total, rank, size) for rank in range(size)]
    assert [s.stop - s.start for s in shares] == expected
    assert [s.start for s in shares[1:]] == [s.stop for s in shares[:-1]]
