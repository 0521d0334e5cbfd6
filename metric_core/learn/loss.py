"""The losses: one function per loss, with its formula and source in the docstring.

The functions know nothing of workers, batches or miners. They take distances and return one term per triplet
or per anchor. Those over all pairs of an anchor take ``d_ap_AK``, its distances to the references of its
identity, ``positive_AK``, which of them are positives, and ``d_an_AR``, its distances to all references, +inf
where the reference is not a negative. Every anchor must have a positive and a negative.

Shape letters: T triplets, A anchors, K references of one identity, R references, B buckets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metric_core.learn.objective import Form


def triplet(d_ap_T: Tensor, d_an_T: Tensor, margin: float, form: Form = "hinge") -> Tensor:
    """The triplet loss of each triplet, (T,): the negative should be farther than the positive by a margin.

    hinge: max(0, d(A,P) − d(A,N) + m), Schroff, Kalenichenko and Philbin, "FaceNet", CVPR 2015, eq. 2.
    soft: ln(1 + exp(d(A,P) − d(A,N))), Hermans, Beyer and Leibe, "In Defense of the Triplet Loss", 2017,
    section 2; it has no margin and never reaches 0.

    With the cosine distance 1 − cos this is max(0, cos(A,N) − cos(A,P) + m): the *negative* comes first. The
    loss is often printed as max(0, cos(A,P) − cos(A,N) + m), with similarities in place of distances but the
    same sign; that loss pushes a person's own faces apart.
    """
    if form == "soft":
        return _softplus(d_ap_T - d_an_T)
    return (d_ap_T - d_an_T + margin).clamp(min=0.0)


def all_triplets(d_ap_AK: Tensor, positive_AK: Tensor, d_an_AR: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Each anchor's Σ over all its triplets of max(0, d(A,P) − d(A,N) + m), (A,), and how many are not 0, (A,).

    Exact without computing each triplet. The thresholds t_P = d(A,P) + m are sorted, and every negative falls
    into a bucket between two of them. Prefix sums over the buckets give for each positive the number n_P and the
    sum s_P of the negatives below t_P; the loss is Σ_P n_P·t_P − s_P. The work is O(R log K) per anchor. The
    derivatives are ∂/∂d(A,P) = n_P and ∂/∂d(A,N) = −(number of positives with t_P > d(A,N)).
    """
    total_A, active_A = _AllTriplets.apply(d_ap_AK, positive_AK, d_an_AR, margin)  # type: ignore[no-untyped-call]  # torch's
    return total_A, active_A


def contrastive(
    d_ap_AK: Tensor,
    positive_AK: Tensor,
    d_an_AR: Tensor,
    margin: float,
    positive_margin: float = 0.0,
    active_only: bool = False,
) -> Tensor:
    """Each anchor's mean of ½·max(0, d(A,P) − m_p)² plus its mean of ½·max(0, m − d(A,N))², (A,).

    Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, eq. 4,
    with a margin for positives as well. The means are over the anchor's positives and over its negatives;
    with ``active_only`` over those whose cost is not 0, so that many easy negatives do not dilute a few hard ones.
    """
    pull_AK = torch.where(positive_AK, (d_ap_AK - positive_margin).clamp(min=0.0), 0.0)
    push_AR = (margin - d_an_AR).clamp(min=0.0)
    n_pull_A = ((pull_AK > 0) if active_only else positive_AK).sum(1)
    n_push_A = ((push_AR > 0) if active_only else (d_an_AR < torch.inf)).sum(1)
    return 0.5 * (pull_AK.square().sum(1) / n_pull_A.clamp(min=1) + push_AR.square().sum(1) / n_push_A.clamp(min=1))


def softall(d_ap_AK: Tensor, positive_AK: Tensor, d_an_AR: Tensor, temperature: float) -> Tensor:
    """Multi-positive InfoNCE of each anchor, (A,): ln(1 + Σ_P Σ_N exp((d(A,P) − d(A,N)) / τ)).

    Computed as softplus(logsumexp_N(−d(A,N)/τ) + logsumexp_P(d(A,P)/τ)): the smooth form of "every positive
    nearer than every negative". Sun et al., "Circle Loss", CVPR 2020, eq. 1, with margin 0 and scale 1/τ;
    with one positive it is InfoNCE (van den Oord, Li and Vinyals, 2018, eq. 4).
    """
    positive_A = torch.where(positive_AK, d_ap_AK / temperature, -torch.inf).logsumexp(1)
    return _softplus((d_an_AR / -temperature).logsumexp(1) + positive_A)


def multi_view(d_ap_AK: Tensor, cross_view_AK: Tensor, d_an_AR: Tensor, temperature: float) -> Tensor:
    """``softall`` of each anchor against the *other* views of its identity and strangers of every view, (A,).

    L = mean over anchors of ln(1 + Σ_{P: view(P) ≠ view(A)} Σ_N exp((d(A,P) − d(A,N)) / τ)). Anchors of every
    view have the same weight, so the loss is symmetric in the views. A person's faces in the anchor's own view
    are ignored: the many easy same-view pairs would outweigh the few pairs across views. After Lezama,
    Qiu and Sapiro, "Not Afraid of the Dark", CVPR 2017, and the cross-modal contrastive loss of Radford et
    al., "CLIP", 2021, with several positives and the negatives of both views.
    """
    return softall(d_ap_AK, cross_view_AK, d_an_AR, temperature)


def multi_similarity(
    d_ap_AK: Tensor,
    positive_AK: Tensor,
    d_an_AR: Tensor,
    alpha: float,
    beta: float,
    base: float,
    epsilon: float | None = None,
) -> Tensor:
    """Each anchor's (1/α)·ln(1 + Σ_P exp(α(d(A,P) − λ))) + (1/β)·ln(1 + Σ_N exp(−β(d(A,N) − λ))), (A,).

    Wang et al., "Multi-Similarity Loss with General Pair Weighting", CVPR 2019, eq. 15, written in distances:
    with d = 1 − cos, λ is one minus the paper's. With ``epsilon`` only the pairs of the paper's eq. 13 and 14
    count: negatives nearer than the farthest positive plus ε, positives farther than the nearest negative
    minus ε. An anchor without such pairs costs 0.
    """
    if epsilon is not None:
        farthest_A = torch.where(positive_AK, d_ap_AK.detach(), -torch.inf).amax(1)
        nearest_A = d_an_AR.detach().amin(1)
        positive_AK = positive_AK & (d_ap_AK > (nearest_A - epsilon)[:, None])
        d_an_AR = torch.where(d_an_AR < (farthest_A + epsilon)[:, None], d_an_AR, torch.inf)
    pull_AK = torch.where(positive_AK, alpha * (d_ap_AK - base), -torch.inf)
    push_AR = beta * (base - d_an_AR)
    return _log_one_plus_sum(pull_AK) / alpha + _log_one_plus_sum(push_AR) / beta


def _softplus(x: Tensor) -> Tensor:
    """ln(1 + exp(x)); torch's own softplus returns x above its threshold of 20, an error of 2e-9."""
    return torch.logaddexp(x, x.new_zeros(()))


def _log_one_plus_sum(x_AK: Tensor) -> Tensor:
    """ln(1 + Σ exp(x)) of each row, (A,), without overflow and with gradient 0 where all x are −inf."""
    top_A = x_AK.detach().amax(1).clamp(min=0.0)
    return ((x_AK - top_A[:, None]).exp().sum(1) + (-top_A).exp()).log() + top_A


class _AllTriplets(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, d_ap_AK: Tensor, positive_AK: Tensor, d_an_AR: Tensor, margin: float
    ) -> tuple[Tensor, Tensor]:
        n_anchors, n_thresholds = d_ap_AK.shape
        threshold_AK, order_AK = torch.where(positive_AK, d_ap_AK + margin, -torch.inf).sort(1)
        bucket_AR = torch.searchsorted(threshold_AK, d_an_AR, right=True)
        inside_AR = bucket_AR < n_thresholds  # below at least one threshold, which +inf never is
        zero_AB = d_an_AR.new_zeros(n_anchors, n_thresholds + 1)
        number_AB = zero_AB.scatter_add(1, bucket_AR, inside_AR.to(d_an_AR.dtype))
        sum_AB = zero_AB.scatter_add(1, bucket_AR, torch.where(inside_AR, d_an_AR, 0.0))
        below_AK, sum_AK = number_AB.cumsum(1)[:, :-1], sum_AB.cumsum(1)[:, :-1]
        total_A = torch.where(below_AK > 0, below_AK * threshold_AK - sum_AK, 0.0).sum(1)
        ctx.save_for_backward(torch.empty_like(below_AK).scatter_(1, order_AK, below_AK), bucket_AR)
        active_A = below_AK.sum(1)
        ctx.mark_non_differentiable(active_A)
        return total_A, active_A

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor, None]:
        below_AK, bucket_AR = ctx.saved_tensors
        grad_A1 = grads[0][:, None]
        slope_AR = (bucket_AR - below_AK.shape[1]).to(grad_A1.dtype)  # −(number of thresholds above the negative)
        return below_AK * grad_A1, None, slope_AR.mul_(grad_A1), None
