"""Figures of an embed job: totals, the slowest stage, and what the rest would take."""

import pytest

from metric_core.errors import TooManyBadImages
from workflows.embed.progress import REMEDIES, Books, Pools, estimate
from workflows.embed.units import Record
from workflows.embed.worker import STAGES, Sample


def record(rows: int, rejected: int = 0, **seconds: float) -> Record:
    return Record(rows, "x", {"empty": rejected} if rejected else {}, None, "x", dict.fromkeys(STAGES, 0.0) | seconds)


@pytest.mark.parametrize(
    ("pools", "seconds", "wall", "slowest"),
    [
        (Pools(2, 0), {"read": 1, "decode": 3, "forward": 4, "write": 2}, 5, "forward"),
        (Pools(2, 0), {"read": 1, "decode": 6, "forward": 4, "write": 1}, 6, "decode"),
        # One actor and four decoders: 4 s of network against 2 s of decoding ahead of it.
        (Pools(1, 4), {"read": 2, "decode": 6, "forward": 4, "write": 0}, 4, "forward"),
        (Pools(1, 4), {"read": 20, "decode": 12, "forward": 4, "write": 1}, 8, "read"),
        (Pools(1, 4), {"read": 0, "decode": 4, "forward": 1, "write": 3}, 4, "write"),
    ],
)
def test_where_the_time_goes(pools: Pools, seconds: dict[str, float], wall: float, slowest: str) -> None:
    assert pools.wall(seconds) == pytest.approx(wall)
    assert pools.slowest(seconds) == slowest
    assert slowest in REMEDIES


def test_totals_rates_and_the_line() -> None:
    books = Books(100, Pools(1, 0))
    books.enter(record(30, 10), last=False)
    assert (books.done, books.fresh) == (30, 0), "rejects that are retried are not done"
    assert books.note(5.0) == "0 rejects"
    books.enter(record(8, 2, decode=1.0, forward=3.0), fresh=True)
    assert (books.done, books.embedded, books.rejected, books.fresh) == (40, 38, 2, 10)
    assert books.figures(5.0) | {"seconds/read": 0} == {
        "done": 40,
        "images_per_second": 2.0,
        "rejected": 2,
        "seconds/read": 0,
        "seconds/decode": 1.0,
        "seconds/forward": 3.0,
        "seconds/write": 0.0,
    }
    assert books.note(5.0) == "2/s, 2 rejects, forward slowest"
    assert books.breakdown() == (
        f"time went to read 0%, decode 25%, forward 75%, write 0%; to go faster: {REMEDIES['forward']}"
    )


def test_a_slow_start_is_no_division_by_zero() -> None:
    books = Books(10_000_000, Pools(1, 0))
    books.enter(record(1), fresh=True)
    assert books.note(0.0).startswith("0/s, 0 rejects")


def test_too_many_rejects_are_refused_with_the_figures() -> None:
    books = Books(100, Pools(1, 0))
    books.enter(record(10, 2), fresh=True)
    books.refuse_bad(0.02, "out")
    with pytest.raises(TooManyBadImages, match=r"2 of 100 faces cannot be embedded \(empty 2\).*1\.00%.*--retry-quar"):
        books.refuse_bad(0.01, "out")


def test_estimates_scale_with_the_pools_and_cost_follows() -> None:
    sample = Sample(90, 10, 45_000, 1.0, {"read": 0.0, "decode": 1.0, "forward": 3.0, "write": 0.0})
    found = estimate(sample, 360_000, Pools(4, 0), 5.0)
    assert found == {
        "bytes": 162_000_000,
        "seconds": 3600.0,
        "images_per_second": 100.0,
        "slowest": "forward",
        "cost": 5.0,
    }
    assert estimate(sample, 360_000, Pools(4, 1), None)["slowest"] == "decode"
