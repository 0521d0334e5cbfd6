"""Losses over all pairs of an anchor, a block of anchors at a time: no B × B matrix outlives its block.

A block's distances, its loss and the loss's gradient are computed together, and the gradient is folded into
one matrix a side before the next block; autograd sees one node that already knows its gradient. Formulas are
left to ``loss``, masks to ``mining``.

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

BLOCK = 1 << 19  # elements of a block; a loss and its gradient hold some ten temporaries of this size


@dataclass(frozen=True)
class RowTerms:
    """What some anchors cost."""

    term_A: Tensor
    """The cost of each anchor, differentiable."""
    active: Tensor
    """How many of the comparisons behind it are not settled yet, 0-dim."""
    considered: Tensor
    """Of so many, 0-dim."""


RowLoss = Callable[[Tensor, Tensor, Tensor], RowTerms]
"""(d_ap_AK, positive_AK, d_an_AR) → the cost of each anchor: the arguments of the functions in ``loss``."""


@dataclass(frozen=True)
class Streamed:
    """The cost of all local anchors."""

    total: Tensor
    """Σ of the terms, 0-dim, differentiable in the batch's anchors and references."""
    active: Tensor
    considered: Tensor
    with_positive: Tensor
    """How many anchors have a positive, 0-dim."""
    d_ap_A: Tensor
    """Each contributing anchor's farthest positive."""
    d_an_A: Tensor
    """Each contributing anchor's nearest negative."""


class References(Protocol):
    """Where distances come from and gradients go: the batch itself, or a memory spread over workers."""

    def blocks(self) -> Iterable[slice]:
        """Runs of local anchors, as many on every worker, some of them perhaps empty."""

    def distances(self, rows: slice) -> Tensor:
        """d(a, r) of the anchors in ``rows`` and all references, (A, R), to be overwritten by the caller."""

    def fold(self, rows: slice, weight_AR: Tensor) -> None:
        """Adds to the gradients what follows from the ``pair_weight`` of every pair of a block."""

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Each matrix that autograd knows, with its gradient."""


class BatchReferences:
    """The gathered batch: every worker has all references."""

    def __init__(self, batch: GlobalBatch, distance: Distance) -> None:
        self._inputs = batch.anchor_LD, batch.reference_RD
        self._x_LD, self._y_RD = batch.anchor_LD.detach(), batch.reference_RD.detach()
        self._distance = distance
        self._grad_LD, self._grad_RD = torch.zeros_like(self._x_LD), torch.zeros_like(self._y_RD)

    def blocks(self) -> Iterable[slice]:
        return row_blocks(len(self._x_LD), len(self._y_RD), self._x_LD.device, BLOCK)

    def distances(self, rows: slice) -> Tensor:
        return block_distance(self._x_LD[rows], self._y_RD, self._distance)

    def fold(self, rows: slice, weight_AR: Tensor) -> None:
        x_AD = self._x_LD[rows]
        add_block_gradient(self._grad_LD[rows], weight_AR, x_AD, self._y_RD, self._distance)
        add_block_gradient(self._grad_RD, weight_AR.T, self._y_RD, x_AD, self._distance)

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self._inputs, (self._grad_LD, self._grad_RD)))


def stream(batch: GlobalBatch, references: References, distance: Distance, row_loss: RowLoss) -> Streamed:
    """``row_loss`` over every local anchor that has both a positive and a negative, with its gradient.

    ``batch`` says who is a positive of whom; the distances are those of ``references``.
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
            has_A = paired_A & (d_an_A < torch.inf)
            with_positive = with_positive + paired_A.sum()
            keep_A = slice(None) if bool(has_A.all()) else has_A.nonzero()[:, 0]
            positive_AK = same.positive_AK[keep_A]
            farthest.append(torch.where(positive_AK, d_AK[keep_A], -torch.inf).amax(1))
            nearest.append(d_an_A[keep_A])
        pull_AK, push_AR = d_AK[keep_A].requires_grad_(), d_AR[keep_A].requires_grad_()
        with torch.enable_grad():
            terms = row_loss(pull_AK, positive_AK, push_AR)
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
            references.fold(rows, weight_AR)
    if batch.anchor_LD.requires_grad:
        inputs, grads = zip(*references.gradients())
        total = _KnownGradient.apply(total, len(inputs), *inputs, *grads)  # type: ignore[no-untyped-call]  # torch's
    return Streamed(total, active, considered, with_positive, torch.cat(farthest), torch.cat(nearest))


class _KnownGradient(torch.autograd.Function):
    """``total`` as a function of some inputs whose gradients were computed with it."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, n_inputs: int, *inputs_and_grads: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs_and_grads[n_inputs:])
        return total.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        known = ctx.saved_tensors
        return (None, None, *(grad * grads[0] for grad in known), *(None for _ in known))
