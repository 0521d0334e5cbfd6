"""Centroids that tell of an erased face: of a list that has only erased rows, and one that is nearly an erased vector.

A centroid without rows becomes zero: no row is assigned to it and it is scanned after all lists on a query's side. One
that has rows left becomes that of the nearest other list, so that both are scanned as one; its rows keep their places
and are encoded again where their codes are relative to the centroid. All shards of a template have its centroids, so
all of them are written again, which happens only then.
"""

# N: rows of a shard, E: erased rows, M: lists, R: rows of a list, D: components.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metric_core import storage
from metric_core.index import codec, shard, template
from metric_core.index.engine import faiss
from metric_core.index.layout import TEMPLATE, Content, Shard
from metric_core.index.shard import Built, File
from metric_core.index.spec import IndexSpec
from metric_core.index.version import Version, digest

NEAR = 0.99
"""Cosine from which a centroid is nearly a vector. Means of two people's are below it, and a vector stored in 8 bits is
above it with its own."""

_OWN = 0.97
"""Cosine of a vector with the centroid of its own list from which others are looked at: its own may not be the very
nearest (``assign``)."""
_TILE = 1024  # vectors that are compared with all centroids at a time


@dataclass(frozen=True)
class Seen:
    """Lists of a shard that erased rows are in."""

    template: str
    emptied: frozenset[int]
    """whose rows in this shard are all erased"""
    near: frozenset[int]
    """whose centroid is nearly the vector of an erased row"""
    left_M: np.ndarray
    """int64: rows of each list that stay"""


@dataclass(frozen=True)
class Changed:
    """What takes the place of a template."""

    template: bytes
    centroids: dict[int, np.ndarray]
    """float32 (D,) of each list that gets another one"""

    @property
    def sha256(self) -> str:
        """Of the new template."""
        return digest(self.template)


def look(paths: Mapping[str, Path], spec: IndexSpec, at_E: np.ndarray, trained: str) -> Seen:
    """The lists of the erased rows.

    Args:
        paths: the shard's local files, by ending.
        spec: of the version, with lists.
        at_E: int64, ascending positions of the erased rows.
        trained: sha256 of the shard's template.
    """
    index = codec.read_file(paths["faiss"])
    size_M = np.array(codec.list_sizes(faiss.extract_index_ivf(index)))
    list_E = np.searchsorted(np.cumsum(size_M), at_E, side="right")
    count_M = np.bincount(list_E, minlength=len(size_M))
    emptied = np.flatnonzero((count_M > 0) & (count_M == size_M))
    centroid_MD = template.centroids(index, copy=False)
    assert centroid_MD is not None
    vector_ED = _vectors(index, paths, spec, at_E, list_E, size_M)
    own_E = (_unit(vector_ED) * _unit(centroid_MD)[list_E]).sum(axis=1)
    close = np.flatnonzero(near(vector_ED[own_E >= _OWN], centroid_MD))  # another centroid can be near as well
    return Seen(trained, frozenset(emptied.tolist()), frozenset(close.tolist()), size_M - count_M)


def near(vector_RD: np.ndarray, centroid_MD: np.ndarray) -> np.ndarray:
    """bool (M,): which centroids are nearly one of some vectors."""
    near_M, unit_MD = np.zeros(len(centroid_MD), bool), _unit(centroid_MD)
    for start in range(0, len(vector_RD), _TILE):
        near_M |= (_unit(vector_RD[start : start + _TILE]) @ unit_MD.T >= NEAR).any(axis=0)
    return near_M


def _unit(vector_RD: np.ndarray) -> np.ndarray:
    """Vectors of unit length; one of length 0 stays."""
    length_R = np.linalg.norm(vector_RD, axis=-1, keepdims=True)
    unit_RD: np.ndarray = vector_RD / np.where(length_R > 0, length_R, 1)
    return unit_RD


def changed(seen: Mapping[str, Seen], held: Sequence[tuple[Version, Content, Shard]]) -> dict[str, Changed]:
    """What takes the place of each template that tells of an erased face, by its sha256.

    Args:
        seen: the lists of each shard that has erased rows, by its digest.
        held: every shard, with a version that lists it.
    """
    found = {}
    for trained in sorted({one.template for one in seen.values()}):
        close = frozenset().union(*(one.near for one in seen.values() if one.template == trained))
        emptied = frozenset().union(*(one.emptied for one in seen.values() if one.template == trained))
        if not close | emptied:
            continue
        own = [(version, content, one) for version, content, one in held if one.template == trained]
        left_M = np.sum(
            [seen[one.digest].left_M if one.digest in seen else _sizes(version, one) for version, _, one in own], axis=0
        )
        data = own[0][0].read_checked(own[0][1], TEMPLATE)
        index = codec.load(data)
        centroid_MD = template.centroids(index, copy=False)
        assert centroid_MD is not None
        empty = {number for number in close | emptied if not left_M[number]}
        centroids = {number: np.zeros_like(centroid_MD[number]) for number in sorted(empty)}
        for number in sorted(close - empty):
            score_M = centroid_MD @ centroid_MD[number]
            score_M[[*(close | empty)]] = -np.inf
            if np.isfinite(score_M).any():
                centroids[number] = centroid_MD[int(score_M.argmax())].copy()
        if centroids:
            _put(centroid_MD, centroids)
            found[trained] = Changed(template.serialized(index), centroids)
    return found


def with_centroids(paths: Mapping[str, Path], spec: IndexSpec, old: Shard, change: Changed, folder: Path) -> Built:
    """A shard with other centroids; the rows of their lists are encoded again.

    Args:
        paths: the shard's local files, by ending.
        spec: of the version.
        old: the shard.
        change: the centroids, and the template that has them.
        folder: for the new files.
    """
    index = codec.read_file(paths["faiss"])
    recentre(index, paths, spec, change)
    new = {**paths, "faiss": folder / "faiss"}
    faiss.write_index(index, str(new["faiss"]))
    if "codes" in paths:
        new["codes"] = folder / "codes"
        codec.write_codes(index, new["codes"])
    made = {
        name: File(new[name].stat().st_size, storage.sha256(str(new[name]))) for name in new if new[name] != paths[name]
    }
    return Built(old.rows, old.people, {**old.files, **made}, new)


def recentre(index: Any, paths: Mapping[str, Path], spec: IndexSpec, change: Changed) -> None:
    """Give the lists of an index in memory their other centroids, and encode their rows again.

    Args:
        index: of a shard, which is changed.
        paths: the shard's local files, by ending; ``vectors`` has the rows that the index has.
        spec: of the version.
        change: the centroids, and the template that has them.
    """
    ivf = faiss.extract_index_ivf(index)
    size_M = np.array(codec.list_sizes(ivf))
    first_M = np.cumsum(size_M) - size_M
    kept = {}
    for number in change.centroids if ivf.by_residual else ():
        at_R = first_M[number] + np.arange(size_M[number])
        kept[number] = _vectors(index, paths, spec, at_R, np.full(len(at_R), number), size_M)
    centroid_MD = template.centroids(index, copy=False)
    assert centroid_MD is not None
    _put(centroid_MD, change.centroids)
    if filled := {number: vector_RD for number, vector_RD in kept.items() if len(vector_RD)}:
        _encode(ivf, filled, change.template, spec)


def _put(centroid_MD: np.ndarray, centroids: Mapping[int, np.ndarray]) -> None:
    for number, centroid_D in centroids.items():
        centroid_MD[number] = centroid_D


def _sizes(version: Version, one: Shard) -> np.ndarray:
    """int64 (M,): rows in each list of a shard."""
    with version.local_file(one, "faiss") as path:
        index = codec.read_file(path)  # its lists are gone with it
        return np.array(codec.list_sizes(faiss.extract_index_ivf(index)))


def _encode(ivf: Any, lists: Mapping[int, np.ndarray], trained: bytes, spec: IndexSpec) -> None:
    """Replace the codes of some lists by those of their vectors, float32 (R, D)."""
    fresh, vector_RD = codec.load(trained), np.ascontiguousarray(np.concatenate([*lists.values()]))
    list_R = np.repeat(np.array([*lists], np.int64), [*map(len, lists.values())])
    position_R = np.arange(len(list_R), dtype=np.int64)
    fresh.add_core(len(list_R), *(faiss.swig_ptr(array) for array in (vector_RD, position_R, list_R)))
    searched = template.for_search(fresh, spec)
    new = faiss.downcast_InvertedLists(faiss.extract_index_ivf(searched).invlists)
    for number, own_RD in lists.items():
        size = len(own_RD) * ivf.code_size
        if isinstance(new, faiss.BlockInvertedLists):
            size = -(-len(own_RD) // new.n_per_block) * new.block_size
        faiss.rev_swig_ptr(ivf.invlists.get_codes(number), size)[:] = faiss.rev_swig_ptr(new.get_codes(number), size)


def _vectors(
    index: Any, paths: Mapping[str, Path], spec: IndexSpec, at_R: np.ndarray, list_R: np.ndarray, size_M: np.ndarray
) -> np.ndarray:
    """float32 (R, D): the stored vectors at some ascending positions in some lists, as exact as they are stored."""
    if (record := shard.record_type(spec)) is not None and len(at_R):
        return shard.decoded(np.take(np.memmap(paths["vectors"], record, "r").view(np.ndarray), at_R))
    vector_RD = np.empty((len(at_R), spec.dim), np.float32)
    ivf, first_M = faiss.extract_index_ivf(index), np.cumsum(size_M) - size_M
    for row, (at, number) in enumerate(zip(at_R.tolist(), list_R.tolist())):
        ivf.reconstruct_from_offset(number, at - int(first_M[number]), faiss.swig_ptr(vector_RD[row]))
    return vector_RD
