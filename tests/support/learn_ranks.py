"""Runs global losses on spawned gloo ranks, for tests that compare N workers with one."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support import learn_oracle as oracle
from support.learn_oracle import Labelled
from torch import Tensor

from metric_core.learn.collective import World, all_gather_ids
from metric_core.learn.objective import Objective
from metric_core.learn.step import global_loss, new_memory


@dataclass(frozen=True)
class Result:
    """One case's loss and gradients, for the whole global batch."""

    value: Tensor
    input_grad_BD: Tensor
    weight_grad_DD: Tensor
    health: dict[str, Tensor]


def net(dim: int, device: str) -> torch.nn.Linear:
    """The same small model on every rank."""
    layer = torch.nn.Linear(dim, dim, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(dim) + 0.1 * torch.sin(torch.arange(dim * dim).view(dim, dim)))
        layer.bias.zero_()
    return layer.to(device)


def one_case(objective: Objective, batch: Labelled, sizes: list[int], world: World, *, device: str = "cpu") -> Result:
    """This rank's part of the batch through the model and the loss, gradients averaged as DDP does."""
    emb_BD, label, face_id = batch
    start = sum(sizes[: world.rank])
    own = slice(start, start + sizes[world.rank])
    x_LD = emb_BD[own].to(device, copy=True).requires_grad_()
    layer = net(emb_BD.shape[1], device)
    ids = torch.tensor(face_id[own], dtype=torch.int64, device=device)
    out_LD = torch.nn.functional.normalize(layer(x_LD))
    outcome = global_loss(
        objective,
        world,
        out_LD,
        torch.tensor(label[own], dtype=torch.int64, device=device),
        ids,
        seed=oracle.SEED,
        step=oracle.STEP,
        view_L=ids % 2,
    )
    outcome.loss.backward()
    weight_grad = layer.weight.grad
    if world.size > 1:
        dist.all_reduce(weight_grad)
        weight_grad /= world.size
    # the input's gradient is W times the row's part of ∇L; DDP would divide by W when it averages
    health = {name: figure.cpu() for name, figure in outcome.health.items()}
    return Result(outcome.value.cpu(), x_LD.grad.cpu() / world.size, weight_grad.cpu(), health)


def shares(n_rows: int, n_ranks: int) -> list[list[int]]:
    """A split as even as possible, and an uneven one where the first rank holds few rows or none."""
    even = [n_rows // n_ranks + (r < n_rows % n_ranks) for r in range(n_ranks)]
    uneven = [0] * n_ranks
    for row in range(n_rows):
        uneven[max(1, n_ranks - 1 - row * row % (n_ranks + 1)) % n_ranks] += 1
    return [even, uneven]


def memory_case(objective: Objective, batches: list[Labelled], sizes: list[list[int]], world: World) -> list[Tensor]:
    """Some steps with a memory: every step's value and gathered gradient, and the memory at the end."""
    memory = new_memory(objective, 5, world, torch.float64, "cpu")
    figures: list[Tensor] = []
    for step, ((emb_BD, label, face_id), size) in enumerate(zip(batches, sizes)):
        start = sum(size[: world.rank])
        own = slice(start, start + size[world.rank])
        x_LD = emb_BD[own].clone().requires_grad_()
        ids = torch.tensor(face_id[own], dtype=torch.int64)
        labels = torch.tensor(label[own], dtype=torch.int64)
        how = {"seed": 3, "step": step, "view_L": ids % 2, "memory": memory, "asks": world.rank == step % world.size}
        outcome = global_loss(objective, world, x_LD, labels, ids, **how)
        outcome.loss.backward()
        assert int(outcome.asked) == 1  # on every rank, whichever asks
        figures += [outcome.value, all_gather_ids(x_LD.grad / world.size, world)]
    return [*figures, *(value.double() for value in memory.state_dict().values())]


def run(cases: list[tuple[Objective, Labelled, list[int]]], n_ranks: int, device: str) -> list[Result]:
    """Each case on ``n_ranks`` processes, of which rank r holds ``sizes[r]`` rows; the parts are joined."""
    joined = []
    for results in zip(*spawn(partial(one_case, device=device), cases, n_ranks)):
        for other in results[1:]:
            assert torch.equal(results[0].value, other.value)
            assert results[0].health.keys() == other.health.keys()
            for name, figure in results[0].health.items():
                assert torch.equal(figure.nan_to_num(-1), other.health[name].nan_to_num(-1)), name
        grads = torch.cat([result.input_grad_BD for result in results])
        joined.append(Result(results[0].value, grads, results[0].weight_grad_DD, results[0].health))
    return joined


def run_memory(cases: list[tuple[Objective, list[Labelled], list[list[int]]]], n_ranks: int) -> list[list[Tensor]]:
    """``memory_case`` for each case, checked to be the same on every rank."""
    parts = spawn(memory_case, cases, n_ranks)
    for results in zip(*parts):
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other))
    return parts[0]


def spawn(function: Callable[..., Any], cases: list[Any], n_ranks: int) -> list[list[Any]]:
    """What each rank's ``function(*case, …)`` returned for each case; raises if a rank fails or hangs."""
    with tempfile.TemporaryDirectory() as folder:
        context = mp.spawn(_rank, args=(folder, n_ranks, function, cases), nprocs=n_ranks, join=False)
        deadline = time.monotonic() + 300
        while not context.join(timeout=5):  # returns early whenever one rank ends
            if time.monotonic() > deadline:
                for process in context.processes:
                    process.kill()
                raise TimeoutError(f"{n_ranks} ranks were not done after 300 s")
        return [torch.load(Path(folder) / f"{r}.pt", weights_only=False) for r in range(n_ranks)]


def _rank(rank: int, folder: str, n_ranks: int, function: Callable[..., Any], cases: list[Any]) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), n_ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=n_ranks, timeout=timedelta(seconds=60))
    world = World.current()
    results = [function(*case, world) for case in cases]
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
