import pytest

from metric_core.index.cost import work
from metric_core.index.spec import IndexSpec

ROWS = 1_000_000


def of(code, *, dim=128, rows=ROWS, nprobe=64, depth=0, shards=1):
    return work(IndexSpec(dim, f"IVF4096,{code}"), rows, nprobe, depth, shards=shards)


CODES = ["Flat", "SQfp16", "SQ8", "PQ32x4fsr", "RaBitQfs", "RaBitQfs2", "RaBitQfs4,Refine(SQ8)"]


@pytest.mark.parametrize("code", CODES)
def test_more_rows_lists_components_or_shards_cost_more(code):
    base = of(code)
    assert of(code, rows=2 * ROWS) > base
    assert of(code, nprobe=128) > base
    assert of(code, dim=256) > base
    assert of(code, shards=8) > base


@pytest.mark.parametrize("refine", ["SQfp16", "SQ8"])
def test_each_candidate_that_is_refined_costs_the_same_and_a_wider_one_more(refine):
    at = [of(f"PQ32x4fsr,Refine({refine})", depth=depth) for depth in (0, 100, 200)]
    assert at[0] == of("PQ32x4fsr")
    assert at[2] - at[1] == pytest.approx(at[1] - at[0])
    assert at[1] > at[0]
    assert of("PQ32x4fsr,Refine(SQfp16)", depth=100) > of("PQ32x4fsr,Refine(SQ8)", depth=100)


@pytest.mark.parametrize(
    ("dim", "order"),
    [
        (128, "PQ16x4fsr PQ32x4fsr PQ64x4fsr RaBitQfs SQfp16 SQ8 Flat RaBitQfs2 RaBitQfs3 RaBitQfs4"),
        (512, "PQ16x4fsr PQ32x4fsr PQ64x4fsr RaBitQfs SQfp16 RaBitQfs2 SQ8 Flat RaBitQfs3 RaBitQfs4"),
    ],
)
def test_codes_rank_as_they_were_measured_in_long_lists(dim, order):
    costs = [of(code, dim=dim, rows=1000 * ROWS) for code in order.split()]
    assert costs == sorted(costs)


@pytest.mark.parametrize("bits", range(2, 9))
def test_another_bit_never_costs_less(bits):
    before = "RaBitQfs" if bits == 2 else f"RaBitQfs{bits - 1}"
    assert of(f"RaBitQfs{bits}") > of(before)


def test_exact_scans_cost_alike_and_lists_cost_less_once_few_are_scanned():
    exact = work(IndexSpec(128, "Flat"), ROWS, None, 0)
    assert work(IndexSpec(128, "SQ8"), ROWS, None, 0) == exact
    assert of("PQ32x4fsr,Refine(SQfp16)", nprobe=128, depth=200) < exact / 3
    assert of("Flat", nprobe=4096) > exact  # a matrix product is faster per row than a list is
