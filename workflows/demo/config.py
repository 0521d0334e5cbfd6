"""The options of ``likeness demo``."""

from dataclasses import dataclass
from typing import ClassVar

from metric_core.image.spec import Augmentation
from metric_core.options import out_of_range
from workflows.shared.options import RunOptions
from workflows.train.config import TrainConfig

IDENTITIES = 32
"""People per batch of the training."""
VALID_FRACTION = 1 / 10
"""Share of people that the training never sees."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig(RunOptions):
    """The whole chain, on faces drawn here or on your own."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input and output": ("source", "out"),
        "faces": ("people", "pictures", "seed"),
        "training": ("steps", "workers"),
    }

    out: str = "likeness-demo"
    """Local folder for everything that the demo makes."""
    source: str | None = None
    """A folder with one folder of pictures per person, to use instead of drawn faces."""
    people: int = 1000
    """Number of people to draw, 12 or more."""
    pictures: int = 8
    """Pictures to draw per person."""
    steps: int = 700
    """Training steps."""
    workers: int | None = None
    """Training workers; default: 2 where there are 2 CPUs."""
    seed: int = 0
    """Random seed for the faces, the split and the training."""

    def problems(self) -> list[str]:
        problems = out_of_range(self, people="[12, inf)", pictures="[2, inf)", steps="[1, inf)", workers="[1, inf)")
        if "://" in self.out:
            problems.append(f"out is {self.out}; the demo writes to a local folder")
        return problems

    def training(self, faces: str, out: str, tracking_uri: str, workers: int) -> TrainConfig:
        """The options of the training."""
        return TrainConfig(
            faces=faces,
            out=out,
            workers=workers,
            identities=IDENTITIES,
            steps=self.steps,
            warmup=min(50, self.steps),
            evaluate_every=-(-self.steps // 3),
            image_size=56,
            learning_rate=2e-3,
            colour="rgb",
            align="none",
            crop=1.0,
            standardise=False,
            # The drawn scenes vary as it is.
            augmentation=Augmentation(rotate=0, scale=0, shift=0.03, light=0, erase=0),
            seed=self.seed,
            tracking_uri=tracking_uri,
            verbose=self.verbose,
        )
