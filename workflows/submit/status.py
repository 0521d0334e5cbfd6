"""``likeness jobs status``: how a submitted job is doing."""

from typing import Any

from workflows.submit import names
from workflows.submit.config import OneConfig
from workflows.submit.head import Head
from workflows.submit.listing import facts


def run(config: OneConfig) -> dict[str, Any]:
    """State, times and origin of the latest job of a name. Raises Missing if the cluster has none."""
    return facts(names.latest(Head(config.head).jobs(), config.name))
