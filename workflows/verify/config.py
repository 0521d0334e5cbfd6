"""The options of ``likeness verify``."""

from dataclasses import dataclass, field
from typing import ClassVar

from metric_core.options import Options, out_of_range


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(Options):
    """Compare two pictures."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input": ("images", "model"),
        "decision": ("far",),
    }

    model: str
    """Model folder, object-store address, or MLflow model URI."""
    images: list[str] = field(default_factory=list, metadata={"positional": True})
    """The two pictures to compare."""
    far: float = 1e-3
    """False accept rate to decide at: the share of impostor pairs that may be accepted, between 0 and 1."""

    def problems(self) -> list[str]:
        problems = out_of_range(self, far="(0, 1)")
        if len(self.images) != 2:
            problems.append(f"{len(self.images)} pictures given; verify compares two")
        return problems
