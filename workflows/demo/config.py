"""The options of ``likeness demo``."""

from dataclasses import dataclass
from typing import ClassVar

from metric_core.options import out_of_range
from workflows.shared.options import RunOptions


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
