"""What training minimises, as options: the loss, its distance, its miner and their parameters.

All problems of the options are reported at once. What the choices do is in ``step``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metric_core.options import Options, out_of_range

Distance = Literal["euclidean", "squared-euclidean", "cosine"]
"""The distance of unit vectors, for which ‖x − y‖² = 2(1 − cos)."""
Form = Literal["hinge", "soft"]
Loss = Literal["triplet", "contrastive", "softall", "multi-similarity", "multi-view"]
Miner = Literal["auto", "batch-hard", "easy-positive", "semi-hard", "distance-weighted", "all", "multi-similarity"]
Reduction = Literal["anchors", "active"]

LARGEST: dict[str, float] = {"euclidean": 2.0, "squared-euclidean": 4.0, "cosine": 2.0}
"""The largest distance between two unit vectors; the smallest is 0."""

_MINERS: dict[str, tuple[str, ...]] = {  # "auto" is the first
    "triplet": ("batch-hard", "easy-positive", "semi-hard", "distance-weighted", "all"),
    "contrastive": ("all",),
    "softall": ("all",),
    "multi-similarity": ("multi-similarity", "all"),
    "multi-view": ("all",),
}


@dataclass(frozen=True)
class Objective(Options):
    """What training minimises. Raises ConfigError with every problem at once."""

    loss: Loss = "triplet"
    """The loss, a function of metric_core.learn.loss. multi-view needs faces with views."""
    distance: Distance = "euclidean"
    """Distance between unit vectors: euclidean in [0, 2], squared-euclidean in [0, 4], cosine (1 − cos) in [0, 2]."""
    miner: Miner = "auto"
    """Which pairs or triplets the loss uses. auto: batch-hard for triplet, the paper's own pairs for multi-similarity,
    all for the others, which use every pair. triplet takes every miner but multi-similarity."""
    margin: float = 0.2
    """triplet: how much farther a negative should be than a positive; contrastive: how far a negative should be. In
    units of the distance, above 0 and below its largest value."""
    positive_margin: float = 0.0
    """contrastive: positives nearer than this cost nothing. In units of the distance, 0 or more and below the
    margin."""
    form: Form = "hinge"
    """triplet: hinge, max(0, d_ap − d_an + margin), or soft, softplus(d_ap − d_an), without a margin."""
    reduction: Reduction = "anchors"
    """How losses are averaged. anchors: mean over anchors of the mean over each anchor's triplets; active: mean over
    the triplets whose loss is not 0 (triplet with hinge), or over each anchor's pairs that cost something
    (contrastive)."""
    temperature: float = 0.1
    """softall and multi-view: τ, in units of the distance, above 0. A small one weights the hardest pairs most."""
    alpha: float = 2.0
    """multi-similarity: sharpness for positives, per unit of the distance, above 0."""
    beta: float = 50.0
    """multi-similarity: sharpness for negatives, per unit of the distance, above 0."""
    base: float = 0.5
    """multi-similarity: λ, the distance that should separate positives from negatives."""
    epsilon: float = 0.1
    """multi-similarity with its own miner: slack ε, in units of the distance, 0 or more."""

    memory_rows: int = 0
    """Embeddings of earlier batches to compare with as well, all workers together; 0: none."""
    memory_max_age: int = 0
    """Steps after which a row of the memory is too stale to be used; 0: no limit."""
    memory_weight: float = 1.0
    """Weight of the loss against the memory, relative to the batch's own, above 0."""
    hardest_from_memory: bool = False
    """Let batch-hard choose the hardest of the memory, too. Off by default: the hardest of stale embeddings are often
    merely the most stale, and learning from them hurts."""

    @property
    def pairs(self) -> str:
        """The miner, with auto resolved."""
        return _MINERS[self.loss][0] if self.miner == "auto" else self.miner

    def problems(self) -> list[str]:
        above = "(0, inf)"
        problems = out_of_range(self, temperature=above, alpha=above, beta=above, memory_weight=above)
        problems += out_of_range(self, epsilon="[0, inf)", memory_rows="[0, inf)", memory_max_age="[0, inf)")
        largest = LARGEST.get(self.distance, 4.0)
        if not 0.0 < self.margin < largest:
            problems.append(
                f"margin is {self.margin}; it must be above 0 and below {largest}, the largest "
                f"{self.distance} distance of unit vectors; with a larger margin every triplet stays active"
            )
        if not 0.0 <= self.positive_margin < self.margin:
            problems.append(f"positive_margin is {self.positive_margin}; it must be 0 or more and below the margin")
        if not 0.0 <= self.base <= largest:
            problems.append(f"base is {self.base}; it must be from 0 to {largest}, as a {self.distance} distance is")
        if self.loss in _MINERS and self.miner not in ("auto", *_MINERS[self.loss]):
            allowed = ", ".join(("auto", *_MINERS[self.loss]))
            problems.append(f"miner is {self.miner!r}; with loss {self.loss} it must be one of {allowed}")
        if self.loss == "triplet" and self.memory_rows > 0 and self.pairs != "all":
            if self.pairs != "batch-hard":
                problems.append(f"miner is {self.pairs!r} with a memory; for triplet it must be all or batch-hard")
            elif not self.hardest_from_memory:
                problems.append(
                    "miner is 'batch-hard' with a memory, which would learn from its stalest rows; use another loss "
                    "or miner 'all', or set hardest_from_memory"
                )
        if self.form == "soft":
            if self.reduction == "active":
                problems.append("reduction is 'active' but the soft form is never inactive; use 'anchors'")
            if self.miner == "all" and self.loss == "triplet":
                problems.append("form is 'soft' with miner 'all'; use loss 'softall', the soft form over all triplets")
        return problems
