"""What adding embeddings to a version of an index changes, and the steps of making the new version.

The first is decided from manifests and ids alone, before anything is written. Publishing is left to ``add``.
"""

# M: sorted ids.

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from metric_core.artefacts import ids, tombstones
from metric_core.artefacts.collection import Collection, bases
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ConfigError, Corrupt, Missing
from metric_core.index import drift, masks, shard, truth, tuning
from metric_core.index import version as versions
from metric_core.index.choose import SHARD_BYTES
from metric_core.index.corpus import Corpus
from metric_core.index.drift import Drift
from metric_core.index.opened import OpenShard
from metric_core.index.search import Index, check_fingerprint
from metric_core.index.shard import File
from metric_core.index.truth import Followed, Probes, Truth
from metric_core.index.tuning import NEIGHBOURS, Tuned
from metric_core.index.version import Content, Shard, Version
from workflows.index.shards import Shards
from workflows.shared import erasures


@dataclass(frozen=True)
class Base:
    """The version that is added to."""

    version: Version
    stored: Manifest
    content: Content

    @classmethod
    def of(cls, version: Version) -> "Base":
        """A finished version.

        Raises:
            Missing, Unfinished, Corrupt: as ``Version.manifest``.
            ConfigError: its format is too old to be added to.
        """
        stored = version.manifest()
        if stored.format == 1:
            raise ConfigError(
                f"version {version.id} of {version.index_uri} has format 1, which nothing can be added to; build the "
                f"index again with likeness index, and add to that version"
            )
        return cls(version, stored, Content.parse(stored.content))

    @cached_property
    def plans(self) -> list[str]:
        """The plan ids of the Embeddings that it consists of, in order. Raises ConfigError if they are not known."""
        noted = self.content.inputs.get("plans") or self.stored.provenance.get("plans")
        if isinstance(noted, list) and noted:
            return [str(plan_id) for plan_id in noted]
        addresses = self.stored.noted("embeddings")
        try:  # a version that was built before plan ids were recorded
            if addresses is None:
                raise Missing("its provenance does not name its Embeddings")
            return Collection.open(addresses).plan_ids
        except Missing as error:
            raise ConfigError(
                f"it is not known which Embeddings version {self.version.id} of {self.version.index_uri} was built "
                f"from: {str(error).partition(';')[0]}; build the index again from all of its Embeddings"
            ) from error

    @property
    def remedy(self) -> str:
        """What to do about a damaged file of it, for messages."""
        return f"{self}, which is added to, is damaged; run the command that built it again, with --no-publish"

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Files of the version are read in the block. Raises Corrupt with the remedy if one is missing or damaged."""
        try:
            yield
        except (Missing, Corrupt) as error:
            raise Corrupt(f"{str(error).partition(';')[0]}; {self.remedy}") from error

    def __str__(self) -> str:
        return f"version {self.version.id} of {self.version.index_uri}"


@dataclass(frozen=True)
class Change:
    """What the new version has that its base has not, and what it hides."""

    base: Base
    source: Collection | None
    """what is added, without erased faces; None if all of it is in the base already"""
    hidden: dict[str, np.ndarray]
    """by reason (erased, replaced, gone): int64, sorted, faces that are found in the base and must not be any more"""

    @property
    def corpus(self) -> Corpus | None:
        """The rows that are added; None if there are none."""
        return None if self.source is None or not self.source.rows else Corpus.of(self.source)

    @property
    def added(self) -> int:
        """Rows that are added."""
        return 0 if self.source is None else self.source.rows

    @property
    def masked_M(self) -> np.ndarray:
        """int64, sorted: all faces that are hidden."""
        return np.sort(np.concatenate([ids.NONE, *self.hidden.values()]))

    @property
    def rows(self) -> int:
        """Rows of the new version that may be found."""
        return self.base.content.rows - len(self.masked_M) + self.added

    @property
    def empty(self) -> bool:
        """Whether the new version would find what its base finds."""
        return not self.added and not len(self.masked_M)

    @property
    def plan(self) -> dict[str, Any]:
        """The plan of the new version."""
        erased_M = self.hidden["erased"]
        return {
            "base": {"version": self.base.version.id, "digest": self.base.stored.digest},
            "embeddings": None if self.source is None else self.source.digest,
            "erased": ids.digest(erased_M) if len(erased_M) else None,
        }


def decide(base: Base, given: Sequence[Embeddings], folder: str | None) -> Change:
    """What changes when some Embeddings are added to a version.

    Args:
        base: the version.
        given: the Embeddings, in order; the first ones may be in it already.
        folder: tombstones; None for those beside the Faces of the Embeddings and of the version.

    Raises:
        FingerprintMismatch, ConfigError: they do not fit the version, do not follow what it was built from, or nothing
            would be left of it.
        Missing: ``folder`` does not exist.
        Corrupt: a file of either is damaged.
    """
    for one in given:
        _require_fits(base, one)
    left = list(given)
    while left and left[0].plan_id in base.plans:
        left.pop(0)
    if not left and given[-1].plan_id != base.plans[-1]:
        raise ConfigError(f"{given[-1].manifest.uri} is in {base} already, and what was added after it as well")
    source, again_M, gone_M = None, ids.NONE, ids.NONE
    if left:
        _require_follows(base, left)
        source = erasures.without_erased(Collection.of(left, frozenset(base.plans)), folder)
        Corpus.of(source).require_distinct()
        again_M, gone_M = source.superseded()
    lists = _tombstones(base, given, folder)
    with base.reading():
        erased_M = masks.erased(base.version, base.content, lists)
        present_M = masks.present(base.version, base.content, np.union1d(again_M, gone_M)) if left else ids.NONE
    for one in left:
        if not one.since:
            _require_new(base, one, present_M)
    change = Change(
        base,
        source,
        {
            "erased": erased_M,
            "replaced": np.setdiff1d(np.intersect1d(present_M, again_M), erased_M),
            "gone": np.setdiff1d(np.intersect1d(present_M, gone_M), erased_M),
        },
    )
    hides = f"{', '.join(f'{len(id_M):,} {why}' for why, id_M in change.hidden.items())} faces of {base}"
    if not change.rows:
        raise ConfigError(f"nothing would be left to find with {hides} hidden; see what the Embeddings list as gone")
    if not change.empty and not len(_followed(change, []).truth.probes):
        raise ConfigError(
            f"no stored probe would be left to measure the index by with {hides} hidden; build it again from all "
            f"Embeddings"
        )
    return change


def _require_fits(base: Base, one: Embeddings) -> None:
    check_fingerprint(base.content.fingerprint, one.fingerprint, one.manifest.uri)
    problems = [
        f"{name} is {found} in {one.manifest.uri} and {expected} in {base}; give embeddings with the same {name}"
        for name, found, expected in (
            ("namespace", one.namespace, base.content.namespace),
            ("dim", one.dim, base.content.spec.dim),
        )
        if found != expected
    ]
    if problems:
        raise ConfigError.of(problems)


def _require_follows(base: Base, left: Sequence[Embeddings]) -> None:
    known = set(base.plans)
    for one in left:
        if one.plan_id in known:
            raise ConfigError(f"{one.manifest.uri} is in {base} already, or is given twice; leave it out")
        if not known.issuperset(one.since):
            there = ", ".join(plan_id[:12] for plan_id in base.plans)
            raise ConfigError(
                f"{one.manifest.uri} is a delta of {bases(one)}, and {base} consists of the plans {there}; list those "
                f"that are lacking before it (D1,D2), embed with --since what it was built from, or build it again"
            )
        known.add(one.plan_id)


def _require_new(base: Base, one: Embeddings, present_M: np.ndarray) -> None:
    """Only a delta says that a face of its own takes the place of an older one."""
    twice = [ids.NONE]
    for table in one.iter_tags():
        id_N = table["face_id"].to_numpy()
        twice.append(id_N[ids.within(id_N, present_M)])
    twice_M = np.concatenate(twice)
    if len(twice_M):
        raise ConfigError(
            f"{one.manifest.uri} is no delta and has {len(twice_M):,} faces that are in {base} already, such as "
            f"face_id {twice_M.min()}; embed again with --since what the index was built from, and add that delta"
        )


def _tombstones(base: Base, given: Sequence[Embeddings], folder: str | None) -> list[tombstones.Tombstones]:
    known = [*(one.manifest.noted("faces") for one in given), base.stored.noted("faces")]
    folders = {tombstones.existing(folder)} if folder else {tombstones.beside(uri) for uri in known if uri}
    return [found for found in map(tombstones.read, sorted(folders)) if found]


def _followed(change: Change, near: Sequence[bytes]) -> Followed:
    """The truth of the new version, from the neighbours that its new shards have found."""
    base = change.base
    with base.reading():
        before = Truth.parse(base.version.read_checked(base.content, versions.TRUTH))
    found = [truth.parse_best(one) for one in near]
    return truth.followed(before, base.content.rows, change.masked_M, found, min(NEIGHBOURS, change.rows - 1))


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
            trained = base.version.read_checked(self.base, versions.TEMPLATE)
            known = Truth.parse(base.version.read_checked(self.base, versions.TRUTH))
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
        followed = _followed(self.change, near)
        files = {name: self._carried(name) for name in (versions.TEMPLATE, versions.PROBES)}
        files[versions.TRUTH] = self.version.share(versions.TRUTH, versions.ipc(followed.truth.to_table()))
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
        return replace(content, people=masks.people(self.version, content, names)), followed

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
        digests = [] if source is None else [source.digest]
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
            return {name: self._carried(name) for name in (versions.NAMES, versions.CODES)}
        names = []
        for one in [*self.base.shards, *receipts]:
            with self.version.local_file(one, "rows") as path:
                names.append(shard.read_rows(path)["identity"].dictionary)
        made = zip((versions.NAMES, versions.CODES), versions.named(names))
        return {name: self.version.share(name, data) for name, data in made}

    def _old_masks(self) -> list[dict[str, Any]]:
        """The base's masks, about as many shards as before."""
        found = []
        for mask in self.base.masks:
            entry = {"shards": len(self.base.shards)} | mask
            if not self.base.shared:
                data = versions.checked(self.change.base.version.mask(self.base, mask), mask["sha256"])
                self.version.share(versions.MASK, data)
                entry["name"] = versions.MASK
            found.append(entry)
        return found

    def _new_masks(self) -> list[dict[str, Any]]:
        shards = len(self.base.shards)
        return [masks.store(self.version, id_M, why, shards) for why, id_M in self.change.hidden.items() if len(id_M)]
