"""The steps of building an index version; each continues from what an interrupted run left."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import ray
from ray.exceptions import RayError

from metric_core.artefacts.collection import Collection
from metric_core.index import build, codec, recall
from metric_core.index.recall import Tuned
from metric_core.index.search import Index
from metric_core.index.spec import IndexSpec
from metric_core.index.version import Content, Shard, Version
from workflows.index.config import IndexConfig
from workflows.shared import cluster

QUERIES = 256
"""Number of queries to measure recall with; 256 x 10 neighbours put its standard error below 0.2 % at 0.99."""
NEIGHBOURS = 10
"""Neighbours per query whose recall is measured."""


@dataclass(frozen=True)
class Build:
    """An index version that is being built."""

    config: IndexConfig
    source: Collection
    """The vectors to index."""
    spec: IndexSpec
    version: Version

    def template(self) -> bytes:
        """The trained template. Every shard is a copy of it: FAISS does not notice if merged shards were trained apart.

        Raises:
            ConfigError: there are too few vectors to train the lists.
        """
        found = self.version.template()
        if found is not None:
            return found
        sample_ND = np.empty((0, self.spec.dim), np.float32)
        if self.spec.train_rows:
            vectors = self.source.iter_vectors()
            sample_ND = build.sample(vectors, self.spec.train_rows, self.config.seed, "index-train").embedding_ND
        return self.version.put_template(build.train_template(sample_ND, self.spec, self.config.seed))

    def shards(self, template: bytes) -> Iterator[Shard]:
        """Receipts of all shards as they are done: a Ray task builds and checks each one that is missing.

        Raises:
            IndexBuildError: a shard failed its checks.
        """
        expected = self._rows_of_shards()
        work, start, running = ray.put(self), ray.put(template), []
        for number in range(self.spec.shards):
            if (done := self.version.receipt(number)) is not None:
                yield done
            else:
                running.append(_build_shard.remote(work, start, number, int(expected[number])))
        try:
            while running:
                ready, running = ray.wait(running)
                yield ray.get(ready[0])
        except RayError as error:
            raise cluster.as_likeness_error(error) from error

    def content(self, template: bytes, shards: list[Shard]) -> Content:
        """The manifest's content, before tuning."""
        return Content(
            fingerprint=self.source.fingerprint,
            namespace=self.source.namespace,
            spec=self.spec,
            template=codec.template_hash(template),
            shards=sorted(shards, key=lambda shard: shard.number),
            rows=self.source.rows,
            nprobe=self.spec.nprobe,
            recall={},
            inputs={"embeddings": self.source.digest},
        )

    def tune(self, content: Content) -> Tuned:
        """The fewest lists that reach the target on held-out queries, and the recall they reach."""
        queries = build.sample(self.source.iter_vectors(), QUERIES, self.config.seed, "index-recall")
        if len(queries) < 2:
            return Tuned(nprobe=content.nprobe, recall=1.0, k=NEIGHBOURS, queries=0)  # one vector has no neighbours
        draft = Index.load(self.version, content)
        truth = recall.exact(queries.embedding_ND, self.source.iter_vectors(), NEIGHBOURS, queries.face_id_N)
        return recall.tune_nprobe(draft, truth, self.config.target_recall)

    def _rows_of_shards(self) -> np.ndarray:
        """int64 (shards,): number of vectors per shard."""
        expected = np.zeros(self.spec.shards, np.int64)
        for block in self.source.iter_vectors():
            expected += np.bincount(build.shard_of(block.face_id_N, self.spec.shards), minlength=self.spec.shards)
        return expected


@ray.remote(num_cpus=1, max_retries=3)
def _build_shard(work: Build, template: bytes, number: int, rows: int) -> Shard:
    """Build, check and write one shard, which is expected to hold ``rows`` vectors."""
    shards = work.spec.shards
    built = build.build_shard(template, build.of_shard(work.source.iter_vectors(), number, shards))
    build.check_shard(built, number, shards, rows=rows, template=template)
    return work.version.put_shard(number, built)
