"""Where the time of an embed job goes, from the seconds its processes spend on each stage: the slowest stage, what to
scale, and how long a whole catalogue takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from metric_core.errors import DataError
from workflows.embed.units import STAGES
from workflows.embed.worker import Sample

REMEDIES = {
    "read": "faster or nearer storage for the images, or more --decoders",
    "decode": "more CPUs for decoding (--decoders, or --actors if there are none)",
    "forward": "more CPUs or GPUs for the network (--actors, --gpu), or a faster --precision",
    "write": "faster storage for --out",
}


@dataclass(frozen=True)
class PoolSizes:
    """How many processes share the work."""

    actors: int
    decoders: int
    """0: the actors decode."""

    def load(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """Seconds that each process spends on each stage if its pool shares ``seconds`` evenly."""
        ahead = self.decoders or self.actors
        sizes = {"read": ahead, "decode": ahead, "forward": self.actors, "write": self.actors}
        return {stage: seconds.get(stage, 0.0) / sizes[stage] for stage in STAGES}

    def wall(self, seconds: Mapping[str, float]) -> float:
        """Seconds that the whole takes if both pools work at the same time and neither waits."""
        load = self.load(seconds)
        pools = (load["read"] + load["decode"], load["forward"] + load["write"])
        return max(pools) if self.decoders else sum(pools)

    def slowest(self, seconds: Mapping[str, float]) -> str:
        """The stage that the others wait for."""
        load = self.load(seconds)
        ahead = self.decoders and load["read"] + load["decode"] > load["forward"] + load["write"]
        stages = STAGES[:2] if ahead else STAGES[2:] if self.decoders else STAGES
        return max(stages, key=load.__getitem__)

    def advice(self, seconds: Mapping[str, float]) -> str:
        """One line: where the time went and what to scale."""
        spent = sum(seconds.values()) or 1.0
        shares = ", ".join(f"{stage} {s / spent:.0%}" for stage, s in seconds.items())
        return f"time went to {shares}; to go faster: {REMEDIES[self.slowest(seconds)]}"


def estimate(sample: Sample, faces: int, sizes: PoolSizes, price_per_hour: float | None) -> dict[str, Any]:
    """{bytes, seconds, images_per_second, slowest[, cost]} for ``faces`` faces, without start-up.

    Raises:
        DataError: the sample is empty.
    """
    taken = sample.embedded + sample.rejected
    if not taken:
        raise DataError("the sample holds no faces to measure; check --faces and --split")
    wall = sizes.wall(sample.seconds) / taken * faces
    found: dict[str, Any] = {
        "bytes": round(sample.bytes / taken * faces),
        "seconds": _three_digits(wall),
        "images_per_second": _three_digits(faces / wall),
        "slowest": sizes.slowest(sample.seconds),
    }
    return found if price_per_hour is None else found | {"cost": _three_digits(wall / 3600 * price_per_hour)}


def _three_digits(value: float) -> float:
    """Rounded to three digits: an estimate is no more exact."""
    return float(f"{value:.3g}")
