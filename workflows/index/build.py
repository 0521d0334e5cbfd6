"""The steps of building an index version; each continues from what an interrupted run left."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.errors import Corrupt, IndexBuildError
from metric_core.index import choose, layout, sample, shard, truth, tuning
from metric_core.index import version as versions
from metric_core.index.choose import Choice, Wanted
from metric_core.index.corpus import Corpus
from metric_core.index.layout import Content
from metric_core.index.search import Index
from metric_core.index.shard import File
from metric_core.index.spec import IndexSpec
from metric_core.index.truth import Probes, Truth
from metric_core.index.tuning import Target
from metric_core.index.version import Version
from workflows.index.config import IndexConfig
from workflows.index.shards import Shards, require_same

_BELOW = 4
"""Tuning begins with a fourth of the lists that the sample needed: lists of the whole corpus have more rows."""


@dataclass(frozen=True)
class Plan:
    """What a build has decided before its first shard."""

    spec: IndexSpec
    shards: int
    template: bytes
    probes: Probes
    mapped: bool
    """whether there is memory to map the records for reranking"""
    choice: dict[str, Any]
    """as a version records it"""


@dataclass(frozen=True)
class Build:
    """An index version that is being built."""

    config: IndexConfig
    corpus: Corpus
    version: Version
    before: Content | None = None
    """what the version's manifest describes, if it is finished and is mended now"""
    embeddings: str = ""
    """what the plan calls the embeddings; empty: their origin"""

    @property
    def wanted(self) -> Wanted:
        """What is asked of the index."""
        config = self.config
        return Wanted(
            rows=self.corpus.rows,
            dim=self.corpus.dim,
            target=Target(config.target_identity_recall, config.target_recall),
            memory=config.memory_bytes,
            disk=config.disk_bytes,
            shards=config.shards,
            spec=config.spec,
        )

    def choose(self) -> Choice:
        """The best index, from a sample of the corpus. Raises ConfigError as ``choose.choose``."""
        wanted = self.wanted
        self.corpus.require_distinct()
        drawn = sample.draw(self.corpus, choose.sample_rows(wanted), self.config.seed)
        return choose.choose(wanted, drawn, self.config.seed)

    def plan(self) -> Plan:
        """What was decided by an earlier run; else chosen now, and stored before any shard is built."""
        stored = self._stored_plan()
        if stored is not None:
            return stored
        made = self.choose()
        probes = versions.ipc(made.probes.to_table())
        choice = made.row() | {
            "spec": asdict(made.chosen.spec),
            "mapped": made.chosen.mapped,
            "template": versions.digest(made.template),
            "probes": versions.digest(probes),
        }
        self._put({layout.TEMPLATE: made.template, layout.PROBES: probes, layout.CHOICE: versions.choice_file(choice)})
        return Plan(made.chosen.spec, made.chosen.shards, made.template, made.probes, made.chosen.mapped, choice)

    def shards(self, plan: Plan) -> Iterator[int]:
        """The rows of each shard when it is done: a Ray task builds and checks each one that is missing or damaged.

        Raises:
            ConfigError: no node has the memory that a shard takes to build.
            IndexBuildError: a shard failed its checks.
        """
        runs = self.corpus.runs(plan.shards)
        return Shards(
            self.version, self.corpus, plan.spec, plan.template, plan.probes, runs, before=self.before
        ).build()

    def content(self, plan: Plan) -> Content:
        """The manifest's content, before tuning; the files that are made of all shards are stored."""
        shards, names, near = [], [], []
        for number in range(len(self.corpus.runs(plan.shards))):
            found = self.version.receipt(number)
            assert found is not None, "all shards are built"
            shards.append(found[0])
            near.append(truth.parse_best(found[1]))
            with self.version.local_file(found[0], "rows") as path:
                names.append(shard.read_rows(path)["identity"].dictionary)
        own = dict(zip((layout.NAMES, layout.CODES), versions.named(names)))
        merged = versions.ipc(Truth(plan.probes, truth.merged(near)).to_table())
        own[layout.TRUTH] = self._kept_truth() or merged
        self._put(own)
        own |= {layout.TEMPLATE: plan.template, layout.PROBES: versions.ipc(plan.probes.to_table())}
        if not self._shares:
            own[layout.CHOICE] = versions.choice_file(plan.choice)
        return Content(
            fingerprint=self.corpus.collection.fingerprint,
            namespace=self.corpus.collection.namespace,
            spec=plan.spec,
            template=plan.choice["template"],
            shards=shards,
            rows=self.corpus.rows,
            people=len(pa.ipc.open_file(own[layout.NAMES]).read_all()),
            nprobe=None,
            depth=None,
            mapped=plan.mapped,
            recall={},
            inputs={"embeddings": self.embeddings or self.corpus.collection.origin},
            choice=plan.choice,
            files={name: File(len(data), versions.digest(data)) for name, data in sorted(own.items())},
            shared=self._shares,
        )

    def _kept_truth(self) -> bytes | None:
        """The truth of a version that is mended, if it is undamaged: after an erasure it has fewer neighbours than are
        found again, since those behind them are not known there."""
        try:
            return None if self.before is None else self.version.read_checked(self.before, layout.TRUTH)
        except Corrupt:
            return None

    def tune(self, content: Content) -> Content:
        """The content with the parameters that reach the target with the least work, and what they reach. A version
        that is mended keeps its own.

        Raises:
            IndexBuildError: the index does not reach the target, whatever the parameters.
        """
        if self.before is not None:
            before = self.before
            return replace(content, nprobe=before.nprobe, depth=before.depth, recall=before.recall)
        target = self.wanted.target
        known = Truth.parse(self.version.read_checked(content, layout.TRUTH))
        # Many candidates are compared here: their records are mapped, whatever a search has room for later.
        index = replace(Index.load(self.version, replace(content, mapped=True)), mapped=content.mapped)
        tried = next(one for one in content.choice["candidates"] if one["spec"] == content.spec.factory)
        start = (tried["nprobe"] or 1) // _BELOW
        tuned = tuning.tune(index, known, target.surely(int(known.counted_Q.sum())), start=start)
        if not target.met(tuned):
            wanted = f"{target.identity:g}" + ("" if target.vectors is None else f" and {target.vectors:g}")
            raise IndexBuildError(
                f"the index {content.spec.factory} reaches an identity recall of {tuned.identity:.4f} and a vector "
                f"recall of {tuned.recall:.4f} at best, not {wanted} as its sample promised; nothing was published; "
                f"lower the target, or give a larger --memory-budget"
            )
        return replace(content, nprobe=tuned.nprobe, depth=tuned.depth, recall=asdict(tuned))

    @property
    def _shares(self) -> bool:
        """Whether files lie beside the versions; not in a version of the first that is mended."""
        return self.before is None or self.before.shared

    def _put(self, files: Mapping[str, bytes]) -> None:
        """Store some of the version's files."""
        if self.before is not None:
            expected = {layout.CHOICE: versions.digest(versions.choice_file(self.before.choice))}
            expected |= {name: file.sha256 for name, file in self.before.files.items()}
            for name, data in files.items():
                require_same(self.version, versions.digest(data), expected[name])
        for name, data in files.items():
            if name == layout.CHOICE or not self._shares:
                self.version.put(name, data)
            else:
                self.version.share(name, data)

    def _stored_plan(self) -> Plan | None:
        """The plan of an earlier run; None if there is none, or if a part of it was damaged."""
        choice = self.version.read(layout.CHOICE)
        if choice is None:
            return None
        try:
            stored = json.loads(choice)
            found = stored["choice"]
            trained, probes = (self._stored(name, found[key]) for name, key in layout.DECIDED.items())
            if trained is None or probes is None or stored["digest"] != manifest.digest(found):
                return None
            spec, shards = IndexSpec(**found["spec"]), found["shards"]
            return Plan(spec, shards, trained, Probes.parse(probes), found["mapped"], found)
        except (ValueError, KeyError, TypeError):  # not what was written: decided again, to the same result
            return None

    def _stored(self, name: str, sha256: str) -> bytes | None:
        """A file with this digest that an earlier run stored; None if it is not there, or another one is."""
        address = self.version.shared(name, sha256) if self._shares else self.version.file(name)
        data = storage.read_bytes(address) if storage.exists(address) else None
        return data if data is not None and versions.digest(data) == sha256 else None
