"""Figures that distinguish learning from collapse, cheap enough to compute at every step.

The loss alone does not show it. Its mean over *active* triplets stays flat while a network learns, and a loss
equal to the margin means that the network maps every face to one point. Watch the active fraction, the spread
of d_ap and d_an, and the rank.

Shape letters: R rows, D columns, A anchors, G rows or columns of a Gram matrix.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_RANK_ROWS = 1024  # rows that ``effective_rank`` uses; more take time and change little


def effective_rank(emb_RD: Tensor) -> Tensor:
    """How many directions the centred rows use, from 0 (all rows equal) to min(rows − 1, D); 0-dim.

    The participation ratio (Σλ)² / Σλ² of the covariance's eigenvalues λ, computed without them as
    tr(C)² / ‖C‖²_F. Gao et al., "A theory of multineuronal dimensionality", 2017. If there are more than 1024
    rows, evenly spaced ones are used.
    """
    emb_RD = emb_RD.detach()[:: max(1, -(-len(emb_RD) // _RANK_ROWS))]
    if len(emb_RD) < 2:
        return emb_RD.new_zeros(())
    centred_RD = emb_RD - emb_RD.mean(0)
    gram_GG = centred_RD @ centred_RD.T if len(emb_RD) < emb_RD.shape[1] else centred_RD.T @ centred_RD
    trace = gram_GG.diagonal().sum()
    # Unit rows that differ only by rounding count as equal.
    floor = len(emb_RD) * torch.finfo(emb_RD.dtype).eps
    return torch.where(trace > floor, trace.square() / gram_GG.square().sum().clamp(min=floor**2), 0.0)


def spread(name: str, value_A: Tensor) -> dict[str, Tensor]:
    """``name_mean``, ``name_q10``, ``name_q50`` and ``name_q90`` of the values; NaN when there are none."""
    if len(value_A) == 0:
        return {f"{name}_{figure}": value_A.new_full((), torch.nan) for figure in ("mean", "q10", "q50", "q90")}
    q10, q50, q90 = torch.quantile(value_A, value_A.new_tensor([0.1, 0.5, 0.9])).unbind()
    return {f"{name}_mean": value_A.mean(), f"{name}_q10": q10, f"{name}_q50": q50, f"{name}_q90": q90}


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds a NaN or an infinity."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, 0-dim; parameters without a gradient count as 0."""
    norms = [parameter.grad.norm() for parameter in parameters if parameter.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros(())
