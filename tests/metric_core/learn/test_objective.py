"""What an objective refuses, and the schedule that moves between objectives."""

import pytest
import torch

from metric_core.errors import ConfigError
from metric_core.learn.objective import Objective
from metric_core.learn.schedule import Hardening, HardeningState


def test_all_problems_come_in_one_error() -> None:
    with pytest.raises(ConfigError, match="loss is 'arcface'") as raised:
        Objective(loss="arcface", margin=5.0, temperature=0.0, form="soft", reduction="active")
    assert len(str(raised.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("distance", "margin", "good"),
    [
        ("euclidean", 1.99, True),
        ("euclidean", 2.0, False),
        ("squared-euclidean", 3.99, True),
        ("squared-euclidean", 4.0, False),
        ("cosine", 1.99, True),
        ("cosine", 2.0, False),
        ("cosine", 0.0, False),
        ("cosine", float("nan"), False),
    ],
)
def test_margin_must_lie_inside_the_distance(distance: str, margin: float, good: bool) -> None:
    if good:
        assert Objective(distance=distance, margin=margin).margin == margin
    else:
        with pytest.raises(ConfigError, match="margin"):
            Objective(distance=distance, margin=margin)


@pytest.mark.parametrize("miner", ["semi-hard", "multi-similarity"])
def test_miner_must_fit_the_loss(miner: str) -> None:
    with pytest.raises(ConfigError, match="with loss softall it must be one of auto, all"):
        Objective(loss="softall", miner=miner)


def test_schedule_switches_once_when_few_triplets_are_active() -> None:
    schedule = Hardening(below=0.3, memory=0.5, margin_factor=1.5)
    state, seen = HardeningState(), []
    for active in (0.8, 0.4, 0.1, 0.0, 0.9, 0.9):
        seen.append(schedule.objective(Objective(margin=0.2), state))
        state = schedule.update(state, {"active_fraction": torch.tensor(active)})
    assert [objective.pairs for objective in seen] == ["semi-hard"] * 4 + ["batch-hard"] * 2
    assert seen[-1].margin == pytest.approx(0.3)
    with pytest.raises(ConfigError, match="triplet"):
        schedule.objective(Objective(loss="softall"), state)
