"""Distances between rows, exact near zero: one form for selected pairs and one for whole blocks of rows.

Selected pairs are subtracted directly, so a duplicate image has distance 0 and gradient 0, never NaN. Blocks
use a matrix product. It loses its digits for pairs close to 0, so those few are subtracted directly as well.
Which pairs matter is decided in ``mining``; what they cost is in ``loss``.

On unit vectors ‖x − y‖² = 2(1 − cos), so a margin m on squared distances is a margin m/2 on cosine distances.

Shape letters: A anchors of a block, R references, P pairs, X and Y rows of two matrices, D columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from metric_core.learn.objective import Distance

_CHUNK = 1 << 21  # elements of a temporary of gathered rows: 8 MiB in float32, near the size of a cache
_BLOCK = 1 << 21  # elements of a block of distances: 8 MiB in float32
_GPU_FACTOR = 64  # more elements on a GPU, where launching a small block takes longer than computing it
_MIN_ROWS = 32  # per block; a matrix product of fewer rows is limited by memory bandwidth
_NEAR = 1e-3  # ‖x − y‖² below which the matrix product has lost too many digits to cancellation


def row_blocks(n_rows: int, n_columns: int, device: torch.device, elements: int = _BLOCK) -> Iterator[slice]:
    """Slices of ``n_rows`` such that a block of rows × ``n_columns`` has about ``elements`` elements, on a GPU more."""
    rows = max(_MIN_ROWS, _for_device(elements, device) // max(1, n_columns))
    for start in range(0, n_rows, rows):
        yield slice(start, min(start + rows, n_rows))


def sparse_nonzero(mask_AR: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each True, row by row: as ``nonzero``, several times faster when few are True.

    Eight booleans are read as one integer, and only integers other than 0 are looked into.
    """
    mask_M = mask_AR.contiguous().view(-1)
    whole = len(mask_M) // 8 * 8
    word_C = mask_M[:whole].view(torch.int64).nonzero()[:, 0]
    hit_C, byte_C = mask_M[:whole].view(-1, 8)[word_C].nonzero(as_tuple=True)
    place_C = torch.cat([word_C[hit_C] * 8 + byte_C, mask_M[whole:].nonzero()[:, 0] + whole])
    return place_C.div(mask_AR.shape[1], rounding_mode="floor"), place_C % mask_AR.shape[1]


def squared_distance(x_XD: Tensor, i_P: Tensor, y_YD: Tensor, j_P: Tensor) -> Tensor:
    """‖x_i − y_j‖² of every pair, (P,), subtracted directly; no gradient.

    Unit vectors that differ only by rounding have a distance of exactly 0. Otherwise one image embedded in two
    batches would have a Euclidean gradient of full length in a random direction.
    """
    out_P = x_XD.new_empty(len(i_P))
    for chunk in _chunks(len(i_P), x_XD):
        difference_PD = x_XD.detach().index_select(0, i_P[chunk]) - y_YD.detach().index_select(0, j_P[chunk])
        out_P[chunk] = difference_PD.square_().sum(1)
    same = (64.0 * torch.finfo(out_P.dtype).eps) ** 2
    return out_P.masked_fill_(out_P < same, 0.0)


def pair_distance(x_XD: Tensor, i_P: Tensor, y_YD: Tensor, j_P: Tensor, distance: Distance) -> Tensor:
    """d(x_i, y_j) of every pair, (P,), differentiable in both matrices; gathers rows a chunk at a time.

    The Euclidean distance of two equal rows is 0 with gradient 0, the middle of its subgradients.
    """
    pairs_P: Tensor = _PairDistance.apply(x_XD, i_P, y_YD, j_P, distance)  # type: ignore[no-untyped-call]  # torch's
    return pairs_P


def block_distance(x_AD: Tensor, y_RD: Tensor, distance: Distance) -> Tensor:
    """d(x_a, y_r) of every pair of a block, (A, R), without gradient: see ``pair_weight``."""
    x_AD, y_RD = x_AD.detach(), y_RD.detach()
    dot_AR = x_AD @ y_RD.T
    if distance == "cosine":
        return dot_AR.neg_().add_(1.0)
    square_AR = dot_AR.mul_(-2.0).add_(x_AD.square().sum(1)[:, None]).add_(y_RD.square().sum(1)[None, :])
    i_P, j_P = sparse_nonzero(square_AR < _NEAR)
    if len(i_P):
        square_AR[i_P, j_P] = squared_distance(x_AD, i_P, y_RD, j_P)
    return square_AR.sqrt_() if distance == "euclidean" else square_AR


def pair_weight(grad_P: Tensor, d_P: Tensor, distance: Distance) -> Tensor:
    """Turns a scalar's derivative by the distance, ``grad_P``, into its derivative by ½‖x − y‖²; any shape.

    Half the squared distance is used because its gradient is x − y. For the cosine distance it is the derivative
    by −x·y. Equal rows have weight 0, and so have pairs at infinite distance whose ``grad_P`` is 0.
    """
    if distance == "euclidean":
        return torch.where(d_P > 0, grad_P / d_P, 0.0)
    return grad_P * 2.0 if distance == "squared-euclidean" else grad_P.clone()


def add_block_gradient(grad_AD: Tensor, weight_AR: Tensor, x_AD: Tensor, y_RD: Tensor, distance: Distance) -> None:
    """Adds to ``grad_AD`` a scalar's gradient by x, given the ``pair_weight`` of every pair; swap x and y for y's."""
    grad_AD.addmm_(weight_AR, y_RD, alpha=-1)
    if distance != "cosine":
        grad_AD.addcmul_(weight_AR.sum(1)[:, None], x_AD)


class _PairDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_XD: Tensor, i_P: Tensor, y_YD: Tensor, j_P: Tensor, distance: Distance) -> Tensor:
        if distance == "cosine":
            d_P = x_XD.new_empty(len(i_P))
            for chunk in _chunks(len(i_P), x_XD):
                x_PD, y_PD = x_XD.index_select(0, i_P[chunk]), y_YD.index_select(0, j_P[chunk])
                d_P[chunk] = 1.0 - x_PD.mul_(y_PD).sum(1)
        else:
            d_P = squared_distance(x_XD, i_P, y_YD, j_P)
            if distance == "euclidean":
                d_P = d_P.sqrt_()
        ctx.distance = distance
        ctx.save_for_backward(x_XD, i_P, y_YD, j_P, d_P)
        return d_P

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, None, None]:
        x_XD, i_P, y_YD, j_P, d_P = ctx.saved_tensors
        weight_P = pair_weight(grads[0], d_P, ctx.distance)
        grad_XD, grad_YD = torch.zeros_like(x_XD), torch.zeros_like(y_YD)
        for chunk in _chunks(len(i_P), x_XD):
            i, j, weight = i_P[chunk], j_P[chunk], weight_P[chunk, None]
            x_PD, y_PD = x_XD.index_select(0, i), y_YD.index_select(0, j)
            if ctx.distance == "cosine":
                grad_XD.index_add_(0, i, y_PD.mul_(weight), alpha=-1)
                grad_YD.index_add_(0, j, x_PD.mul_(weight), alpha=-1)
            else:
                pull_PD = x_PD.sub_(y_PD).mul_(weight)
                grad_XD.index_add_(0, i, pull_PD)
                grad_YD.index_add_(0, j, pull_PD, alpha=-1)
        return grad_XD, None, grad_YD, None, None


def _chunks(n_pairs: int, x_XD: Tensor) -> Iterator[slice]:
    rows = max(1, _for_device(_CHUNK, x_XD.device) // max(1, x_XD.shape[1]))
    for start in range(0, n_pairs, rows):
        yield slice(start, min(start + rows, n_pairs))


def _for_device(elements: int, device: torch.device) -> int:
    return elements if device.type == "cpu" else elements * _GPU_FACTOR
