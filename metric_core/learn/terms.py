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
from metric_core.learn.anchor_loss import anchor_loss
from metric_core.learn.distance import pair_distance
from metric_core.learn.mining import GlobalBatch, Selected
from metric_core.learn.objective import Objective
from metric_core.learn.stream import References, stream


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
    """Number of triplets whose hinge is above 0, 0-dim; for most all-pairs losses, of anchors: see ``anchor_loss``."""
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
    streamed = stream(batch, references, objective.distance, partial(anchor_loss, objective, batch))
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
