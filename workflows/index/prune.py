"""``likeness index prune``: removes old versions, and the files that no version lists any more."""

from datetime import datetime, timedelta, timezone
from typing import Any

from metric_core import storage
from metric_core.errors import ConfigError
from metric_core.index import prune
from metric_core.index.spec import shown
from metric_core.index.store import IndexStore, VersionInfo
from workflows.index.config import PruneConfig
from workflows.shared import lease


def run(config: PruneConfig) -> dict[str, Any]:
    """Prune.

    Returns:
        {index, removed, files, bytes, dry_run}: the ids of the versions that went, the number of files beside the
        versions that no other one lists, and the bytes of all.

    Raises:
        ConfigError: the live version or one that is not there is named.
        Corrupt: a version that stays is damaged, so what it lists is unknown.
        JobRunning: another job works on the index.
        Missing: there is no index.
    """
    store = IndexStore(storage.absolute(config.index))
    store.versions()  # before a lease is written
    with lease.held(store.uri):
        gone = _gone(config, store.versions())
        done = prune.prune(store, gone, dry=config.dry_run)
    return {
        "index": store.uri,
        "removed": done.versions,
        "files": len(done.files),
        "bytes": done.bytes,
        "dry_run": config.dry_run,
    }


def show(result: dict[str, Any]) -> str:
    """The result in one line."""
    verb = "would remove" if result["dry_run"] else "removed"
    which = f": {', '.join(result['removed'])}" if result["removed"] else ""
    count = len(result["removed"])
    return (
        f"{verb} {count} version{'' if count == 1 else 's'}{which}; {result['files']} files that no version lists; "
        f"{shown(result['bytes'])}"
    )


def _gone(config: PruneConfig, versions: list[VersionInfo]) -> list[str]:
    there = {one.id: one for one in versions}
    problems = [f"version {name} is not there" for name in config.version if name not in there]
    problems += [
        f"version {name} is the live one; publish another one first"
        for name in config.version
        if name in there and there[name].live
    ]
    if problems:
        raise ConfigError.of(problems)
    gone = set(config.version)
    finished = [one for one in versions if one.finished]
    old = {one.id for one in finished}
    if config.keep is not None:
        old -= {one.id for one in finished[max(0, len(finished) - config.keep) :]}
    if config.hours is not None:
        before = datetime.now(timezone.utc) - timedelta(hours=config.hours)
        old = {one.id for one in finished if one.id in old and one.when and datetime.fromisoformat(one.when) < before}
    if config.keep is not None or config.hours is not None:
        gone |= old
    if config.unfinished:
        gone |= {one.id for one in versions if not one.finished and not one.damaged}
    return sorted(gone - {one.id for one in versions if one.live})
