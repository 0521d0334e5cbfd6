"""Effective rank, spreads, gradient norm and the collapse sentinel."""

import math

import pytest
import torch

from metric_core.learn.collapse import Collapse
from metric_core.learn.distance import pair_distance
from metric_core.learn.health import effective_rank, gradient_norm, spread
from metric_core.learn.objective import Distance


def test_effective_rank_counts_directions() -> None:
    axes_RD = torch.eye(6, dtype=torch.float64)[:3].repeat(20, 1)
    axes_RD = torch.cat([axes_RD, -axes_RD])
    assert float(effective_rank(axes_RD)) == pytest.approx(3.0)


@pytest.mark.parametrize("n_rows", [0, 1, 2, 50])
def test_effective_rank_of_one_point_is_zero(n_rows: int) -> None:
    row_D = torch.nn.functional.normalize(torch.arange(1.0, 9.0), dim=0)
    assert float(effective_rank(row_D.repeat(n_rows, 1))) == 0.0


def test_spread_of_nothing_is_nan_and_of_something_is_not() -> None:
    assert all(math.isnan(value) for value in spread("d", torch.zeros(0)).values())
    figures = spread("d", torch.arange(11.0))
    assert {name: float(value) for name, value in figures.items()} == {
        "d_mean": 5.0,
        "d_q10": 1.0,
        "d_q50": 5.0,
        "d_q90": 9.0,
    }


def test_gradient_norm_is_over_all_parameters() -> None:
    parameters = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    parameters[0].grad, parameters[2].grad = torch.tensor([0.0, 3.0]), torch.tensor([4.0, 0.0])
    assert float(gradient_norm(parameters)) == 5.0
    assert float(gradient_norm([])) == 0.0


def test_collapse_is_warned_of_once_when_the_patience_is_reached() -> None:
    sentinel = Collapse(patience=3)
    healthy = {"effective_rank": torch.tensor(40.0), "d_an_q50": torch.tensor(0.8)}
    point = {"effective_rank": torch.tensor(0.0), "d_an_q50": torch.tensor(1e-4)}
    streak, warned = 0, []
    for health in (point, point, healthy, point, point, point, point):
        streak, warning = sentinel.watch(streak, health, "euclidean")
        warned.append(warning is not None)
    assert warned == [False] * 5 + [True, False]


@pytest.mark.parametrize("distance", ["euclidean", "squared-euclidean", "cosine"])
@pytest.mark.parametrize(("angle", "collapsed"), [(0.0, True), (0.04, True), (0.06, False)])
def test_collapse_is_the_same_in_every_distance(distance: Distance, angle: float, collapsed: bool) -> None:
    x_PD = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    y_PD = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    nearest = pair_distance(x_PD, torch.tensor([0]), y_PD, torch.tensor([0]), distance)[0]
    health = {"effective_rank": torch.tensor(40.0), "d_an_q50": nearest}
    assert (Collapse(patience=1).watch(0, health, distance)[1] is not None) == collapsed


def test_batch_without_negatives_is_not_a_collapse() -> None:
    health = {"effective_rank": torch.tensor(40.0), "d_an_q50": torch.tensor(math.nan)}
    assert Collapse(patience=1).watch(0, health, "cosine") == (0, None)
