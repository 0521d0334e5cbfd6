"""The loss of each anchor over all its pairs: which of the losses an objective means, with which of its numbers.

Formulas are in ``loss``; streaming over blocks of anchors is in ``stream``.

Shape letters: A anchors of a block, K references of one identity, R references.
"""

from __future__ import annotations

import torch
from torch import Tensor

from metric_core.learn import loss as losses
from metric_core.learn.mining import GlobalBatch
from metric_core.learn.objective import Objective
from metric_core.learn.stream import AnchorTerms


def anchor_loss(o: Objective, batch: GlobalBatch, d_ap_AK: Tensor, positive_AK: Tensor, d_an_AR: Tensor) -> AnchorTerms:
    """The loss of each anchor of a block; the last three arguments are those of the functions in ``loss``."""
    if o.pairs == "batch-hard":
        d_ap_A, d_an_A = _hardest(batch, d_ap_AK, positive_AK, d_an_AR)
        active = (d_ap_A - d_an_A + o.margin > 0).sum()
        term_A = losses.triplet(d_ap_A, d_an_A, o.margin, o.form)
        return AnchorTerms(term_A, active, active.new_tensor(len(d_ap_A)))
    if o.loss == "triplet":
        term_A, active_A = losses.all_triplets(d_ap_AK, positive_AK, d_an_AR, o.margin)
        triplets_A = positive_AK.sum(1) * (d_an_AR < torch.inf).sum(1)
        if o.reduction == "anchors":
            term_A = term_A / triplets_A
        return AnchorTerms(term_A, active_A.double().sum(), triplets_A.sum())
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
    return AnchorTerms(term_A, active_A.sum(), active_A.new_tensor(len(active_A), dtype=torch.int64))


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
