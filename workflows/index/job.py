"""``likeness index``: Embeddings to a searchable Index: a template trained once, shards filled in parallel, checked,
tuned and published in one atomic step. A build that was killed continues with the shards that are not done.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from metric_core import storage
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.embeddings import Vectors
from metric_core.index import build, codec, recall, spec, store
from metric_core.index.recall import Tuned
from metric_core.index.spec import IndexSpec
from metric_core.index.store import Content, Shard
from workflows.index.config import IndexConfig
from workflows.shared import cluster, console, erasures, lease, provenance
from workflows.shared.console import say

QUERIES = 256
"""Vectors that recall is measured with; 256 x 10 neighbours put its standard error below 0.2 % at 0.99."""
NEIGHBOURS = 10


def run(config: IndexConfig) -> dict[str, Any]:
    """Build, check, tune and publish.

    Returns:
        {index, version, rows, shards, bytes, recall, seconds}

    Raises:
        FingerprintMismatch: the embeddings are of different models.
        Missing: the embeddings, or the tombstones that are named, are not there.
        ConfigError: nothing to index, embeddings that cannot be read as one, or a memory budget that cannot hold it.
        IndexBuildError: a shard failed its checks; nothing was published.
    """
    out = storage.absolute(config.out)
    source = erasures.left_out(Collection.open(config.embeddings).require_whole(), config.tombstones)
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
    version, done = store.begin(out, plan)
    if done:
        say(f"version {version} is built already")
        content = done.content
    else:
        with cluster.connected(config), lease.held(out) as held:
            cluster.require_shared([out, *(one.manifest.uri for one in source.sources)])
            built = _build(config, out, version, source, chosen)
            held.confirm()
            made = provenance.record(embeddings=source.uri, faces=source.faces)
            content = store.finish(out, version, built, made).content
    store.publish(out, version)
    say(f"version {version} of {out} is live")
    return {
        "index": out,
        "version": version,
        "rows": content["rows"],
        "shards": len(content["shards"]),
        "bytes": sum(shard["bytes"] for shard in content["shards"]),
        "recall": content["recall"]["recall"],
        "seconds": round(time.monotonic() - start, 2),
    }


def _build(config: IndexConfig, out: str, version: str, source: Collection, chosen: IndexSpec) -> Content:
    with console.bar("index", chosen.shards + 2) as bar:
        template = _template(config, out, version, source, chosen)
        bar.update(1, f"{chosen.factory} trained")
        shards: list[Shard] = []
        for shard in _shards(out, version, source, chosen, template):
            shards.append(shard)
            bar.update(1 + len(shards), f"{sum(s.rows for s in shards):,} rows")
        content = Content(
            fingerprint=source.fingerprint,
            namespace=source.namespace,
            spec=chosen,
            template=codec.template_hash(template),
            shards=sorted(shards, key=lambda s: s.number),
            rows=source.rows,
            nprobe=chosen.nprobe,
            recall={},
            inputs={"embeddings": source.digest},
        )
        tuned = _tune(config, out, version, source, content)
        content = replace(content, nprobe=tuned.nprobe, recall=asdict(tuned))
        bar.update(2 + len(shards), f"recall@{tuned.k} {tuned.recall:.4f}")
    return content


def _template(config: IndexConfig, out: str, version: str, source: Collection, chosen: IndexSpec) -> bytes:
    """Trained once; every shard starts as a copy of it, since FAISS merges shards of different training silently."""
    found = store.template(out, version)
    if found is not None:
        return found
    sample_ND = np.empty((0, chosen.dim), np.float32)
    if chosen.train_rows:
        sample_ND = build.sample(source.iter_vectors(), chosen.train_rows, config.seed, "index-train").embedding_ND
    return store.put_template(out, version, build.train_template(sample_ND, chosen, config.seed))


def _shards(out: str, version: str, source: Collection, chosen: IndexSpec, template: bytes) -> Iterable[Shard]:
    """Receipts of all shards as they get done: a Ray task builds and checks each that is not there yet."""
    expected = np.zeros(chosen.shards, np.int64)
    for block in source.iter_vectors():
        expected += np.bincount(build.shard_of(block.face_id_N, chosen.shards), minlength=chosen.shards)
    vectors, start, running = ray.put(source), ray.put(template), []
    for number in range(chosen.shards):
        if (done := store.receipt(out, version, number)) is not None:
            yield done
        else:
            running.append(_build_shard.remote(out, version, number, chosen, int(expected[number]), vectors, start))
    try:
        while running:
            ready, running = ray.wait(running)
            yield ray.get(ready[0])
    except RayError as error:
        raise cluster.cause(error) from error


@ray.remote(num_cpus=1, max_retries=3)
def _build_shard(
    out: str, version: str, number: int, chosen: IndexSpec, rows: int, source: Collection, template: bytes
) -> Shard:
    built = build.build_shard(template, build.of_shard(source.iter_vectors(), number, chosen.shards))
    build.check_shard(built, number, chosen.shards, rows=rows, template=template)
    return store.put_shard(out, version, number, built)


def _tune(config: IndexConfig, out: str, version: str, source: Collection, content: Content) -> Tuned:
    """The fewest lists that reach the target on held-out queries, and the recall they reach."""
    queries: Vectors = build.sample(source.iter_vectors(), QUERIES, config.seed, "index-recall")
    if len(queries) < 2:
        return Tuned(nprobe=content.nprobe, recall=1.0, k=NEIGHBOURS, queries=0)  # one vector has no neighbours
    draft = store.open_shards(out, version, content)
    truth = recall.exact(queries.embedding_ND, source.iter_vectors(), NEIGHBOURS, queries.face_id_N)
    return recall.tune_nprobe(draft, truth, config.target_recall)
