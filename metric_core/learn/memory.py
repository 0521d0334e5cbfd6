"""Cross-batch memory: embeddings of earlier batches as further references, each worker holding its share.

Rows enter in the order of the global batch, so the memory is the same for every number of workers, and a
checkpoint holds all of it. The embeddings are stale, so rows older than a limit are not used, and
``objective.Objective`` refuses losses that use only the hardest of them unless they are asked for.

Source: Wang et al., "Cross-Batch Memory for Embedding Learning", CVPR 2020.

Shape letters: M rows of the memory, O rows of it on this worker, L local anchors, R rows of the global batch,
A anchors of a block, X anchors of a block on all workers, D columns.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from metric_core.learn.collective import World, all_gather_ids, exchange, reduce_scatter_rows
from metric_core.learn.distance import add_block_gradient, block_distance, row_blocks
from metric_core.learn.mining import GlobalBatch
from metric_core.learn.objective import Distance
from metric_core.learn.stream import BLOCK
from metric_core.sampling.sharding import share

_EMPTY = -1  # the step, and the ids, of a row that was never written


class CrossBatchMemory:
    """The last ``capacity`` rows. Embeddings are spread over workers; ids, steps and views are on every worker."""

    def __init__(
        self,
        capacity: int,
        dim: int,
        world: World,
        *,
        max_age: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """An empty memory of ``capacity`` rows; those older than ``max_age`` steps are not used (None: no limit).

        Raises ValueError for a ``capacity``, ``dim`` or ``max_age`` below 1.
        """
        if capacity < 1 or dim < 1 or (max_age is not None and max_age < 1):
            raise ValueError(f"capacity {capacity}, dim {dim} and max_age {max_age} must be at least 1")
        self.capacity, self.max_age, self._world = capacity, max_age, world
        parts = [share(capacity, rank, world.size) for rank in range(world.size)]
        self._sizes, self._start = [part.stop - part.start for part in parts], parts[world.rank].start
        self._written = 0
        self.emb_OD = torch.zeros(self._sizes[world.rank], dim, dtype=dtype, device=device)
        self.label_M, self.face_id_M, self.view_M = torch.full((3, capacity), _EMPTY, device=device)
        self.step_M = torch.full((capacity,), _EMPTY, device=device)

    def usable(self, step: int) -> Tensor:
        """Which rows hold an embedding that is not too old at ``step``, bool (M,)."""
        written_M = self.step_M != _EMPTY
        return written_M if self.max_age is None else written_M & (step - self.step_M <= self.max_age)

    def enqueue(
        self, emb_RD: Tensor, label_R: Tensor, face_id_R: Tensor, step: int, view_R: Tensor | None = None
    ) -> None:
        """Overwrites the oldest rows with those of the global batch; every worker passes the whole batch."""
        kept = slice(max(0, len(emb_RD) - self.capacity), None)
        emb_RD, label_R, face_id_R = emb_RD.detach()[kept], label_R[kept], face_id_R[kept]
        place_R = torch.arange(self._written, self._written + len(emb_RD), device=label_R.device) % self.capacity
        self.label_M[place_R], self.face_id_M[place_R], self.step_M[place_R] = label_R, face_id_R, step
        self.view_M[place_R] = 0 if view_R is None else view_R[kept]
        own_R = (place_R >= self._start) & (place_R < self._start + len(self.emb_OD))
        self.emb_OD[place_R[own_R] - self._start] = emb_RD[own_R].to(self.emb_OD.dtype)
        self._written = (self._written + len(emb_RD)) % self.capacity

    def as_batch(self, batch: GlobalBatch, step: int) -> GlobalBatch:
        """The anchors of ``batch`` with the memory's rows as references."""
        return GlobalBatch(
            anchor_LD=batch.anchor_LD,
            label_L=batch.label_L,
            face_id_L=batch.face_id_L,
            reference_RD=self.emb_OD,
            label_R=self.label_M,
            face_id_R=self.face_id_M,
            view_L=batch.view_L,
            view_R=self.view_M,
            usable_R=self.usable(step),
        )

    def references(self, batch: GlobalBatch, counts: list[int], distance: Distance) -> MemoryReferences:
        """Distances from the anchors of ``batch`` to all workers' rows of the memory; every worker calls it.

        ``counts`` is the number of anchors of each worker.
        """
        return MemoryReferences(batch, counts, self.emb_OD, self._sizes, self._world, distance)

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of all rows of all workers, for a checkpoint; every worker calls it and gets the same copy."""
        return {
            "emb": all_gather_ids(self.emb_OD, self._world).clone(),
            "label": self.label_M.clone(),
            "face_id": self.face_id_M.clone(),
            "view": self.view_M.clone(),
            "step": self.step_M.clone(),
            "written": torch.tensor(self._written),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Loads this worker's share of a checkpoint written by any number of workers.

        Raises ValueError when the checkpoint's memory has a different shape.
        """
        expected = (self.capacity, self.emb_OD.shape[1])
        if tuple(state["emb"].shape) != expected:
            raise ValueError(
                f"the memory in the checkpoint has shape {tuple(state['emb'].shape)}; {expected} was expected"
            )
        self.emb_OD.copy_(state["emb"][self._start : self._start + len(self.emb_OD)])
        self.label_M.copy_(state["label"])
        self.face_id_M.copy_(state["face_id"])
        self.view_M.copy_(state["view"])
        self.step_M.copy_(state["step"])
        self._written = int(state["written"])


class MemoryReferences:
    """The ``stream.References`` of a memory: each worker measures all workers' anchors against its own rows.

    Every worker already has all anchors, so only the distances are sent, to the worker that owns the anchor, and
    their derivatives back. With L anchors per worker that is L·M numbers each way; fetching the rows would be M·D.
    """

    def __init__(
        self, batch: GlobalBatch, counts: list[int], emb_OD: Tensor, sizes: list[int], world: World, distance: Distance
    ) -> None:
        self._anchor_LD, self._emb_OD = batch.anchor_LD, emb_OD.to(batch.anchor_LD.dtype)
        # The gathered batch has every worker's anchors, this worker's among them.
        self._x_RD = batch.reference_RD.detach()
        self._grad_RD = torch.zeros_like(self._x_RD)
        self._counts, self._sizes, self._world, self._distance = counts, sizes, world, distance
        self._starts = [sum(counts[:rank]) for rank in range(world.size)]
        self._runs: list[slice] = []  # of each worker, its rows of ``_x_RD`` that are in the current block

    def blocks(self) -> Iterable[slice]:
        own = self._counts[self._world.rank]
        for rows in row_blocks(max(self._counts), sum(self._sizes), self._emb_OD.device, BLOCK):
            # Workers with fewer anchors run out first; their slices are empty then.
            self._runs = [
                slice(start + min(rows.start, count), start + min(rows.stop, count))
                for start, count in zip(self._starts, self._counts)
            ]
            yield slice(min(rows.start, own), min(rows.stop, own))

    def distances(self, rows: slice) -> Tensor:
        anchor_XD = torch.cat([self._x_RD[run] for run in self._runs])
        d_XO = block_distance(anchor_XD, self._emb_OD, self._distance)
        own_rows = [rows.stop - rows.start] * self._world.size
        return torch.cat(exchange(list(d_XO.split(self._run_lengths())), own_rows, self._sizes, self._world), 1)

    def accumulate(self, rows: slice, weight_AR: Tensor) -> None:
        columns = [len(self._emb_OD)] * self._world.size
        parts = exchange(list(weight_AR.split(self._sizes, 1)), self._run_lengths(), columns, self._world)
        for run, weight_AO in zip(self._runs, parts):
            add_block_gradient(self._grad_RD[run], weight_AO, self._x_RD[run], self._emb_OD, self._distance)

    def _run_lengths(self) -> list[int]:
        return [run.stop - run.start for run in self._runs]

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        return [(self._anchor_LD, reduce_scatter_rows(self._grad_RD, self._counts, self._world))]
