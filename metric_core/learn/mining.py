"""Which faces an anchor is compared with: every miner compares this worker's anchors with all workers' references.

A miner streams over blocks of anchors, never lists all triplets, and returns the few it selected. It orders
pairs by their dot product, which on unit vectors is the order of every distance. Dot products that differ only
by rounding are a tie, which the lower face_id wins, so that the choice depends neither on how the batch was
split into blocks nor on the number of workers.

Shape letters: L local anchors, A anchors of a block, R references, K references of one identity, G groups,
B buckets between an anchor's thresholds, T selected triplets, C candidates, D columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from metric_core import counter
from metric_core.learn.distance import row_blocks, sparse_nonzero

_NEAREST_DRAWN, _FARTHEST_DRAWN = 0.5, 1.4  # cutoff and nonzero_loss_cutoff in the code of "Sampling Matters"


@dataclass(frozen=True)
class GlobalBatch:
    """This worker's anchors, and the references that they are compared with."""

    anchor_LD: Tensor
    """Unit vectors of this worker."""
    label_L: Tensor
    """Identity of each anchor, int64."""
    face_id_L: Tensor
    """Image of each anchor, int64; one image has one identity."""
    reference_RD: Tensor
    """Unit vectors of all workers in rank order, including the anchors; or this worker's share of a memory."""
    label_R: Tensor
    """Identity of each reference, int64."""
    face_id_R: Tensor
    """Image of each reference, int64."""
    view_L: Tensor | None = None
    """View of each anchor (a camera, a spectrum), int64. When given, only faces of an identity in *other*
    views are an anchor's positives; its negatives are the strangers of every view."""
    view_R: Tensor | None = None
    """View of each reference; given with ``view_L``."""
    usable_R: Tensor | None = None
    """False for references that are not used, neither as positive nor as negative; None when all are used."""

    @classmethod
    def alone(cls, emb_BD: Tensor, label_B: Tensor, face_id_B: Tensor, view_B: Tensor | None = None) -> GlobalBatch:
        """The batch of one process, whose anchors are all the references there are."""
        return cls(emb_BD, label_B, face_id_B, emb_BD, label_B, face_id_B, view_B, view_B)

    @cached_property
    def _by_face_id(self) -> tuple[Tensor, Tensor]:
        order_R = torch.argsort(self.face_id_R, stable=True)
        return order_R, torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R)).to(order_R))

    @cached_property
    def _by_identity(self) -> tuple[Tensor, Tensor]:
        order_R = self._by_face_id[0]
        order_R = order_R[torch.argsort(self.label_R[order_R], stable=True)]
        return order_R, self.label_R[order_R]

    @property
    def face_id_rank_R(self) -> Tensor:
        """The position of each reference in the order of face_ids, (R,)."""
        return self._by_face_id[1]

    def same_identity(self, rows: slice) -> SameIdentity:
        """The references that share the identity of each anchor in ``rows``."""
        order_R, sorted_label_R = self._by_identity
        label_A = self.label_L[rows].contiguous()
        start_A = torch.searchsorted(sorted_label_R, label_A)
        count_A = torch.searchsorted(sorted_label_R, label_A, right=True) - start_A
        largest = max(1, int(count_A.max())) if len(count_A) else 1
        position_K = torch.arange(largest, device=label_A.device)
        same_AK = position_K < count_A[:, None]
        column_AK = order_R[(start_A[:, None] + position_K).clamp_(max=len(order_R) - 1)]
        # An image is never its own positive, even if it was drawn twice; this excludes the anchor itself as well.
        positive_AK = same_AK & (self.face_id_R[column_AK] != self.face_id_L[rows, None])
        if self.view_L is not None and self.view_R is not None:
            positive_AK &= self.view_R[column_AK] != self.view_L[rows, None]
        if self.usable_R is not None:
            positive_AK &= self.usable_R[column_AK]
        return SameIdentity(column_AK, same_AK, positive_AK)

    def without_positive(self) -> Tensor:
        """How many anchors have no positive, 0-dim; the anchors must be among the references.

        They are the anchors whose identity has a single image or, when views are given, a single view.
        """
        key_R = self.face_id_R if self.view_R is None else self.view_R
        label_G, group_R = self.label_R.unique(return_inverse=True)
        lowest_G = torch.zeros_like(label_G).scatter_reduce_(0, group_R, key_R, "amin", include_self=False)
        highest_G = torch.zeros_like(label_G).scatter_reduce_(0, group_R, key_R, "amax", include_self=False)
        return (lowest_G == highest_G)[torch.searchsorted(label_G, self.label_L)].sum()

    def not_finite(self) -> Tensor:
        """How many anchors hold a NaN or an infinity, 0-dim."""
        return (~self.anchor_LD.detach().isfinite().all(1)).sum()

    def similarity(self, rows: slice) -> Tensor:
        """The dot products (A, R) of the anchors in ``rows`` with every reference, without gradient."""
        return self.anchor_LD.detach()[rows] @ self.reference_RD.detach().T

    @property
    def rounding(self) -> float:
        """Dot products of unit vectors that differ by no more than this count as equal."""
        return 1e-12 if self.anchor_LD.dtype == torch.float64 else 1e-5

    def lowest_face_id(self, group_C: Tensor, column_C: Tensor, n_groups: int) -> Tensor:
        """The candidate with the lowest face_id in each group, (n_groups,); −1 for an empty group."""
        order_R, rank_R = self._by_face_id
        empty = len(order_R)
        rank_G = rank_R.new_full((n_groups,), empty).scatter_reduce_(0, group_C, rank_R[column_C], "amin")
        return torch.where(rank_G < empty, order_R[rank_G.clamp(max=empty - 1)], -1)


@dataclass(frozen=True)
class SameIdentity:
    """The same-identity references of a block's anchors, padded to the size of the largest identity."""

    column_AK: Tensor
    """Row numbers of the references, in the order of face_id."""
    same_AK: Tensor
    """False in the padding."""
    positive_AK: Tensor
    """True where the reference is a positive: same identity, different image."""

    def hide(self, value_AR: Tensor, value: float) -> Tensor:
        """Overwrites, in place, the entries of ``value_AR`` that are not negatives with ``value``; returns it."""
        anchor_C, k_C = self.same_AK.nonzero(as_tuple=True)
        value_AR[anchor_C, self.column_AK[anchor_C, k_C]] = value
        return value_AR


@dataclass(frozen=True)
class Selected:
    """Triplets that a miner selected, as row numbers of anchors and of references."""

    anchor_T: Tensor
    positive_T: Tensor
    negative_T: Tensor


@torch.no_grad()
def batch_hard(batch: GlobalBatch) -> Selected:
    """For each anchor that has both, its farthest positive and its nearest negative.

    Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, eq. 5.
    """
    return _one_per_anchor(batch, farthest=True)


@torch.no_grad()
def easy_positive(batch: GlobalBatch) -> Selected:
    """For each anchor that has both, its nearest positive and its nearest negative.

    Xuan, Stylianou and Pless, "Improved Embeddings with Easy Positive Triplet Mining", WACV 2020 (EPHN):
    an identity may form several clusters.
    """
    return _one_per_anchor(batch, farthest=False)


@torch.no_grad()
def semi_hard(batch: GlobalBatch) -> Selected:
    """For each anchor and positive the nearest negative that is farther than the positive: d_ap < d_an.

    If there is none, the farthest negative of all, as in the FaceNet reimplementations. Schroff, Kalenichenko
    and Philbin, "FaceNet", CVPR 2015, eq. 4. There d_ap < d_an < d_ap + margin; here a negative may lie beyond
    the margin, where the hinge loss is 0.
    """

    def select(rows: slice) -> Selected:
        similarity_AR = batch.similarity(rows)
        same = batch.same_identity(rows)
        threshold_AK = similarity_AR.gather(1, same.column_AK).masked_fill_(~same.positive_AK, -torch.inf)
        beyond_AK = _nearest_beyond(batch, same.hide(similarity_AR, -torch.inf), threshold_AK)
        farthest_A = _nearest(batch, same.hide(similarity_AR.neg_(), -torch.inf))
        negative_AK = torch.where(beyond_AK >= 0, beyond_AK, farthest_A[:, None])
        anchor_T, k_T = (same.positive_AK & (negative_AK >= 0)).nonzero(as_tuple=True)
        return Selected(anchor_T + rows.start, same.column_AK[anchor_T, k_T], negative_AK[anchor_T, k_T])

    return _over_blocks(batch, select)


@torch.no_grad()
def distance_weighted(batch: GlobalBatch, seed: int, step: int) -> Selected:
    """For each anchor and positive one random negative, at distance d with probability ∝ 1 / q(d).

    q(d) = d^(D−2)·(1 − d²/4)^((D−3)/2) is the density of distances between random points of the unit sphere, so
    that all distances are drawn equally often: Wu, Manmatha, Smola and Krähenbühl, "Sampling Matters in Deep
    Embedding Learning", ICCV 2017, section 4. As there, distances below 0.5 are treated as 0.5, which bounds the
    variance, and distances above 1.4 are drawn only if there is nothing nearer. The draw of a pair depends only on
    (seed, step, face_id of the anchor, rank of the positive among its identity's face_ids).
    """
    n_dims = batch.anchor_LD.shape[1]

    def select(rows: slice) -> Selected:
        same = batch.same_identity(rows)
        similarity_AR = batch.similarity(rows).double()
        square_AR = (2.0 - 2.0 * similarity_AR).clamp_(_NEAREST_DRAWN**2, 4.0 - 1e-6)
        log_weight_AR = (1.0 - n_dims / 2.0) * square_AR.log()
        log_weight_AR += (1.5 - n_dims / 2.0) * torch.log1p(square_AR / -4.0)
        log_weight_AR.masked_fill_(square_AR > _FARTHEST_DRAWN**2, -torch.inf)
        same.hide(log_weight_AR, -torch.inf)
        negative_AR = same.hide(torch.ones_like(square_AR), 0.0)
        log_weight_AR -= log_weight_AR.amax(1, keepdim=True)  # NaN where nothing is near enough
        reach_AR = torch.where(log_weight_AR.isnan(), negative_AR, log_weight_AR.exp()).cumsum(1)
        draw_AK = counter.uniform(
            seed, step, batch.face_id_L[rows].cpu().numpy(), "distance-weighted", same.column_AK.shape[1]
        )
        whole_A1 = reach_AR[:, -1:].clone()
        target_AK = torch.from_numpy(draw_AK).to(reach_AR) * whole_A1
        target_AK = target_AK.minimum(whole_A1.nextafter(torch.zeros_like(whole_A1)))
        negative_AK = torch.searchsorted(reach_AR, target_AK, right=True)
        anchor_T, k_T = (same.positive_AK & (whole_A1 > 0)).nonzero(as_tuple=True)
        return Selected(anchor_T + rows.start, same.column_AK[anchor_T, k_T], negative_AK[anchor_T, k_T])

    return _over_blocks(batch, select)


def _one_per_anchor(batch: GlobalBatch, *, farthest: bool) -> Selected:
    """For each anchor that has both, its farthest or nearest positive and its nearest negative."""

    def select(rows: slice) -> Selected:
        similarity_AR = batch.similarity(rows)
        same = batch.same_identity(rows)
        positive_A = _extreme_positive(batch, similarity_AR, same, farthest=farthest)
        negative_A = _nearest(batch, same.hide(similarity_AR, -torch.inf))
        anchor_T = ((positive_A >= 0) & (negative_A >= 0)).nonzero()[:, 0]
        return Selected(anchor_T + rows.start, positive_A[anchor_T], negative_A[anchor_T])

    return _over_blocks(batch, select)


def _over_blocks(batch: GlobalBatch, select: Callable[[slice], Selected]) -> Selected:
    none = batch.label_R.new_empty(0)
    parts = [Selected(none, none, none)]
    blocks = row_blocks(len(batch.anchor_LD), len(batch.reference_RD), batch.anchor_LD.device)
    parts += [select(rows) for rows in blocks]
    return Selected(
        torch.cat([part.anchor_T for part in parts]),
        torch.cat([part.positive_T for part in parts]),
        torch.cat([part.negative_T for part in parts]),
    )


def _extreme_positive(batch: GlobalBatch, similarity_AR: Tensor, same: SameIdentity, *, farthest: bool) -> Tensor:
    score_AK = similarity_AR.gather(1, same.column_AK)
    score_AK = (score_AK.neg_() if farthest else score_AK).masked_fill_(~same.positive_AK, -torch.inf)
    edge_A = score_AK.amax(1) - batch.rounding
    anchor_C, k_C = (same.positive_AK & (score_AK >= edge_A[:, None])).nonzero(as_tuple=True)
    return batch.lowest_face_id(anchor_C, same.column_AK[anchor_C, k_C], len(similarity_AR))


def _nearest(batch: GlobalBatch, similarity_AR: Tensor) -> Tensor:
    """The column of each row's largest value, (A,); −1 where all are −inf."""
    best_A = similarity_AR.amax(1)
    edge_A = torch.where(best_A > -torch.inf, best_A - batch.rounding, torch.inf)
    anchor_C, column_C = sparse_nonzero(similarity_AR >= edge_A[:, None])
    return batch.lowest_face_id(anchor_C, column_C, len(similarity_AR))


def _nearest_beyond(batch: GlobalBatch, similarity_AR: Tensor, threshold_AK: Tensor) -> Tensor:
    """For each threshold the column of the largest value below it by more than rounding, (A, K); −1 if none is.

    Values fall into the buckets between an anchor's sorted thresholds, and each bucket keeps its largest, so
    the work is O(R log K) per anchor. Values and thresholds of −inf do not count.
    """
    n_anchors, n_thresholds = threshold_AK.shape
    n_buckets = n_thresholds + 1
    edge_AK, order_AK = (threshold_AK - batch.rounding).sort(1)
    bucket_AR = torch.searchsorted(edge_AK, similarity_AR, right=True)
    best_AB = similarity_AR.new_full((n_anchors, n_buckets), -torch.inf)
    best_AB.scatter_reduce_(1, bucket_AR, similarity_AR, "amax")
    best_AB[:, -1] = torch.inf  # nothing above the highest threshold is selected
    is_best_AR = (similarity_AR >= best_AB.sub_(batch.rounding).gather(1, bucket_AR)) & (similarity_AR > -torch.inf)
    anchor_C, column_C = sparse_nonzero(is_best_AR)
    bucket_C = anchor_C * n_buckets + bucket_AR[anchor_C, column_C]
    chosen_AB = batch.lowest_face_id(bucket_C, column_C, n_anchors * n_buckets).view(n_anchors, n_buckets)
    # The best value below a threshold is that of the highest non-empty bucket below it.
    place_B = torch.arange(n_buckets, device=chosen_AB.device)
    filled_AB = torch.where(chosen_AB >= 0, place_B, 0).cummax(1).values
    sorted_AK = chosen_AB.gather(1, filled_AB)[:, :-1]
    return torch.empty_like(sorted_AK).scatter_(1, order_AK, sorted_AK)
