"""How far an index to which faces were added has moved from its last full build, and when to build it again.

Lists and codes were trained for the rows of that build. What is added may be distributed otherwise: its rows are then
farther from the centroids of their lists, lists become unequal, and a search finds fewer people with the same work.
"""

# R: sampled rows, Q: probes, D: components, M: lists.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metric_core.index import codec
from metric_core.index.engine import faiss
from metric_core.index.lists import best_lists
from metric_core.index.opened import OpenShard

SIMILARITY, IMBALANCE, IDENTITY, CHANGED = 0.1, 1.5, 0.005, 0.2
"""Bounds: by how much of it the similarity falls, by how many times the imbalance grows, by how much the identity
recall falls, and the share of the rows that are added or masked."""
ROWS = 8_192
"""Rows of a new shard whose similarity is measured."""
_DIGITS = 6  # beyond them, sums of floats may differ between processors


@dataclass(frozen=True)
class Drift:
    """Figures of a version to which faces were added, beside those of the last full build."""

    rows: int
    """rows of the last full build"""
    added: int
    """rows that were added since then"""
    masked: int
    """rows that were hidden since then"""
    probe_similarity: float | None
    """mean inner product of the stored probes and the nearest centroid; None for an index without lists"""
    added_similarity: float | None
    """the same of the rows that this version adds and the centroids of their lists; None if it adds none"""
    imbalance: float | None
    """as ``imbalance`` of the last full build; None for an index without lists"""
    imbalance_now: float | None
    identity: float
    """identity recall of the stored probes in the last full build"""
    identity_now: float

    @property
    def changed(self) -> float:
        """Rows that were added or hidden since the last full build, divided by its rows."""
        return (self.added + self.masked) / max(1, self.rows)

    def advice(self) -> str | None:
        """One line that advises a full build, with the figures that are beyond a bound; None if none is."""
        found = []
        if self.probe_similarity is not None and self.added_similarity is not None:
            fell = 1 - self.added_similarity / self.probe_similarity
            if fell > SIMILARITY:
                found.append(
                    f"new rows have a mean similarity of {self.added_similarity:.3f} to the centroids of their lists, "
                    f"the stored probes one of {self.probe_similarity:.3f} (bound: {SIMILARITY:.0%} less)"
                )
        if self.imbalance is not None and self.imbalance_now is not None:
            grown = self.imbalance_now / self.imbalance
            if grown > IMBALANCE:
                found.append(
                    f"the imbalance of the lists grew from {self.imbalance:.2f} to {self.imbalance_now:.2f} "
                    f"(bound: {IMBALANCE:g} times)"
                )
        if self.identity - self.identity_now > IDENTITY:
            found.append(
                f"the identity recall of the stored probes fell from {self.identity:.4f} to {self.identity_now:.4f} "
                f"(bound: {100 * IDENTITY:g} points)"
            )
        if self.changed > CHANGED:
            found.append(
                f"{self.added:,} rows were added and {self.masked:,} masked since the last full build of {self.rows:,} "
                f"(bound: {CHANGED:.0%})"
            )
        return f"rebuild advised: {'; '.join(found)}" if found else None


def probe_similarity(query_QD: np.ndarray, centroid_MD: np.ndarray | None) -> float | None:
    """Mean inner product of some vectors, float32 (Q, D), and their nearest centroids; None without lists."""
    if centroid_MD is None or not len(query_QD):
        return None
    return round(float(best_lists(query_QD, centroid_MD, 1)[1].mean(dtype=np.float64)), _DIGITS)


def row_similarity(shards: Sequence[OpenShard]) -> float | None:
    """Mean inner product of rows of some shards, as they are stored, and the centroids of their lists, for up to
    ``ROWS`` of each; None without rows or lists."""
    total, count = 0.0, 0
    for shard in shards:
        centroid_MD = shard.centroid_MD
        if centroid_MD is None or not shard.rows:
            continue
        at_R = np.unique(np.linspace(0, shard.rows - 1, min(shard.rows, ROWS)).astype(np.int64))
        list_R = np.searchsorted(np.cumsum(list_sizes(shard)), at_R, side="right")
        score_R = np.einsum("rd,rd->r", shard.vectors_at(at_R), centroid_MD[list_R], dtype=np.float64)
        total, count = total + float(score_R.sum()) * shard.rows / len(at_R), count + shard.rows
    return round(total / count, _DIGITS) if count else None


def list_sizes(shard: OpenShard) -> np.ndarray:
    """int64 (M,): the rows in each list of a shard; empty without lists."""
    ivf = faiss.try_extract_index_ivf(shard.index)
    return np.array([] if ivf is None else codec.list_sizes(ivf), np.int64)


def imbalance(size_M: np.ndarray) -> float | None:
    """By how many times more rows a scan of a random row's list compares than if all lists were equally long, M x sum
    of squares / square of the sum (as FAISS's ``imbalance_factor``): 1 at best; None without rows."""
    size_M = size_M.astype(np.float64)
    total = size_M.sum()
    return round(float(len(size_M) * (size_M**2).sum() / total**2), _DIGITS) if total else None
