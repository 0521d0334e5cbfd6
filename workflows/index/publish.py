"""``likeness index publish``: makes a finished version the live one."""

from dataclasses import asdict
from typing import Any

from metric_core import storage
from metric_core.index.store import IndexStore
from workflows.index import publishing
from workflows.index.config import PublishConfig


def run(config: PublishConfig) -> dict[str, Any]:
    """Compare with the live version, and publish.

    Returns:
        {index, version, compared}: the comparison, empty if there was nothing to compare with.

    Raises:
        Missing, Unfinished, Corrupt: the version is not there, or incomplete.
        ConfigError: it holds faces that were erased; or the probes that are given have no names.
        GateStopped: it finds less than the live one, which stays.
    """
    store = IndexStore(storage.absolute(config.index))
    version = store.version(config.version)
    version.manifest()
    publishing.require_none_erased(version)
    found = publishing.publish(store, version, config)
    return {"index": store.uri, "version": version.id, "compared": [asdict(figure) for figure in found]}


def show(result: dict[str, Any]) -> str:
    """The result as lines."""
    return f"index: {result['index']}\nversion: {result['version']}"
