"""The steps of making a version of an index by adding embeddings to another one; each continues from what an
interrupted run left. Publishing is left to ``add``.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from metric_core.index import drift, layout, masks, shard, tuning
from metric_core.index import version as versions
from metric_core.index.choose import SHARD_BYTES
from metric_core.index.drift import Drift
from metric_core.index.layout import Content, Shard
from metric_core.index.opened import OpenShard
from metric_core.index.search import Index
from metric_core.index.shard import File
from metric_core.index.truth import Followed, Probes, Truth
from metric_core.index.tuning import Tuned
from metric_core.index.version import Version
from workflows.index.changes import Change, followed
from workflows.index.shards import Shards


@dataclass(frozen=True)
class Addition:
    """A version that is being made by adding to another one; each step continues from what an interrupted run left."""

    change: Change
    version: Version
    before: Content | None = None
    """what its manifest describes, if it is finished and is mended now"""

    @property
    def base(self) -> Content:
        """The content of the version that is added to."""
        return self.change.base.content

    @cached_property
    def shards(self) -> Shards | None:
        """The new shards; None if there are none. Raises Corrupt as ``Base.reading``."""
        corpus, spec, base = self.change.corpus, self.base.spec, self.change.base
        if corpus is None:
            return None
        count = max(1, math.ceil(spec.disk_bytes(corpus.rows, corpus.rows, 1) / SHARD_BYTES))
        with base.reading():
            trained = base.version.read_checked(self.base, layout.TEMPLATE)
            known = Truth.parse(base.version.read_checked(self.base, layout.TRUTH))
        first = len(self.base.shards)
        return Shards(self.version, corpus, spec, trained, known.probes, corpus.runs(count), first, self.before)

    def content(self) -> tuple[Content, Followed]:
        """The manifest's content without what is measured, and the probes that are left; files are stored."""
        receipts, near, first = [], [], len(self.base.shards)
        for number in range(first, first + (len(self.shards.runs) if self.shards else 0)):
            found = self.version.receipt(number)
            assert found is not None, "all shards are built"
            receipts.append(found[0])
            near.append(found[1])
        self.version.put(layout.CHOICE, versions.choice_file(self.base.choice))
        left = followed(self.change, near)
        files = {name: self._carried(name) for name in (layout.TEMPLATE, layout.PROBES)}
        files[layout.TRUTH] = self.version.share(layout.TRUTH, versions.ipc(left.truth.to_table()))
        content = replace(
            self.base,
            shards=[*self.base.shards, *receipts],
            rows=self.change.rows,
            recall={},
            inputs=self._inputs(),
            files=dict(sorted((files | self._named(receipts)).items())),
            masks=[*self._old_masks(), *self._new_masks()],
            calibration=None,
            shared=True,
            base={**self.change.plan["base"], "shards": first},
            drift=None,
        )
        names, _ = self.version.read_names(content)
        return replace(content, people=masks.people(self.version, content, names)), left

    def measured(self, content: Content, known: Truth) -> Content:
        """The content with the recall of the probes that are left, and how far the index has drifted."""
        # Many candidates are compared here: their records are mapped, whatever a search has room for later.
        with self.change.base.reading():  # what is new was written or checked in this run
            index = replace(Index.load(self.version, replace(content, mapped=True)), mapped=content.mapped)
        point = tuning.measure(index, known, content.nprobe, content.depth)
        counted = int(known.counted_Q.sum())
        tuned = Tuned(**asdict(point), probes=len(known.probes), counted=counted, curve=[asdict(point)])
        moved = self._drift(index, content, known.probes, point.identity)
        return replace(content, recall=asdict(tuned), drift=asdict(moved))

    def _drift(self, index: Index, content: Content, probes: Probes, identity: float) -> Drift:
        new = [self._opened(receipt) for receipt in content.shards[len(self.base.shards) :]]
        size_M = sum((drift.list_sizes(one) for one in index.shards), np.zeros(index.nlist or 0, np.int64))
        before_M = size_M - sum((drift.list_sizes(one) for one in new), np.zeros(index.nlist or 0, np.int64))
        since = self.base.drift or {
            "rows": self.base.rows,
            "added": 0,
            "masked": 0,
            "imbalance": drift.imbalance(before_M),
            "identity": self.base.recall["identity"],
        }
        return Drift(
            rows=since["rows"],
            added=since["added"] + self.change.added,
            masked=since["masked"] + len(self.change.masked_M),
            probe_similarity=drift.probe_similarity(probes.query_QD, index.centroid_MD),
            added_similarity=drift.row_similarity(new),
            imbalance=since["imbalance"],
            imbalance_now=drift.imbalance(size_M),
            identity=since["identity"],
            identity_now=identity,
        )

    def _opened(self, receipt: Shard) -> OpenShard:
        code_M = np.arange(receipt.people, dtype=np.int32)
        with self.version.local_files(receipt) as paths:
            return OpenShard.open(paths, self.base.spec, code_M, self.version.address(receipt), mapped=True)

    def _inputs(self) -> dict[str, Any]:
        source, before = self.change.source, self.base.inputs
        more = [] if source is None else source.plan_ids
        digests = [] if source is None else [source.origin]
        return before | {
            "plans": [*self.change.base.plans, *more],
            "added": [*before.get("added", []), *digests],
        }

    def _carried(self, name: str) -> File:
        """A file of the base, as it is. Those of a version whose files lie in its own folder are copied.

        Raises:
            Corrupt: it is damaged.
        """
        with self.change.base.reading():
            data = self.change.base.version.read_checked(self.base, name)
        return self.base.files[name] if self.base.shared else self.version.share(name, data)

    def _named(self, receipts: Sequence[Shard]) -> dict[str, File]:
        """The files of names, and of the codes in them of each shard's."""
        if not receipts:
            return {name: self._carried(name) for name in (layout.NAMES, layout.CODES)}
        names = []
        for one in [*self.base.shards, *receipts]:
            with self.version.local_file(one, "rows") as path:
                names.append(shard.read_rows(path)["identity"].dictionary)
        made = zip((layout.NAMES, layout.CODES), versions.named(names))
        return {name: self.version.share(name, data) for name, data in made}

    def _old_masks(self) -> list[dict[str, Any]]:
        """The base's masks, about as many shards as before."""
        found = []
        for mask in self.base.masks:
            entry = {"shards": len(self.base.shards)} | mask
            if not self.base.shared:
                data = versions.checked(self.change.base.version.mask(self.base, mask), mask["sha256"])
                self.version.share(layout.MASK, data)
                entry["name"] = layout.MASK
            found.append(entry)
        return found

    def _new_masks(self) -> list[dict[str, Any]]:
        shards = len(self.base.shards)
        return [masks.store(self.version, id_M, why, shards) for why, id_M in self.change.hidden.items() if len(id_M)]
