"""The ring form of a global batch: distances to every worker's rows without ever holding those rows.

Each worker's rows go once round the ring for the distances, and once more, with their gradient growing on the
way, for the backward. A worker holds two shards at a time and its own L × R distances, instead of R × D rows:
less when R is large beside L. The result is that of ``stream.BatchReferences``.

Shape letters: L local rows, R rows of all workers, S rows of a visiting shard, A anchors of a block, D columns.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from metric_core.learn.collective import World, pass_on
from metric_core.learn.distance import Distance, add_block_gradient, block_distance


class RingReferences:
    """The ``stream.References`` of a batch whose rows stay with their workers."""

    def __init__(self, emb_LD: Tensor, counts: list[int], world: World, distance: Distance) -> None:
        """``counts`` says how many rows each worker holds, in rank order; every worker calls all methods."""
        self._input, self._x_LD = emb_LD, emb_LD.detach()
        self._counts, self._world, self._distance = counts, world, distance
        self._grad_LD = torch.zeros_like(self._x_LD)

    def blocks(self) -> Iterable[slice]:
        return [slice(0, len(self._x_LD))]

    def distances(self, rows: slice) -> Tensor:
        columns: list[Tensor] = [self._x_LD] * self._world.size
        visitor = self._padded(self._x_LD)
        for hop in range(self._world.size):
            source = (self._world.rank - hop) % self._world.size
            shard_SD = visitor[: self._counts[source]]
            columns[source] = block_distance(self._x_LD, shard_SD, self._distance)
            if hop + 1 < self._world.size:
                visitor = pass_on(visitor, self._world)
        return torch.cat(columns, 1)

    def fold(self, rows: slice, weight_AR: Tensor) -> None:
        weights = weight_AR.split(self._counts, 1)
        visitor = self._padded(self._x_LD)
        # The gradient travels with its rows and is home again after as many hops as there are workers.
        grad = torch.zeros_like(visitor)
        for hop in range(self._world.size):
            source = (self._world.rank - hop) % self._world.size
            shard_SD, weight_AS = visitor[: self._counts[source]], weights[source]
            add_block_gradient(self._grad_LD, weight_AS, self._x_LD, shard_SD, self._distance)
            add_block_gradient(grad[: len(shard_SD)], weight_AS.T, shard_SD, self._x_LD, self._distance)
            visitor, grad = pass_on(visitor, self._world), pass_on(grad, self._world)
        self._grad_LD += grad[: len(self._x_LD)]

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        return [(self._input, self._grad_LD)]

    def _padded(self, x_LD: Tensor) -> Tensor:
        padded = x_LD.new_zeros(max(self._counts), x_LD.shape[1])
        padded[: len(x_LD)] = x_LD
        return padded
