"""``likeness index``: Embeddings to a searchable Index: a template trained once, shards filled in parallel, checked,
tuned and published in one atomic step. A build that was killed continues with the shards that are not done.
"""

import time
from dataclasses import asdict, replace
from typing import Any

from metric_core import storage
from metric_core.artefacts.collection import Collection
from metric_core.index import spec
from metric_core.index.store import IndexStore
from metric_core.index.version import Content
from workflows.index.build import Build
from workflows.index.config import IndexConfig
from workflows.shared import cluster, console, erasures, lease, provenance
from workflows.shared.console import say


def run(config: IndexConfig) -> dict[str, Any]:
    """Build, check, tune and publish.

    Returns:
        {index, version, rows, shards, bytes, recall, seconds}

    Raises:
        FingerprintMismatch: the embeddings are of different models.
        Missing: the embeddings, or a folder given in ``tombstones``, do not exist.
        ConfigError: nothing to index, embeddings that cannot be read as one, or a memory budget that cannot hold it.
        IndexBuildError: a shard failed its checks; nothing was published.
    """
    store = IndexStore(storage.absolute(config.out))
    source = erasures.without_erased(Collection.open(config.embeddings).require_whole(), config.tombstones)
    chosen = spec.choose(
        source.rows,
        source.dim,
        shards=config.shards,
        target_recall=config.target_recall,
        memory_budget=config.memory_bytes,
    )
    plan = {
        "embeddings": source.digest,
        "spec": asdict(chosen),
        "target_recall": config.target_recall,
        "seed": config.seed,
    }
    start = time.monotonic()
    version, finished = store.begin(plan)
    if finished:
        say(f"version {version.id} is built already")
    else:
        with cluster.connected(config), lease.held(store.uri) as held:
            cluster.require_shared([store.uri, *(one.manifest.uri for one in source.sources)])
            content = _content(Build(config, source, chosen, version))
            held.confirm()
            finished = version.finish(content, provenance.record(embeddings=source.uri, faces=source.faces))
    store.publish(version)
    say(f"version {version.id} of {store.uri} is live")
    return {
        "index": store.uri,
        "version": version.id,
        "rows": finished.content["rows"],
        "shards": len(finished.content["shards"]),
        "bytes": sum(shard["bytes"] for shard in finished.content["shards"]),
        "recall": finished.content["recall"]["recall"],
        "seconds": round(time.monotonic() - start, 2),
    }


def _content(work: Build) -> Content:
    """Take all steps of the build and show their progress; returns the content for the version's manifest."""
    with console.bar("index", work.spec.shards + 2) as bar:
        template = work.template()
        bar.update(1, f"{work.spec.factory} trained")
        shards = []
        for shard in work.shards(template):
            shards.append(shard)
            bar.update(1 + len(shards), f"{sum(s.rows for s in shards):,} rows")
        content = work.content(template, shards)
        tuned = work.tune(content)
        bar.update(2 + len(shards), f"recall@{tuned.k} {tuned.recall:.4f}")
    return replace(content, nprobe=tuned.nprobe, recall=asdict(tuned))
