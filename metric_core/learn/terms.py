"""One worker's part of the loss: an objective applied to a batch, to selected triplets or to all pairs in blocks.

Summing over workers and dividing by N is in ``step``.

Shape letters: L local rows, R references, K references of one identity, T triplets, A contributing anchors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from metric_core.learn import loss as losses
from metric_core.learn import mining
from metric_core.learn.distance import pair_distance
from metric_core.learn.mining import GlobalBatch, Selected
from metric_core.learn.objective import Objective
from metric_core.learn.stream import References, RowTerms, stream


@dataclass(frozen=True)
class Terms:
    """One worker's part of the loss."""

    total: Tensor
    """S_r, 0-dim, differentiable; if nothing contributes, a zero that still depends on the embeddings."""
    count: Tensor
    """This worker's part of N, 0-dim."""
    d_ap_A: Tensor
    """Distance of each contributing anchor to its farthest selected positive."""
    d_an_A: Tensor
    """Distance of each contributing anchor to its nearest selected negative."""
    no_positive: Tensor
    """Number of anchors without a positive, 0-dim."""
    active: Tensor
    """Number of triplets whose hinge is above 0, 0-dim; for most all-pairs losses, of anchors: see ``_row_terms``."""
    considered: Tensor
    """Number of triplets or anchors looked at, 0-dim."""
    not_finite: Tensor
    """Number of anchors with a NaN or an infinity, 0-dim."""

    @property
    def figures(self) -> Tensor:
        """[total, count, contributing anchors, no_positive, active, considered, not_finite], float64 (7,).

        One vector, so that one exchange sums it over workers; float64, so that counts stay exact.
        """
        anchors = torch.full_like(self.count, len(self.d_ap_A))
        counts = self.count, anchors, self.no_positive, self.active, self.considered, self.not_finite
        return torch.stack([figure.double() for figure in (self.total.detach(), *counts)])


def mine(objective: Objective, batch: GlobalBatch, seed: int, step: int) -> Selected:
    """The triplets that the objective's miner selects; not for miners that use all pairs."""
    match objective.pairs:
        case "batch-hard":
            return mining.batch_hard(batch)
        case "easy-positive":
            return mining.easy_positive(batch)
        case "semi-hard":
            return mining.semi_hard(batch)
        case _:
            return mining.distance_weighted(batch, seed, step)


def selected_terms(objective: Objective, batch: GlobalBatch, chosen: Selected) -> Terms:
    """The triplet loss over the triplets that a miner selected; only their distances are differentiated."""
    both_T = torch.cat([chosen.anchor_T, chosen.anchor_T])
    partner_T = torch.cat([chosen.positive_T, chosen.negative_T])
    d_ap_T, d_an_T = pair_distance(batch.anchor_LD, both_T, batch.reference_RD, partner_T, objective.distance).chunk(2)
    loss_T = losses.triplet(d_ap_T, d_an_T, objective.margin, objective.form)
    active = (d_ap_T - d_an_T + objective.margin > 0).sum()
    _, anchor_T, per_anchor_A = chosen.anchor_T.unique(return_inverse=True, return_counts=True)
    n_anchors = len(per_anchor_A)
    if objective.reduction == "active":
        total, count = loss_T.sum(), active
    else:
        total, count = (loss_T / per_anchor_A[anchor_T]).sum(), active.new_tensor(n_anchors)
    d_A = d_ap_T.new_zeros(n_anchors)
    return Terms(
        total=total,
        count=count,
        d_ap_A=d_A.scatter_reduce(0, anchor_T, d_ap_T.detach(), "amax", include_self=False),
        d_an_A=d_A.scatter_reduce(0, anchor_T, d_an_T.detach(), "amin", include_self=False),
        no_positive=batch.without_positive(),
        active=active,
        considered=active.new_tensor(len(loss_T)),
        not_finite=batch.not_finite(),
    )


def streamed_terms(objective: Objective, batch: GlobalBatch, references: References) -> Terms:
    """A loss over all pairs of each anchor; also batch-hard against a memory, which gives distances only."""
    streamed = stream(batch, references, objective.distance, partial(_row_terms, objective, batch))
    by_triplet = objective.loss == "triplet" and objective.reduction == "active"
    n_anchors = streamed.active.new_tensor(len(streamed.d_ap_A))
    return Terms(
        total=streamed.total,
        count=streamed.active if by_triplet else n_anchors,
        d_ap_A=streamed.d_ap_A,
        d_an_A=streamed.d_an_A,
        no_positive=streamed.active.new_tensor(len(batch.anchor_LD)) - streamed.with_positive,
        active=streamed.active,
        considered=streamed.considered,
        not_finite=batch.not_finite(),
    )


def _row_terms(o: Objective, batch: GlobalBatch, d_ap_AK: Tensor, positive_AK: Tensor, d_an_AR: Tensor) -> RowTerms:
    if o.pairs == "batch-hard":
        d_ap_A, d_an_A = _hardest(batch, d_ap_AK, positive_AK, d_an_AR)
        active = (d_ap_A - d_an_A + o.margin > 0).sum()
        term_A = losses.triplet(d_ap_A, d_an_A, o.margin, o.form)
        return RowTerms(term_A, active, active.new_tensor(len(d_ap_A)))
    if o.loss == "triplet":
        term_A, active_A = losses.all_triplets(d_ap_AK, positive_AK, d_an_AR, o.margin)
        triplets_A = positive_AK.sum(1) * (d_an_AR < torch.inf).sum(1)
        if o.reduction == "anchors":
            term_A = term_A / triplets_A
        return RowTerms(term_A, active_A.double().sum(), triplets_A.sum())
    match o.loss:
        case "contrastive":
            term_A = losses.contrastive(
                d_ap_AK, positive_AK, d_an_AR, o.margin, o.positive_margin, o.reduction == "active"
            )
        case "softall":
            term_A = losses.softall(d_ap_AK, positive_AK, d_an_AR, o.temperature)
        case "multi-view":
            term_A = losses.multi_view(d_ap_AK, positive_AK, d_an_AR, o.temperature)
        case "multi-similarity":
            epsilon = o.epsilon if o.pairs == "multi-similarity" else None
            term_A = losses.multi_similarity(d_ap_AK, positive_AK, d_an_AR, o.alpha, o.beta, o.base, epsilon)
    # Most of these losses never reach 0, so an anchor counts as active while its order is wrong or within the margin.
    with torch.no_grad():
        farthest_A = torch.where(positive_AK, d_ap_AK, -torch.inf).amax(1)
        active_A = farthest_A + o.margin > d_an_AR.amin(1)
    return RowTerms(term_A, active_A.sum(), active_A.new_tensor(len(active_A), dtype=torch.int64))


def _hardest(batch: GlobalBatch, d_ap_AK: Tensor, positive_AK: Tensor, d_an_AR: Tensor) -> tuple[Tensor, Tensor]:
    """Each anchor's distance to its farthest positive and to its nearest negative; the lower face_id wins ties."""
    with torch.no_grad():
        score_AK = torch.where(positive_AK, d_ap_AK, -torch.inf)
        far_AK = score_AK >= score_AK.amax(1, keepdim=True) - batch.rounding
        first_A1 = far_AK.to(torch.int8).argmax(1, keepdim=True)  # an identity's columns are sorted by face_id
        near_AR = d_an_AR <= d_an_AR.amin(1, keepdim=True) + batch.rounding
        rank_R = batch.face_id_rank_R
        nearest_A1 = torch.where(near_AR, rank_R, len(rank_R)).argmin(1, keepdim=True)
    return d_ap_AK.gather(1, first_A1)[:, 0], d_an_AR.gather(1, nearest_A1)[:, 0]
