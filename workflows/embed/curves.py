"""The curves of an embed job in MLflow, when there is a store for them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from workflows.embed.config import EmbedConfig
from workflows.embed.tally import Tally

EXPERIMENT = "likeness-embed"
LOG_EVERY_S = 10.0
"""Seconds between two points of a curve."""


def require_ready(config: EmbedConfig) -> None:
    """Raises ConfigError if there is a store, and it does not answer or refuses."""
    if uri := _store(config):
        from workflows.shared import tracking

        tracking.require_ready(uri, EXPERIMENT)


@contextmanager
def logged(config: EmbedConfig, name: str, tally: Tally) -> Iterator[Callable[[float], None]]:
    """An MLflow run called ``name`` for the length of the block.

    Yields a function to be called with the seconds since the first actor was ready, as often as you like: it logs the
    tally's figures every ``LOG_EVERY_S`` seconds, and once more at the end. Without a store it does nothing.

    Raises:
        ConfigError: the tracking server does not answer or refuses.
    """
    uri = _store(config)
    if not uri:
        yield lambda elapsed: None
        return
    from workflows.shared import tracking  # MLflow takes seconds to import

    with tracking.start(uri, EXPERIMENT, name, asdict(config), verbose=config.verbose) as tracker:
        last = 0.0

        def log(elapsed: float) -> None:
            nonlocal last
            if elapsed - last >= LOG_EVERY_S or tally.done == tally.total:
                last = elapsed
                tracker.log(tally.figures(elapsed), step=tally.done)

        yield log


def _store(config: EmbedConfig) -> str | None:
    return config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
