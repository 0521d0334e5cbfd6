"""When to warn that the embeddings collapse into one point, judged by the figures of ``health``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import SupportsFloat

from metric_core.learn.objective import Distance
from metric_core.options import Options, out_of_range


@dataclass(frozen=True)
class Collapse(Options):
    """Decides from a step's health whether the embeddings have collapsed, or are about to."""

    rank: float = 2.0
    """Effective rank of the embeddings, 1 or more, below which they lie on a line or in a point."""
    distance: float = 0.05
    """Median Euclidean distance to the nearest negative below which different people coincide, whatever distance is
    learnt. On LFW the default recipe falls to 0.1 and recovers; batch-hard triplets that never recover lie below
    0.02."""
    patience: int = 20
    """Successive steps that must look collapsed: a network often comes close to collapse at the start."""

    def problems(self) -> list[str]:
        return out_of_range(self, rank="[1, inf)", distance="(0, inf)", patience="[1, inf)")

    def watch(self, streak: int, health: Mapping[str, SupportsFloat], distance: Distance) -> tuple[int, str | None]:
        """The number of suspicious steps in a row up to this step, and a warning if there is one to give.

        ``streak`` is the number before this step; keep it in the checkpoint. ``distance`` is the distance in which
        ``health`` is measured. The warning is given once, when the streak reaches the patience.
        """
        rank, nearest = float(health["effective_rank"]), to_euclidean(float(health["d_an_q50"]), distance)
        suspicious = rank < self.rank or nearest < self.distance
        streak = streak + 1 if suspicious else 0
        if streak != self.patience:
            return streak, None
        return streak, (
            f"the embeddings have collapsed: for {streak} steps effective rank {rank:.2f} (healthy: above "
            f"{self.rank}) or median Euclidean distance to the nearest stranger {nearest:.2g} (healthy: above "
            f"{self.distance}). Try a lower learning rate, the semi-hard miner first, or a larger margin."
        )


def to_euclidean(d: float, distance: Distance) -> float:
    """Converts a distance of two unit vectors to Euclidean; a negative one (rounding) gives 0, and NaN gives NaN."""
    square = {"euclidean": d * d, "squared-euclidean": d, "cosine": 2.0 * d}[distance]
    return math.sqrt(max(square, 0.0))
