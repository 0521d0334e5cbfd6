"""``likeness index``: Embeddings to a searchable Index: an index chosen on a sample, shards built in parallel, checked,
tuned and published in one atomic step. A build that was killed continues, and a damaged index is mended.
"""

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ConfigError, IndexBuildError, Occupied
from metric_core.index import check, footprint
from metric_core.index.corpus import Corpus
from metric_core.index.layout import KIND, Content
from metric_core.index.spec import IndexSpec, shown
from metric_core.index.store import IndexStore
from metric_core.index.version import Version
from workflows.index import picture, publishing
from workflows.index.build import Build
from workflows.index.config import IndexConfig
from workflows.index.publishing import Made
from workflows.index.shards import memory_of, require_same
from workflows.shared import cluster, console, erasures, lease, metrics, preflight, provenance
from workflows.shared.console import say


def run(config: IndexConfig) -> dict[str, Any]:
    """``make`` the version, and publish it.

    Returns:
        {index, version, rows, people, shards, bytes, spec, nprobe, depth, identity_recall, recall, memory, seconds};
        after a dry run, {spec, rows, shards, bytes, memory, task_memory, sample_rows, identity_recall, cpu_seconds,
        seconds}.

    Raises:
        FingerprintMismatch: the embeddings are of different models.
        Occupied: ``out`` holds something other than an index.
        Missing: the embeddings, or a folder given in ``tombstones``, do not exist.
        ConfigError: nothing to index, embeddings that cannot be read as one, or budgets and targets that no index
            meets.
        Corrupt: a part was damaged or changed, or holds a face twice.
        Occupied: the version was built before faces were erased from the embeddings, and still holds them.
        IndexBuildError: a shard failed its checks, or the index misses its target; nothing was published.
        GateStopped: it finds less than the live version, which stays; it is built, and can be published.
    """
    start = time.monotonic()
    made = make(config)
    publishing.finished(IndexStore(storage.absolute(config.out)), made, config)
    return made.result | {"seconds": round(time.monotonic() - start, 2)}


def make(config: IndexConfig) -> Made:
    """Choose, build, check and tune. Raises as ``run``, but for GateStopped."""
    store = IndexStore(storage.absolute(config.out))
    if not config.dry_run:
        store.require_index_or_nothing()  # before anything is read, and the nodes are asked
    source = erasures.without_erased(Collection.open(config.embeddings).require_whole(), config.tombstones)
    corpus = Corpus.of(source)
    if not corpus.rows:
        raise ConfigError(f"{source.uri} has no vectors to index; look at its quarantine and at the erased faces")
    if config.spec is not None:
        IndexSpec(corpus.dim, config.spec)  # refused before Ray starts and anything is written
    if config.dry_run:
        return Made(_estimate(Build(config, corpus, Version(store.uri, "dry-run"))))
    plan = {
        "embeddings": source.origin,  # or as it was called at first, see below
        "target_identity_recall": config.target_identity_recall,
        "target_recall": config.target_recall,
        "memory_budget": config.memory_bytes,
        "disk_budget": config.disk_bytes,
        "spec": config.spec,
        "shards": config.shards,
        "seed": config.seed,
    }
    named = erasures.name_in_plans(source, lambda name: _exists(store, plan | {"embeddings": name}))
    plan["embeddings"] = named
    version, finished = Version.of(store.uri, plan), None
    if begun := manifest.begun(version.uri):
        version, finished = _begin(store, plan)
    before = Content.parse(finished.content) if finished else None
    work = Build(config, corpus, version, before, named)
    if before and _generation(source):
        _require_without_erased(version, before, corpus)
    damaged = list(check.damage(version, before, verify=config.verify)) if before else []
    for line in damaged:
        say(line)
    if finished and not damaged:
        say(f"version {version.id} is built already")
    else:
        with cluster.connected(config):
            preflight.require_nodes(store.uri, [one.manifest.uri for one in source.sources])
            if not begun:
                _begin(store, plan)
            with lease.held(store.uri) as held:
                if not finished and store.forget_erased(version, _generation(source)):
                    say(f"faces were erased since version {version.id} was begun, so it starts again without them")
                try:
                    content = _content(work)
                except ConfigError:
                    store.forget_plan(version)  # nothing was built that could be continued
                    raise
                held.confirm()
                finished = _finished(work, content)
    content = Content.parse(finished.content)
    if config.picture:
        picture.draw(content, storage.absolute(config.picture))
    measured = finished.provenance.get("measured")
    memory = measured.get("memory") if isinstance(measured, dict) else None  # no digest covers it
    return Made(_result(store, version, content, memory), version, _left_out(source))


def _left_out(source: Collection) -> np.ndarray:
    """int64, sorted: faces of the inputs that are erased, gone, or embedded again."""
    return np.unique(np.concatenate([layer.hidden_M for layer in source.layers]))


def _exists(store: IndexStore, plan: dict[str, Any]) -> bool:
    return bool(storage.names(Version.of(store.uri, plan).uri))


def _generation(source: Collection) -> str:
    """The digest of embeddings that faces were erased from; empty for others, which follow from the plan."""
    return source.digest if any(one.manifest.predecessors for one in source.sources) else ""


def _require_without_erased(version: Version, before: Content, corpus: Corpus) -> None:
    """Raises Occupied if a finished version has faces that were erased from its embeddings since."""
    if (more := before.rows - corpus.rows) > 0:
        raise Occupied(
            f"version {version.id} of {version.index_uri} was built before {more} faces were erased from its "
            f"embeddings, and still holds them; remove them with likeness erase --index {version.index_uri}"
        )


def show(result: dict[str, Any]) -> str:
    """The result as lines, with bytes in binary units."""
    bytes_of = ("bytes", "new_bytes", "memory", "task_memory")
    sizes = {name: shown(result[name]) for name in bytes_of if result.get(name) is not None}
    return "\n".join(f"{name}: {value}" for name, value in (result | sizes).items() if value is not None)


def _content(work: Build) -> Content:
    """Take all steps of the build and show their progress; returns the content for the version's manifest."""
    plan = work.plan()
    shards = len(work.corpus.runs(plan.shards))
    for line in _table(plan.choice["candidates"]):
        say(line)
    if work.config.shards and shards < work.config.shards:
        say(f"the embeddings have parts for {shards} shards, not {work.config.shards}")
    with console.bar("index", shards + 1) as bar:
        rows = 0
        for number, built in enumerate(work.shards(plan)):
            rows += built
            bar.update(1 + number, f"{rows:,} rows")
            metrics.publish("index", work.config.out, {"done": 1 + number, "total": shards})
        content = work.tune(work.content(plan))
        bar.update(1 + shards, f"identity recall {content.recall['identity']:.4f}")
    return content


def _finished(work: Build, content: Content) -> Manifest:
    """Write the manifest, with what a search of 10,000 probes was measured to take.

    Raises:
        IndexBuildError: it takes more memory than the budget; or a version that was mended is not what it was before.
    """
    measured = footprint.measure(work.version, content)
    budget = work.config.memory_bytes
    spent = measured.cpu_per_probe * 1e6
    say(f"10,000 probes take {shown(measured.memory)} of memory and {spent:.0f} µs of a CPU each")
    if budget is not None and measured.memory > budget:
        raise IndexBuildError(
            f"a search of the index was measured to take {shown(measured.memory)} of memory, more than the budget of "
            f"{shown(budget)}; nothing was published; give --memory-budget {measured.memory}, or less for a smaller one"
        )
    source = work.corpus.collection
    about = provenance.record(embeddings=source.uri, faces=source.faces, plans=source.plan_ids)
    about |= {"measured": asdict(measured)}
    if work.before is not None:
        new, old = (Manifest.of("", KIND, asdict(one), {}) for one in (content, work.before))
        require_same(work.version, new.digest, old.digest)
    return work.version.finish(content, about)


def _begin(store: IndexStore, plan: dict[str, Any]) -> tuple[Version, Manifest | None]:
    """``store.begin``; says which unfinished versions of an older format stay as they are."""
    version, finished = store.begin(plan, say)
    for other in store.versions():
        if not other.finished and other.id != version.id and store.version(other.id).format() == 1:
            say(
                f"version {other.id} was begun in an older format and never finished; it is left as it is, and "
                f"version {version.id} is built beside it"
            )
    return version, finished


def _estimate(work: Build) -> dict[str, Any]:
    """What a build would take, from a sample that is really built and searched."""
    clock = time.process_time()
    made = work.choose()
    cpu = time.process_time() - clock
    for line in _table([candidate.row() for candidate in made.table]):
        say(line)
    chosen = made.chosen
    runs = work.corpus.runs(chosen.shards)
    tasks = [memory_of(chosen.spec, sum(part.rows for part in run)) for run in runs]
    assert chosen.tuned is not None, "an index is chosen only if it was tried"
    return {
        "spec": chosen.spec.factory,
        "rows": work.corpus.rows,
        "shards": len(runs),
        "bytes": chosen.disk,
        "memory": chosen.memory,
        "task_memory": max(tasks),
        "sample_rows": made.sample_rows,
        "identity_recall": chosen.tuned.identity,
        "cpu_seconds": round(cpu + made.seconds_per_row * work.corpus.rows, 1),
    }


def _table(candidates: list[dict[str, Any]]) -> list[str]:
    """The candidates as lines of a table."""
    head = f"{'spec':<38} {'memory':>9} {'disk':>9} {'nprobe':>6} {'depth':>5} {'identity':>8} {'µs':>7}"
    lines = [head]
    for one in candidates:
        identity = "" if one["identity"] is None else f"{one['identity']:.4f}"
        work = "" if one["work"] is None else f"{one['work'] / 1000:.0f}"
        lines.append(
            f"{one['spec']:<38} {shown(one['memory']):>9} {shown(one['disk']):>9} {one['nprobe'] or '':>6} "
            f"{one['depth'] or '':>5} {identity:>8} {work:>7}  {one['note']}"
        )
    return lines


def _result(store: IndexStore, version: Version, content: Content, memory: int | None) -> dict[str, Any]:
    return {
        "index": store.uri,
        "version": version.id,
        "rows": content.rows,
        "people": content.people,
        "shards": len(content.shards),
        "bytes": content.bytes,
        "spec": content.spec.factory,
        "nprobe": content.nprobe,
        "depth": content.depth,
        "identity_recall": content.recall["identity"],
        "recall": content.recall["recall"],
        "memory": memory,
    }
