"""``likeness index rollback``: makes the version that was live before the live one again."""

from typing import Any

from metric_core import storage
from metric_core.index.store import IndexStore
from workflows.index import publishing
from workflows.index.config import RollbackConfig
from workflows.shared.console import say


def run(config: RollbackConfig) -> dict[str, Any]:
    """Go back. The version is not compared with the live one: going back is how a bad one is left.

    Returns:
        {index, version}

    Raises:
        Missing: no other version was live before, or not the one that is named.
        Corrupt: the version is damaged; the live one stays.
        ConfigError: it holds faces that were erased; the live one stays.
    """
    store = IndexStore(storage.absolute(config.index))
    version = store.earlier(config.to)
    publishing.require_none_erased(version)
    store.roll_back(version)
    say(f"version {version.id} of {store.uri} is live again")
    return {"index": store.uri, "version": version.id}
