"""``likeness index``: Embeddings to a searchable Index: a template trained once, shards filled in parallel, checked,
tuned and published in one atomic step. A build that was killed continues with the shards that are not done.
"""

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import ray
from pydantic import ByteSize, TypeAdapter, ValidationError
from ray.exceptions import RayError

from metric_core import storage
from metric_core.collection import Collection
from metric_core.embeddings import Vectors
from metric_core.errors import ConfigError
from metric_core.index import build, codec, recall, spec, store
from metric_core.index.recall import Tuned
from metric_core.index.spec import IndexSpec
from metric_core.index.store import Content, Shard
from workflows.parts import console, erasures, lease, provenance, runtime
from workflows.parts.console import say
from workflows.parts.options import too_low
from workflows.parts.runtime import RunOptions

QUERIES = 256
"""Vectors that recall is measured with; 256 x 10 neighbours put its standard error below 0.2 % at 0.99."""
NEIGHBOURS = 10


@dataclass(frozen=True, kw_only=True)
class IndexConfig(RunOptions):
    """Build and publish a version of an index."""

    embeddings: str
    """The Embeddings artefact to index, or several read as one: A,B; what a later one says of a face stands."""
    out: str
    """The Index: a folder or object-store address; a new version is added to what is there."""
    tombstones: str | None = None
    """Folder of erased faces, which are left out; default: the folder tombstones beside the Faces of the embeddings."""
    shards: int | None = None
    """Files the vectors are spread over; default: as many as keep each near 1 GiB."""
    target_recall: float = 0.99
    """Share of the true 10 nearest vectors that a search must find; 1 keeps the index exact."""
    memory_budget: str | None = None
    """Memory the opened index may take, such as 4GiB."""
    seed: int = 0
    """Of the training sample, k-means and the recall sample."""

    def __post_init__(self) -> None:
        problems = too_low(self, shards=1)
        if not 0 < self.target_recall <= 1:
            problems.append(f"target_recall is {self.target_recall}; it must be a share, above 0 and at most 1")
        try:
            _ = self.memory_bytes
        except ValidationError:
            problems.append(f"memory_budget is {self.memory_budget!r}; expected a size such as 4GiB or 500MB")
        if problems:
            raise ConfigError.of(problems)

    @property
    def memory_bytes(self) -> int | None:
        """The budget in bytes."""
        return None if self.memory_budget is None else int(TypeAdapter(ByteSize).validate_python(self.memory_budget))


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
        with runtime.cluster(config), lease.held(out) as held:
            runtime.require_shared([out, *(one.manifest.uri for one in source.sources)])
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
        raise runtime.cause(error) from error


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
