"""The slowest stage of an embed job, and the estimate of the whole."""

import pytest

from metric_core.errors import DataError
from workflows.embed.throughput import REMEDIES, PoolSizes, estimate
from workflows.embed.worker import Sample


@pytest.mark.parametrize(
    ("sizes", "seconds", "wall", "slowest"),
    [
        (PoolSizes(2, 0), {"read": 1, "decode": 3, "forward": 4, "write": 2}, 5, "forward"),
        (PoolSizes(2, 0), {"read": 1, "decode": 6, "forward": 4, "write": 1}, 6, "decode"),
        # One actor and four decoders: 4 s of network per process, and 2 s of decoding before it.
        (PoolSizes(1, 4), {"read": 2, "decode": 6, "forward": 4, "write": 0}, 4, "forward"),
        (PoolSizes(1, 4), {"read": 20, "decode": 12, "forward": 4, "write": 1}, 8, "read"),
        (PoolSizes(1, 4), {"read": 0, "decode": 4, "forward": 1, "write": 3}, 4, "write"),
    ],
)
def test_where_the_time_goes(sizes: PoolSizes, seconds: dict[str, float], wall: float, slowest: str) -> None:
    assert sizes.wall(seconds) == pytest.approx(wall)
    assert sizes.slowest(seconds) == slowest
    assert slowest in REMEDIES


def test_estimates_scale_with_the_pools_and_cost_follows() -> None:
    sample = Sample(90, 10, 45_000, 1.0, {"read": 0.0, "decode": 1.0, "forward": 3.0, "write": 0.0})
    found = estimate(sample, 360_000, PoolSizes(4, 0), 5.0)
    assert found == {
        "bytes": 162_000_000,
        "seconds": 3600.0,
        "images_per_second": 100.0,
        "slowest": "forward",
        "cost": 5.0,
    }
    assert estimate(sample, 360_000, PoolSizes(4, 1), None)["slowest"] == "decode"


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(DataError, match="the sample holds no faces to measure; check --faces and --split"):
        estimate(Sample(0, 0, 0, 1.0, dict.fromkeys(REMEDIES, 0.0)), 10, PoolSizes(1, 0), None)
