"""The options of ``likeness verify``."""

from dataclasses import dataclass, field

from metric_core.options import Options, out_of_range


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(Options):
    """Compare two pictures."""

    model: str
    """Model folder, object-store address, or MLflow model URI."""
    images: list[str] = field(default_factory=list, metadata={"positional": True})
    """The two pictures."""
    far: float = 1e-3
    """False accept rate to decide at: the share of strangers' pairs that may pass."""

    def problems(self) -> list[str]:
        problems = out_of_range(self, far="(0, 1)")
        if len(self.images) != 2:
            problems.append(f"{len(self.images)} pictures given; verify compares two")
        return problems
