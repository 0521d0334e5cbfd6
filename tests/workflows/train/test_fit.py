"""What a training leaves of its environment."""

import os

import pytest

from workflows.shared import cluster
from workflows.train import fit
from workflows.train.config import TrainConfig


@pytest.mark.parametrize(
    ("workers", "before", "inside"),
    [
        ("1:2", cluster.QUIET[fit.START_TIMEOUT], fit.SHRINK_S),
        ("2", cluster.QUIET[fit.START_TIMEOUT], cluster.QUIET[fit.START_TIMEOUT]),
        ("1:2", "7", "7"),
    ],
)
def test_only_an_elastic_training_waits_less_for_nodes_and_no_later_one(
    workers: str, before: str, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fit.START_TIMEOUT, before)
    with fit._start_timeout(TrainConfig(faces="f", out="o", workers=workers)):
        assert os.environ[fit.START_TIMEOUT] == inside
    assert os.environ[fit.START_TIMEOUT] == before
