"""The books of an embed job: what went in, what came out, and where the time went.

Inputs = embedded + rejected once the job is over. Also what follows from the figures: the live line, what to scale,
and how long the rest would take.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metric_core.errors import DataError, TooManyBadImages
from workflows.embed.units import Record
from workflows.embed.worker import STAGES, Sample

REMEDIES = {
    "read": "storage is what to bring nearer, or give more --decoders to wait for it",
    "decode": "more CPUs to decode on (--decoders, or --actors without them)",
    "forward": "more CPUs or GPUs for the network (--actors, --gpu), or a faster --precision",
    "write": "storage for --out is what to make faster",
}


@dataclass(frozen=True)
class Pools:
    """How many processes share the work."""

    actors: int
    decoders: int
    """0: the actors decode."""

    def load(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """Seconds a process of its pool spends on each stage, when the pool shares ``seconds`` evenly."""
        ahead = self.decoders or self.actors
        sizes = {"read": ahead, "decode": ahead, "forward": self.actors, "write": self.actors}
        return {stage: seconds.get(stage, 0.0) / sizes[stage] for stage in STAGES}

    def wall(self, seconds: Mapping[str, float]) -> float:
        """Seconds the whole takes when pools overlap and no pool waits."""
        load = self.load(seconds)
        pools = (load["read"] + load["decode"], load["forward"] + load["write"])
        return max(pools) if self.decoders else sum(pools)

    def slowest(self, seconds: Mapping[str, float]) -> str:
        """The stage that holds the others up."""
        load = self.load(seconds)
        ahead = self.decoders and load["read"] + load["decode"] > load["forward"] + load["write"]
        stages = STAGES[:2] if ahead else STAGES[2:] if self.decoders else STAGES
        return max(stages, key=load.__getitem__)


@dataclass
class Books:
    """Running totals of a job."""

    total: int
    """Faces that go in."""
    pools: Pools
    unchanged: int = 0
    """Faces that the earlier embeddings of a delta have: a share of bad ones is one of the whole catalogue."""
    embedded: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejects by reason."""
    fresh: int = 0
    """Faces that this run has done."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """That this run has spent on each stage, summed over all processes."""

    @property
    def rejected(self) -> int:
        """Faces in the quarantine."""
        return self.reasons.total()

    @property
    def done(self) -> int:
        """Faces accounted for."""
        return self.embedded + self.rejected

    def enter(self, record: Record, *, last: bool = True, fresh: bool = False) -> None:
        """A record's faces; its rejects only count when no retry follows it. ``fresh``: of this run."""
        self.embedded += record.rows
        if last:
            self.reasons.update(record.reasons)
        if fresh:
            self.fresh += record.rows + record.rejected
            for stage, spent in record.seconds.items():
                self.seconds[stage] += spent

    def told(self) -> str:
        """The reasons of all rejects, with how often each stands."""
        return ", ".join(f"{name} {count}" for name, count in self.reasons.most_common())

    def refuse_bad(self, limit: float, out: str) -> None:
        """Raises TooManyBadImages when more than the share ``limit`` of all faces is in the quarantine."""
        faces = self.total + self.unchanged
        if self.rejected > limit * faces:
            raise TooManyBadImages(
                f"{self.rejected} of {faces} faces cannot be embedded ({self.told()}), more than --max-bad-fraction "
                f"{limit:.2%}; see {out}/quarantine; what is done stays; mend the source and start again with "
                f"--retry-quarantined, or raise the limit"
            )

    def figures(self, elapsed: float) -> dict[str, float]:
        """{done, images_per_second, rejected, seconds/STAGE…}, ``elapsed`` seconds after the first actor was ready."""
        rate = self.fresh / elapsed if elapsed > 0 else 0.0
        spent = {f"seconds/{stage}": round(s, 2) for stage, s in self.seconds.items()}
        return {"done": self.done, "images_per_second": round(rate, 1), "rejected": self.rejected, **spent}

    def note(self, elapsed: float) -> str:
        """The live line's figures, beside how much is done and how long the rest will take."""
        figures = self.figures(elapsed)
        if not self.fresh:
            return f"{self.rejected} rejects"
        slowest = self.pools.slowest(self.seconds)
        return f"{figures['images_per_second']:.0f}/s, {self.rejected} rejects, {slowest} slowest"

    def breakdown(self) -> str:
        """Where the time went and what to scale."""
        spent = sum(self.seconds.values()) or 1.0
        shares = ", ".join(f"{stage} {s / spent:.0%}" for stage, s in self.seconds.items())
        return f"time went to {shares}; to go faster: {REMEDIES[self.pools.slowest(self.seconds)]}"


def estimate(sample: Sample, faces: int, pools: Pools, price_per_hour: float | None) -> dict[str, Any]:
    """{bytes, seconds, images_per_second, slowest[, cost]} that ``faces`` would take, start-up apart."""
    taken = sample.embedded + sample.rejected
    if not taken:
        raise DataError("the sample holds no faces to measure")
    wall = pools.wall(sample.seconds) / taken * faces
    found: dict[str, Any] = {
        "bytes": round(sample.bytes / taken * faces),
        "seconds": _three(wall),
        "images_per_second": _three(faces / wall),
        "slowest": pools.slowest(sample.seconds),
    }
    return found if price_per_hour is None else found | {"cost": _three(wall / 3600 * price_per_hour)}


def _three(value: float) -> float:
    """Three digits: an estimate has no more."""
    return float(f"{value:.3g}")
