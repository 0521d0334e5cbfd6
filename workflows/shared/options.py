"""The options that every job on Ray takes; nothing heavy is imported."""

from dataclasses import dataclass
from typing import ClassVar

from metric_core.options import Options


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """What every job that runs on Ray takes."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"how it runs": ("address", "verbose")}

    address: str | None = None
    """Address of a running Ray cluster, auto or HOST:6379; default: RAY_ADDRESS, else a local cluster that is started
    for this job and stopped again."""
    verbose: bool = False
    """Show the messages of Ray and MLflow as well."""
