"""N workers train like one: values and gradients at W in {1, 2, 3, 4}, with even and uneven shares."""

import pytest
import torch
from support import learn_oracle as oracle
from support import learn_ranks as ranks

from metric_core.learn.collective import World
from metric_core.learn.objective import Objective

WHICH = ("random", "duplicates", "one singleton", "singletons", "all identical", "tie-heavy")

Case = tuple[Objective, oracle.Labelled, list[int]]


def compare(cases: list[Case], n_ranks: int, device: str = "cpu") -> None:
    """Each case on workers against one process on a CPU."""
    for (objective, batch, sizes), actual in zip(cases, ranks.run(cases, n_ranks, device)):
        expected = ranks.one_case(objective, batch, [len(batch[1])], World(0, 1))
        where = f"{objective} {sizes}"
        assert oracle.close(actual.value, expected.value), where
        assert oracle.close(actual.input_grad_BD, expected.input_grad_BD), where
        assert oracle.close(actual.weight_grad_DD, expected.weight_grad_DD), where
        for figure, value in expected.health.items():
            assert oracle.close(actual.health[figure].nan_to_num(-1), value.nan_to_num(-1)), (where, figure)


@pytest.mark.parametrize(("n_ranks", "every"), [(2, 2), (3, 7), (4, 7)])
def test_objectives_on_workers_equal_one_process(n_ranks: int, every: int) -> None:
    cases: list[Case] = []
    for i, objective in enumerate(oracle.objectives()[::every]):
        batch = oracle.batches()[WHICH[(i + n_ranks) % len(WHICH)]]
        cases.append((objective, batch, ranks.shares(len(batch[1]), n_ranks)[i // len(WHICH) % 2]))
    compare(cases, n_ranks)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here to compare with the CPU")
@pytest.mark.parametrize("n_ranks", [1, 2])
def test_objectives_on_a_gpu_equal_one_process_on_a_cpu(n_ranks: int) -> None:
    """Two workers share the card; gloo carries what NCCL carries between cards."""
    batch = oracle.batches()["random"]
    share = ranks.shares(len(batch[1]), n_ranks)[0]
    compare([(objective, batch, share) for objective in oracle.objectives()], n_ranks, device="cuda")


@pytest.mark.slow
@pytest.mark.parametrize(
    "n_ranks", [2, pytest.param(3, marks=pytest.mark.long), pytest.param(4, marks=pytest.mark.long)]
)
def test_every_objective_batch_and_share_on_workers_equals_one_process(n_ranks: int) -> None:
    compare(
        [
            (objective, batch, sizes)
            for objective in oracle.objectives()
            for batch in (oracle.batches()[kind] for kind in WHICH)
            for sizes in ranks.shares(len(batch[1]), n_ranks)
        ],
        n_ranks,
    )
