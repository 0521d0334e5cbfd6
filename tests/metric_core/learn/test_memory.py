"""The cross-batch memory against a plain list, over several steps, on one process and on several."""

from __future__ import annotations

import pytest
import torch
from support import learn_oracle as oracle
from support import learn_ranks as ranks
from torch import Tensor

from metric_core.errors import ConfigError
from metric_core.learn.collective import World
from metric_core.learn.memory import CrossBatchMemory
from metric_core.learn.objective import Objective
from metric_core.learn.step import global_loss, new_memory

ONE = World(0, 1)
OBJECTIVES = [
    Objective(distance=distance, margin=0.37, temperature=0.2, memory_rows=17, memory_max_age=2, **more)
    for distance in ("euclidean", "squared-euclidean", "cosine")
    for more in (
        {"loss": "softall", "memory_weight": 0.3},
        {"loss": "contrastive"},
        {"loss": "multi-similarity", "beta": 10.0},
        {"loss": "multi-view"},
        {"loss": "triplet", "miner": "all"},
        {"loss": "triplet", "miner": "batch-hard", "hardest_from_memory": True},
    )
]


def steps() -> list[oracle.Labelled]:
    """Batches of one run: the same faces come back in other batches, with other embeddings."""
    names = ("random", "one singleton", "duplicates", "tie-heavy", "random")
    batches = []
    for seed, name in enumerate(names):
        emb_BD, label, face_id = oracle.batches(seed)[name]
        emb_BD = torch.nn.functional.normalize(torch.nn.functional.pad(emb_BD, (0, 5 - emb_BD.shape[1])), dim=1)
        batches.append((emb_BD, label, [i % 40 for i in face_id] if seed % 2 else face_id))
    return batches


@pytest.mark.parametrize("objective", OBJECTIVES, ids=oracle.name)
def test_memory_equals_a_plain_list(objective: Objective) -> None:
    memory = new_memory(objective, 5, ONE, torch.float64, "cpu")
    rows: list[tuple[Tensor, int, int, int]] = []
    for step, (emb_BD, label, face_id) in enumerate(steps()):
        if step == 3:
            emb_BD = emb_BD[:0]  # an empty step, in which the rows only age
            label, face_id = [], []
        ours_BD, theirs_BD = emb_BD.clone().requires_grad_(), emb_BD.clone().requires_grad_()
        ids = torch.tensor(face_id, dtype=torch.int64)
        labels = torch.tensor(label, dtype=torch.int64)
        outcome = global_loss(objective, ONE, ours_BD, labels, ids, seed=3, step=step, view_L=ids % 2, memory=memory)
        outcome.loss.backward()
        young = [row for row in rows if step - row[3] <= 2]
        expected = oracle.loss(objective, theirs_BD, label, face_id)
        expected = expected + objective.memory_weight * oracle.memory_loss(objective, theirs_BD, label, face_id, young)
        expected.backward()
        assert oracle.close(outcome.value, expected.detach())
        assert oracle.close(ours_BD.grad, theirs_BD.grad, 1e-11)
        assert int(outcome.health["memory_rows"]) == len(young)
        rows = (rows + [(e, y, i, step) for e, y, i in zip(emb_BD, label, face_id)])[-17:]


@pytest.mark.parametrize(
    "n_ranks", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_memory_on_workers_equals_one_process(n_ranks: int) -> None:
    cases = []
    for i, objective in enumerate(OBJECTIVES[6 * n_ranks - 12 : 6 * n_ranks - 6]):  # every loss, one distance
        split = [ranks.shares(len(label), n_ranks)[(i + step) % 2] for step, (_, label, _) in enumerate(steps())]
        cases.append((objective, steps(), split))
    for case, actual in zip(cases, ranks.run_memory(cases, n_ranks)):
        expected = ranks.memory_case(*case[:2], [[len(label)] for _, label, _ in case[1]], ONE)
        for ours, theirs in zip(actual, expected):
            assert oracle.close(ours, theirs), case[0]


def test_memory_resumes_exactly_from_its_checkpoint() -> None:
    objective = OBJECTIVES[0]
    emb_BD, label, face_id = oracle.batches()["random"]
    arguments = emb_BD, torch.tensor(label), torch.tensor(face_id)
    memory = new_memory(objective, 5, ONE, torch.float64, "cpu")
    for step in range(3):
        global_loss(objective, ONE, *arguments, seed=0, step=step, memory=memory)
    saved = memory.state_dict()
    first = [global_loss(objective, ONE, *arguments, seed=0, step=step, memory=memory).value for step in range(3, 6)]
    again = new_memory(objective, 5, ONE, torch.float64, "cpu")
    again.load_state_dict(saved)  # a copy, without the steps since then
    second = [global_loss(objective, ONE, *arguments, seed=0, step=step, memory=again).value for step in range(3, 6)]
    assert first == second
    for name, value in memory.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_checkpoint_of_another_memory_is_refused() -> None:
    state = CrossBatchMemory(8, 4, ONE).state_dict()
    with pytest.raises(ValueError, match=r"\(8, 4\); \(9, 4\) was expected"):
        CrossBatchMemory(9, 4, ONE).load_state_dict(state)


def test_the_last_rows_of_a_batch_larger_than_the_memory_are_kept() -> None:
    memory = CrossBatchMemory(3, 2, ONE, dtype=torch.float64)
    emb_RD = torch.arange(10, dtype=torch.float64).view(5, 2)
    memory.enqueue(emb_RD, torch.arange(5), torch.arange(5), step=0)
    assert sorted(memory.face_id_M.tolist()) == [2, 3, 4]
    assert memory.emb_OD[memory.face_id_M.argsort()].tolist() == emb_RD[2:].tolist()


@pytest.mark.parametrize("miner", ["batch-hard", "semi-hard"])
def test_hardest_from_a_stale_memory_is_refused_unless_asked_for(miner: str) -> None:
    with pytest.raises(ConfigError, match="memory"):
        Objective(miner=miner, memory_rows=100)
