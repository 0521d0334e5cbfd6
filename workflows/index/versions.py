"""``likeness index versions``: what an index can be switched to."""

from typing import Any

from metric_core import storage
from metric_core.index import history
from metric_core.index.store import IndexStore
from workflows.index.config import VersionsConfig


def run(config: VersionsConfig) -> dict[str, Any]:
    """List.

    Returns:
        {index, live, versions: [{version, state, rows, finished, published, forced}]}, the latest last. ``state`` is
        live, finished, unfinished or damaged; ``published`` is when it was made live the last time, or null.

    Raises:
        Missing: there is no index.
    """
    store = IndexStore(storage.absolute(config.index))
    published = {one.version: one for one in history.read(store.uri)}
    found = []
    for info in reversed(store.versions()):
        state = "live" if info.live and info.finished else "finished" if info.finished else "unfinished"
        once = published.get(info.id)
        found.append(
            {
                "version": info.id,
                "state": "damaged" if info.damaged else state,
                "rows": info.rows,
                "finished": info.when,
                "published": once.when if once else None,
                "forced": once.forced if once else [],
            }
        )
    live = next((one["version"] for one in found if one["state"] == "live"), None)
    return {"index": store.uri, "live": live, "versions": found}


def show(result: dict[str, Any]) -> str:
    """The versions as a table."""
    lines = [f"{'version':<16}  {'state':<10} {'rows':>12}  {'finished':<25}  published"]
    for one in result["versions"]:
        rows = "" if one["rows"] is None else f"{one['rows']:,}"
        forced = ", by --force" if one["forced"] else ""
        lines.append(
            f"{one['version']:<16}  {one['state']:<10} {rows:>12}  {one['finished'] or '':<25}  "
            f"{one['published'] or ''}{forced}".rstrip()
        )
    return "\n".join(lines)
