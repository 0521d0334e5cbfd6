"""The tally of an embed job: how many faces went in, were embedded and were rejected, and the seconds spent on them.

Inputs = embedded + rejected once the job is over. The slowest stage is determined in ``throughput``.
"""

from collections import Counter
from dataclasses import dataclass, field

from metric_core.errors import TooManyBadImages
from workflows.embed.throughput import PoolSizes
from workflows.embed.units import STAGES, UnitRecord


@dataclass
class Tally:
    """Running totals."""

    total: int
    """Faces to embed."""
    sizes: PoolSizes
    unchanged: int = 0
    """Faces in the earlier embeddings of a delta: the share of rejects is one of the whole catalogue."""
    embedded: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Number of rejects by reason."""
    fresh: int = 0
    """Faces that this run has done."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Spent by this run on each stage, summed over all processes."""

    @property
    def rejected(self) -> int:
        """Faces in the quarantine."""
        return self.reasons.total()

    @property
    def done(self) -> int:
        """Faces accounted for."""
        return self.embedded + self.rejected

    def add(self, record: UnitRecord, *, last: bool = True, fresh: bool = False) -> None:
        """Count a record's faces; its rejects count only if no retry follows (``last``). ``fresh``: of this run."""
        self.embedded += record.rows
        if last:
            self.reasons.update(record.reasons)
        if fresh:
            self.fresh += record.rows + record.rejected
            for stage, spent in record.seconds.items():
                self.seconds[stage] += spent

    def reasons_text(self) -> str:
        """Every reason with its number of rejects, the most frequent one first."""
        return ", ".join(f"{name} {count}" for name, count in self.reasons.most_common())

    def require_few_rejects(self, limit: float, quarantine: str) -> None:
        """Raises TooManyBadImages when more than the share ``limit`` of all faces is in the quarantine."""
        faces = self.total + self.unchanged
        if self.rejected > limit * faces:
            raise TooManyBadImages(
                f"{self.rejected} of {faces} faces cannot be embedded ({self.reasons_text()}), more than "
                f"--max-bad-fraction {limit:.2%}; see {quarantine}; what is done stays; repair the source and start "
                f"again with --retry-quarantined, or raise the limit"
            )

    def figures(self, elapsed: float) -> dict[str, float]:
        """{done, images_per_second, rejected, seconds/STAGE…}, ``elapsed`` seconds after the first actor was ready."""
        rate = self.fresh / elapsed if elapsed > 0 else 0.0
        spent = {f"seconds/{stage}": round(s, 2) for stage, s in self.seconds.items()}
        return {"done": self.done, "images_per_second": round(rate, 1), "rejected": self.rejected, **spent}

    def note(self, elapsed: float) -> str:
        """Figures for the progress bar, which itself shows how much is done and how long the rest will take."""
        if not self.fresh:
            return f"{self.rejected} rejects"
        rate, slowest = self.figures(elapsed)["images_per_second"], self.sizes.slowest(self.seconds)
        return f"{rate:.0f}/s, {self.rejected} rejects, {slowest} slowest"
