"""``likeness index add``: a delta of Embeddings to a new version of an Index, in work proportional to the delta.

It shares the shards of the version that is added to, hides what was replaced, is gone or erased, and measures drift.
"""

import time
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import Corrupt, JobRunning
from metric_core.index import check
from metric_core.index.drift import Drift
from metric_core.index.layout import KIND, Content
from metric_core.index.store import IndexStore
from metric_core.index.truth import Followed
from metric_core.index.version import Version
from workflows.index import publishing
from workflows.index.adding import Addition
from workflows.index.changes import Base, Change, decide
from workflows.index.config import AddConfig
from workflows.index.job import show
from workflows.index.publishing import Made
from workflows.index.shards import require_same
from workflows.shared import cluster, console, lease, metrics, preflight, provenance
from workflows.shared.console import say

__all__ = ["run", "show"]


def run(config: AddConfig) -> dict[str, Any]:
    """``make`` the version, and publish it.

    Returns:
        {index, version, base, rows, people, shards, bytes, new_bytes, added, erased, replaced, gone, spec, nprobe,
        depth, probes, identity_recall, recall, drift, advice, seconds}; where nothing changes, only {index, version,
        base, rows, added, seconds}, of the version that there is.

    Raises:
        FingerprintMismatch: the embeddings are of another model.
        Missing, Unfinished: the index, the version, the embeddings or a folder given in ``tombstones`` do not exist.
        ConfigError: the embeddings do not fit the version or do not follow what it was built from.
        Corrupt: a part of the embeddings or a file of the version that they are added to is damaged.
        IndexBuildError: a shard failed its checks; nothing was published.
        GateStopped: it finds less than the live version, which stays; it is built, and can be published.
    """
    start = time.monotonic()
    made = make(config)
    publishing.finished(IndexStore(storage.absolute(config.index)), made, config)
    return made.result | {"seconds": round(time.monotonic() - start, 2)}


def make(config: AddConfig) -> Made:
    """Decide what changes, build the new shards, hide faces, and measure. Raises as ``run``, but for GateStopped."""
    store = IndexStore(storage.absolute(config.index))
    given = [Embeddings.open(address.strip()) for address in config.embeddings.split(",")]
    asked = Base.of(store.version(config.version))
    change = _change(asked, given, config.tombstones)
    base = change.base
    if change.empty:
        say(f"{base} has all of {config.embeddings} already: there is nothing to add")
        found = {"index": store.uri, "version": base.version.id, "base": base.version.id, "rows": base.content.rows}
        return Made(found | {"added": 0})
    version = Version.of(store.uri, change.plan)
    finished = None
    begun = manifest.begun(version.uri)
    if begun:
        version, finished = store.begin(change.plan, say)
    before = Content.parse(finished.content) if finished else None
    damaged = list(check.damage(version, before, verify=config.verify)) if before else []
    if damaged or config.verify:
        _require_whole(base, verify=config.verify)
    for line in damaged:
        say(line)
    if finished and not damaged:
        say(f"version {version.id} is built already")
    else:
        work = Addition(change, version, before)
        with cluster.connected(config) if work.shards else nullcontext():
            if work.shards and change.source:
                preflight.require_nodes(store.uri, [one.manifest.uri for one in change.source.sources])
            if not begun:
                version, finished = store.begin(change.plan, say)
            with lease.held(store.uri) as held:
                if config.version is None:
                    _require_live(store, asked.version)
                content, left, spent = _content(work, config.index)
                held.confirm()
                finished = _finished(work, content, spent)
        _say_left(left)
    content = Content.parse(finished.content)
    advice = None if content.drift is None else Drift(**content.drift).advice()
    if advice:
        say(advice)
    return Made(_result(store, version, change, content, advice), version, change.masked_M)


def _change(base: Base, given: list[Embeddings], tombstones: str | None) -> Change:
    """What changes. If the version has the embeddings already and this command made it, what it changed then, so that a
    command that is repeated finds its own version."""
    change = decide(base, given, tombstones)
    if change.source is None and base.content.base is not None:
        uri = base.version.index_uri
        earlier = Version(uri, base.content.base["version"])
        if earlier.finished:
            then = decide(Base.of(earlier), given, tombstones)
            if Version.of(uri, then.plan) == base.version:
                return then
    return change


def _require_live(store: IndexStore, version: Version) -> None:
    """Raises JobRunning if another run published a version since this one began: it would be undone."""
    if (live := store.current()) != version:
        raise JobRunning(
            f"another run published version {live.id} of {store.uri} meanwhile, in place of {version.id}, which is "
            f"added to; start again"
        )


def _require_whole(base: Base, *, verify: bool) -> None:
    """Raises Corrupt if the version that is added to is damaged, which the command that built it mends."""
    if lines := list(check.damage(base.version, base.content, verify=verify)):
        raise Corrupt("\n".join([*lines, base.remedy]))


def _content(work: Addition, name: str) -> tuple[Content, Followed, float]:
    """Take all steps and show their progress; returns the content for the version's manifest, the probes that are left,
    and CPU seconds that opening and measuring the new version took: the only step that does not grow with the delta."""
    count = len(work.shards.runs) if work.shards else 0
    with console.bar("index add", count + 1) as bar:
        rows = 0
        for number, built in enumerate(work.shards.build() if work.shards else ()):
            rows += built
            bar.update(1 + number, f"{rows:,} rows")
            metrics.publish("index add", name, {"done": 1 + number, "total": count})
        content, left = work.content()
        clock = time.process_time()
        content = work.measured(content, left.truth)
        spent = time.process_time() - clock
        bar.update(1 + count, f"identity recall {content.recall['identity']:.4f}")
    return content, left, spent


def _say_left(left: Followed) -> None:
    if left.masked or left.short:
        say(
            f"{left.masked:,} stored probes do not count any more because they are hidden themselves, and "
            f"{left.short:,} because too many of their stored neighbours are; {len(left.truth.probes):,} are left"
        )


def _finished(work: Addition, content: Content, spent: float) -> Manifest:
    """Write the manifest, with the CPU seconds that were ``spent`` on measuring.

    Raises:
        IndexBuildError: a version that was mended is not what it was before.
    """
    if work.before is not None:
        new, old = (Manifest.of("", KIND, asdict(one), {}) for one in (content, work.before))
        require_same(work.version, new.digest, old.digest)
    stored, source = work.change.base.stored, work.change.source
    more = [] if source is None else [source.uri]
    about = provenance.record(
        embeddings=",".join([*filter(None, [stored.noted("embeddings")]), *more]),
        faces=(None if source is None else source.faces) or stored.noted("faces"),
        measured={"cpu": round(spent, 3)},
    )
    return work.version.finish(content, about)


def _result(
    store: IndexStore, version: Version, change: Change, content: Content, advice: str | None
) -> dict[str, Any]:
    before = change.base.version.sizes()
    return {
        "index": store.uri,
        "version": version.id,
        "base": change.base.version.id,
        "rows": content.rows,
        "people": content.people,
        "shards": len(content.shards),
        "bytes": content.bytes,
        "new_bytes": sum(size for address, size in version.sizes().items() if address not in before),
        "added": change.added,
        **{why: len(id_M) for why, id_M in change.hidden.items()},
        "spec": content.spec.factory,
        "nprobe": content.nprobe,
        "depth": content.depth,
        "probes": content.recall["probes"],
        "identity_recall": content.recall["identity"],
        "recall": content.recall["recall"],
        "drift": content.drift,
        "advice": advice,
    }
