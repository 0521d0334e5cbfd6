"""What adding embeddings to a version of an index changes: decided from manifests and ids, before anything is written.

How the new version is made is left to ``adding``.
"""

# M: sorted ids.

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from metric_core.artefacts import ids, tombstones
from metric_core.artefacts.collection import Collection, bases
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ConfigError, Corrupt, Missing
from metric_core.index import layout, masks, truth
from metric_core.index.corpus import Corpus
from metric_core.index.layout import Content
from metric_core.index.search import check_fingerprint
from metric_core.index.truth import Followed, Truth
from metric_core.index.tuning import NEIGHBOURS
from metric_core.index.version import Version
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
            "base": {"version": self.base.version.id, "digest": self.base.stored.origin},
            "embeddings": None if self.source is None else self.source.origin,
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
    if not change.empty and not len(followed(change, []).truth.probes):
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


def followed(change: Change, near: Sequence[bytes]) -> Followed:
    """The truth of the new version, from the neighbours that its new shards have found. Raises Corrupt as
    ``Base.reading``."""
    base = change.base
    with base.reading():
        before = Truth.parse(base.version.read_checked(base.content, layout.TRUTH))
    found = [truth.parse_best(one) for one in near]
    return truth.followed(before, base.content.rows, change.masked_M, found, min(NEIGHBOURS, change.rows - 1))
