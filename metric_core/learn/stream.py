"""Losses over all pairs of each anchor, computed in blocks of anchors: no matrix of all pairs is ever held.

A block's distances, its loss and the loss's gradient are computed together. The gradient is added to one matrix
for the anchors and one for the references before the next block; autograd sees one node that already knows its
gradient. The formulas are in ``loss``, the masks in ``mining``.

Shape letters: L local anchors, A anchors of a block, R references, K references of one identity, D columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from metric_core.learn.distance import add_block_gradient, block_distance, pair_weight, row_blocks
from metric_core.learn.mining import GlobalBatch
from metric_core.learn.objective import Distance

BLOCK = 1 << 19  # elements per block; a loss and its gradient hold about ten temporaries of this size


@dataclass(frozen=True)
class AnchorTerms:
    """The loss of a block's anchors."""

    term_A: Tensor
    """The loss of each anchor, differentiable."""
    active: Tensor
    """Number of triplets or anchors that are still in the wrong order or within the margin, 0-dim."""
    considered: Tensor
    """Number of triplets or anchors looked at, 0-dim."""


BlockLoss = Callable[[Tensor, Tensor, Tensor], AnchorTerms]
"""(d_ap_AK, positive_AK, d_an_AR) → the loss of each anchor; the arguments are those of the functions in ``loss``."""


@dataclass(frozen=True)
class Streamed:
    """The loss of all local anchors."""

    total: Tensor
    """Sum of the terms, 0-dim, differentiable in the batch's anchors and references."""
    active: Tensor
    """As in ``AnchorTerms``, over all blocks."""
    considered: Tensor
    """As in ``AnchorTerms``, over all blocks."""
    with_positive: Tensor
    """Number of anchors that have a positive, 0-dim."""
    d_ap_A: Tensor
    """Each contributing anchor's farthest positive."""
    d_an_A: Tensor
    """Each contributing anchor's nearest negative."""


class References(Protocol):
    """Where distances come from and gradients go: the batch itself, or a memory spread over workers."""

    def blocks(self) -> Iterable[slice]:
        """Slices of the local anchors, the same number on every worker; some may be empty."""

    def distances(self, rows: slice) -> Tensor:
        """d(a, r) of the anchors in ``rows`` and all references, (A, R); the caller may overwrite it."""

    def accumulate(self, rows: slice, weight_AR: Tensor) -> None:
        """Adds a block's part to the gradients, given the ``pair_weight`` of every pair of the block."""

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Each input of the loss, with its gradient."""


class BatchReferences:
    """The gathered batch as references: every worker has all of them."""

    def __init__(self, batch: GlobalBatch, distance: Distance) -> None:
        self._inputs = batch.anchor_LD, batch.reference_RD
        self._x_LD, self._y_RD = batch.anchor_LD.detach(), batch.reference_RD.detach()
        self._distance = distance
        self._grad_LD, self._grad_RD = torch.zeros_like(self._x_LD), torch.zeros_like(self._y_RD)

    def blocks(self) -> Iterable[slice]:
        return row_blocks(len(self._x_LD), len(self._y_RD), self._x_LD.device, BLOCK)

    def distances(self, rows: slice) -> Tensor:
        return block_distance(self._x_LD[rows], self._y_RD, self._distance)

    def accumulate(self, rows: slice, weight_AR: Tensor) -> None:
        x_AD = self._x_LD[rows]
        add_block_gradient(self._grad_LD[rows], weight_AR, x_AD, self._y_RD, self._distance)
        add_block_gradient(self._grad_RD, weight_AR.T, self._y_RD, x_AD, self._distance)

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self._inputs, (self._grad_LD, self._grad_RD)))


def stream(batch: GlobalBatch, references: References, distance: Distance, block_loss: BlockLoss) -> Streamed:
    """The sum of ``block_loss`` over every local anchor that has both a positive and a negative, with its gradient.

    Positives and negatives are determined by ``batch``; distances come from ``references``.
    """
    total = batch.anchor_LD.new_zeros(())
    active = considered = with_positive = torch.zeros((), dtype=torch.float64, device=total.device)
    farthest, nearest = [total.new_empty(0)], [total.new_empty(0)]
    for rows in references.blocks():
        with torch.no_grad():
            same = batch.same_identity(rows)
            d_AR = references.distances(rows)
            d_AK = d_AR.gather(1, same.column_AK)
            same.hide(d_AR, torch.inf)
            if batch.usable_R is not None:
                d_AR.masked_fill_(~batch.usable_R, torch.inf)
            d_an_A = d_AR.amin(1)
            paired_A = same.positive_AK.any(1)
            both_A = paired_A & (d_an_A < torch.inf)
            with_positive = with_positive + paired_A.sum()
            keep_A = slice(None) if bool(both_A.all()) else both_A.nonzero()[:, 0]
            positive_AK = same.positive_AK[keep_A]
            farthest.append(torch.where(positive_AK, d_AK[keep_A], -torch.inf).amax(1))
            nearest.append(d_an_A[keep_A])
        pull_AK, push_AR = d_AK[keep_A].requires_grad_(), d_AR[keep_A].requires_grad_()
        with torch.enable_grad():
            terms = block_loss(pull_AK, positive_AK, push_AR)
            block_total = terms.term_A.sum()
        total += block_total.detach()
        active, considered = active + terms.active, considered + terms.considered
        if batch.anchor_LD.requires_grad:
            grad_AK, grad_AR = torch.autograd.grad(block_total, (pull_AK, push_AR))
            weight_AR = pair_weight(grad_AR, push_AR.detach(), distance)
            weight_AK = pair_weight(grad_AK, pull_AK.detach(), distance)
            weight_AR.scatter_add_(1, same.column_AK[keep_A], weight_AK)
            if not isinstance(keep_A, slice):
                weight_AR = torch.zeros_like(d_AR).index_copy_(0, keep_A, weight_AR)
            references.accumulate(rows, weight_AR)
    if batch.anchor_LD.requires_grad:
        inputs, grads = zip(*references.gradients())
        total = _KnownGradient.apply(total, len(inputs), *inputs, *grads)  # type: ignore[no-untyped-call]  # torch's
    return Streamed(total, active, considered, with_positive, torch.cat(farthest), torch.cat(nearest))


class _KnownGradient(torch.autograd.Function):
    """``total`` as a function of inputs whose gradients have already been computed."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, n_inputs: int, *inputs_and_grads: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs_and_grads[n_inputs:])
        return total.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        known = ctx.saved_tensors
        return (None, None, *(grad * grads[0] for grad in known), *(None for _ in known))
