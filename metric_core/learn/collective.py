"""Exchange of rows between workers, exact in both directions: the only owner of ``torch.distributed``.

A worker's rows are gathered in rank order and the gradient of the gathered matrix comes back as a
reduce-scatter *sum*, without any factor of the world size. What is mined or computed on the gathered
rows is in the other modules. A world of one never touches ``torch.distributed``.

Shape letters: L rows of this worker, R rows of all workers in rank order, W workers, D columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This worker's rank and the number of workers. Found once and passed as a value."""

    rank: int
    """This worker's number, 0 to size − 1."""
    size: int
    """Number of workers, at least 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank {self.rank} is outside a world of {self.size}")

    @classmethod
    def current(cls) -> World:
        """The world of the initialised process group, or a world of one without a group."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls(0, 1)


def row_counts(n_rows: int, world: World, device: torch.device | str = "cpu") -> list[int]:
    """How many rows each worker holds, in rank order; ``n_rows`` is this worker's own count."""
    if world.size == 1:
        return [n_rows]
    own = torch.tensor([n_rows], dtype=torch.int64, device=device)
    counts = [torch.empty_like(own) for _ in range(world.size)]
    dist.all_gather(counts, own)
    return [int(count) for count in counts]


def all_gather_rows(x_LD: Tensor, counts: list[int], world: World) -> Tensor:
    """Every worker's rows, (R, D), in rank order; ``counts`` says how many rows each worker holds, 0 allowed.

    Differentiable: the gradient of a worker's rows is the sum of the gradients that all workers have for them.
    """
    if world.size == 1:
        return x_LD
    gathered_RD: Tensor = _AllGatherRows.apply(x_LD, tuple(counts), world)  # type: ignore[no-untyped-call]  # torch's
    return gathered_RD


def all_gather_ids(id_L: Tensor, world: World, counts: list[int] | None = None) -> Tensor:
    """Every worker's labels, face_ids or other gradient-free rows, (R, …), in rank order.

    ``counts`` says how many rows each worker holds; if it is None, the workers exchange their counts first.
    """
    if world.size == 1:
        return id_L.detach()
    return _gather(id_L.detach(), counts or row_counts(len(id_L), world, id_L.device), world)


def all_reduce_sum(t: Tensor, world: World) -> Tensor:
    """The elementwise sum of ``t`` over workers, detached; the same bits on every worker."""
    total = t.detach().clone()
    if world.size > 1:
        dist.all_reduce(total)
    return total


def reduce_scatter_rows(x_RD: Tensor, counts: list[int], world: World) -> Tensor:
    """This worker's slice, (L, D), of the sum over workers of ``x_RD``; ``counts`` rows go to each rank."""
    if world.size == 1:
        return x_RD
    longest = max(counts)
    padded = x_RD.new_zeros(world.size, longest, *x_RD.shape[1:])
    for rank, rows in enumerate(x_RD.split(counts)):
        padded[rank, : len(rows)] = rows
    own = torch.empty_like(padded[0])
    dist.reduce_scatter(own, list(padded.unbind(0)))
    return own[: counts[world.rank]]


def exchange(sent: list[Tensor], rows: list[int], columns: list[int], world: World) -> list[Tensor]:
    """Sends ``sent[w]`` to worker w, and returns the matrix received from each worker, in rank order.

    The matrix from worker w has shape (rows[w], columns[w]); the receiver must know it. No gradient.
    """
    if world.size == 1:
        return sent
    sizes = [r * c for r, c in zip(rows, columns)]
    received = sent[0].new_empty(sum(sizes))
    flat = torch.cat([matrix.reshape(-1) for matrix in sent])
    dist.all_to_all_single(received, flat, sizes, [matrix.numel() for matrix in sent])
    return [part.view(r, c) for part, r, c in zip(received.split(sizes), rows, columns)]


def _gather(x_LD: Tensor, counts: list[int], world: World) -> Tensor:
    # gloo aborts the process on an all_gather of different sizes, so equal, padded slots are exchanged and cut.
    slots = [x_LD.new_empty(max(counts), *x_LD.shape[1:]) for _ in counts]
    own = x_LD.new_zeros(slots[0].shape)
    own[: len(x_LD)] = x_LD
    dist.all_gather(slots, own)
    return torch.cat([slot[:count] for slot, count in zip(slots, counts)])


class _AllGatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_LD: Tensor, counts: tuple[int, ...], world: World) -> Tensor:
        ctx.counts, ctx.world = list(counts), world
        return _gather(x_LD, ctx.counts, world)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad_RD,) = grads
        return reduce_scatter_rows(grad_RD, ctx.counts, ctx.world), None, None
