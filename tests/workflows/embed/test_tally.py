"""Totals of an embed job, its figures, and the limit on rejects."""

import pytest

from metric_core.errors import TooManyBadImages
from workflows.embed.tally import Tally
from workflows.embed.throughput import REMEDIES, PoolSizes
from workflows.embed.units import STAGES, UnitRecord


def record(rows: int, rejected: int = 0, **seconds: float) -> UnitRecord:
    return UnitRecord(
        rows, "x", {"empty": rejected} if rejected else {}, None, "x", dict.fromkeys(STAGES, 0.0) | seconds
    )


def test_totals_rates_and_the_line() -> None:
    tally = Tally(100, PoolSizes(1, 0))
    tally.add(record(30, 10), last=False)
    assert (tally.done, tally.fresh) == (30, 0), "rejects that are retried are not done"
    assert tally.note(5.0) == "0 rejects"
    tally.add(record(8, 2, decode=1.0, forward=3.0), fresh=True)
    assert (tally.done, tally.embedded, tally.rejected, tally.fresh) == (40, 38, 2, 10)
    assert tally.figures(5.0) | {"seconds/read": 0} == {
        "done": 40,
        "images_per_second": 2.0,
        "rejected": 2,
        "seconds/read": 0,
        "seconds/decode": 1.0,
        "seconds/forward": 3.0,
        "seconds/write": 0.0,
    }
    assert tally.note(5.0) == "2/s, 2 rejects, forward slowest"
    assert tally.sizes.advice(tally.seconds) == (
        f"time went to read 0%, decode 25%, forward 75%, write 0%; to go faster: {REMEDIES['forward']}"
    )


def test_a_slow_start_is_no_division_by_zero() -> None:
    tally = Tally(10_000_000, PoolSizes(1, 0))
    tally.add(record(1), fresh=True)
    assert tally.note(0.0).startswith("0/s, 0 rejects")


def test_too_many_rejects_are_refused_with_the_figures() -> None:
    tally = Tally(100, PoolSizes(1, 0))
    tally.add(record(10, 2), fresh=True)
    tally.require_few_rejects(0.02, "out/quarantine")
    with pytest.raises(TooManyBadImages, match=r"2 of 100 faces cannot be embedded \(empty 2\).*1\.00%.*--retry-quar"):
        tally.require_few_rejects(0.01, "out/quarantine")
