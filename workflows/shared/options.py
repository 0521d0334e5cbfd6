"""The options that every job on Ray takes; nothing heavy is imported."""

from dataclasses import dataclass

from metric_core.options import Options


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """What every job that runs on Ray takes."""

    address: str | None = None
    """Address of a running Ray cluster, auto or HOST:6379; default: RAY_ADDRESS, else one just for this job."""
    verbose: bool = False
    """Show Ray's and MLflow's own messages too."""
