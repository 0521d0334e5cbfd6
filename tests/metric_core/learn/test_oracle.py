"""Every loss, distance and miner against triple loops in float64: values and gradients."""

import pytest
import torch
from support import learn_oracle as oracle

from metric_core.learn.collective import World
from metric_core.learn.objective import Objective
from metric_core.learn.step import global_loss


@pytest.mark.parametrize("kind", oracle.batches())
@pytest.mark.parametrize("objective", oracle.objectives(), ids=oracle.name)
def test_value_and_gradient_equal_the_loops(objective: Objective, kind: str) -> None:
    emb_BD, label, face_id = oracle.batches()[kind]
    ours_BD, theirs_BD = emb_BD.clone().requires_grad_(), emb_BD.clone().requires_grad_()
    outcome = global_loss(
        objective,
        World(0, 1),
        ours_BD,
        torch.tensor(label),
        torch.tensor(face_id),
        seed=oracle.SEED,
        step=oracle.STEP,
        view_L=torch.tensor(face_id) % 2,
    )
    outcome.loss.backward()
    expected = oracle.loss(objective, theirs_BD, label, face_id)
    expected.backward()
    assert oracle.close(outcome.value, expected.detach())
    assert oracle.close(outcome.loss.detach(), expected.detach())
    assert oracle.close(ours_BD.grad, theirs_BD.grad, 1e-11)
