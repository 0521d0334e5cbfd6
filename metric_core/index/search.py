"""An index opened for searching: the nearest vectors in all shards, and the nearest *people*.

Searching does not change an index, so any number of threads may search the same one.
"""

# Q: queries, D: components, K: neighbours per query.

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from metric_core import storage
from metric_core.artefacts import schema
from metric_core.artefacts.embeddings import check_unit
from metric_core.errors import FingerprintMismatch
from metric_core.index import merging
from metric_core.index.engine import faiss
from metric_core.index.identities import Identities
from metric_core.index.store import IndexStore
from metric_core.index.version import Content, Version

_CELLS = 1 << 22  # candidates (query x neighbour x shard) in memory at a time


@dataclass(frozen=True)
class Neighbours:
    """The nearest vectors of every query, best first; equal scores by face_id."""

    score_QK: np.ndarray
    """float32, cosine similarity; -inf where there are fewer than K"""
    face_id_QK: np.ndarray
    """int64; -1 where there are fewer than K"""


@dataclass(frozen=True)
class Index:
    """A version of an index, in memory and ready to be searched."""

    shards: tuple[Any, ...]
    """FAISS indexes from one template; each face_id is in one of them"""
    identities: Identities
    """the identity of each face_id"""
    dim: int
    """components per vector"""
    fingerprint: str
    """of the model that made the vectors"""
    version: Version
    """the handle of the version that was loaded"""
    nprobe: int | None = None
    """inverted lists scanned per query and shard; None for a flat index"""

    @classmethod
    def open(cls, uri: str, version: str | None = None) -> "Index":
        """Load a finished version: the one with the id ``version``, else the live one.

        Raises:
            Missing: there is no index, or no such version.
            Unfinished: no version was published yet, or the version has no manifest.
            Corrupt: a file is not what its digest says, or a shard is not of the version's template.
        """
        found = IndexStore(storage.absolute(uri)).version(version)
        return cls.load(found, found.content())

    @classmethod
    def load(cls, version: Version, content: Content) -> "Index":
        """Load the shards of a version that may not have its manifest yet, to tune it and measure its recall.

        Raises:
            Corrupt: as ``open``.
        """
        loaded = [version.read_shard(shard, content.template) for shard in content.shards]
        return cls(
            shards=tuple(shard for shard, _ in loaded),
            identities=Identities.of([table for _, table in loaded]),
            dim=content.spec.dim,
            fingerprint=content.fingerprint,
            version=version,
            nprobe=content.nprobe,
        )

    @property
    def rows(self) -> int:
        """Vectors in all shards."""
        return sum(int(shard.ntotal) for shard in self.shards)

    @property
    def nlist(self) -> int | None:
        """Inverted lists per shard; None for a flat index."""
        ivf = faiss.try_extract_index_ivf(self.shards[0])
        return int(ivf.nlist) if ivf else None

    def search(
        self,
        query_QD: np.ndarray,
        top: int,
        *,
        nprobe: int | None = None,
        exclude_face_id_Q: np.ndarray | None = None,
    ) -> Neighbours:
        """The ``top`` nearest vectors of each query, exactly merged over the shards.

        Scores are float32 sums; the last digit may depend on the number of queries per call.

        Args:
            query_QD: float32 (Q, D), unit length.
            top: neighbours per query, at least 1.
            nprobe: lists to scan; None: the version's tuned number.
            exclude_face_id_Q: int64 (Q,), a face that each query must not find (itself, if in the index); -1: none.

        Raises:
            ValueError: queries of another dimension or not of unit length, or ``top`` below 1.
        """
        self._check(query_QD, top, exclude_face_id_Q)
        wanted = top if exclude_face_id_Q is None else top + 1
        step = max(1, _CELLS // (wanted * len(self.shards)))
        scores, ids = [np.empty((0, top), np.float32)], [np.empty((0, top), np.int64)]
        for start in range(0, len(query_QD), step):
            chunk = slice(start, start + step)
            score_QK, id_QK = self._merged(query_QD[chunk], wanted, nprobe or self.nprobe)
            if exclude_face_id_Q is not None:
                score_QK, id_QK = merging.without(score_QK, id_QK, exclude_face_id_Q[chunk])
            scores.append(score_QK)
            ids.append(id_QK)
        return Neighbours(np.concatenate(scores), np.concatenate(ids))

    def identify(
        self, query_QD: np.ndarray, name_Q: list[str], top: int, *, exclude_face_id_Q: np.ndarray | None = None
    ) -> pa.Table:
        """The ``top`` nearest identities of each query, each with its best image.

        One person's pictures can fill any fixed number of neighbours. So for queries with fewer than ``top`` people,
        more neighbours are fetched and more lists scanned, until there are enough or everything was scanned.

        Args:
            query_QD, exclude_face_id_Q: as in ``search``.
            name_Q: name of each query in the result.
            top: identities per query, at least 1.

        Returns:
            ``schema.MATCHES``, by query in the order given, then by rank from 1; ``accepted`` is null. A query has
            fewer than ``top`` rows only if the index has fewer people.

        Raises:
            ValueError: as ``search``, or the number of names is not the number of queries.
        """
        self._check(query_QD, top, exclude_face_id_Q)
        if len(name_Q) != len(query_QD):
            raise ValueError(f"{len(name_Q)} names for {len(query_QD)} queries")
        rows, lists = max(1, self.rows), self.nlist or 1
        parts: list[tuple[np.ndarray, ...]] = []
        work = [(np.arange(len(query_QD)), min(rows, max(32, 4 * top)), min(lists, self.nprobe or 1))]
        while work:
            at_Q, fetch, nprobe = work.pop()
            if len(at_Q) > 1 and len(at_Q) * fetch > _CELLS:
                work += [(half, fetch, nprobe) for half in np.array_split(at_Q, 2)]
                continue
            exclude = None if exclude_face_id_Q is None else exclude_face_id_Q[at_Q]
            near = self.search(query_QD[at_Q], fetch, nprobe=nprobe, exclude_face_id_Q=exclude)
            code_QK = self.identities.codes(near.face_id_QK)
            first_QK = merging.firsts(code_QK)
            rank_QK = np.cumsum(first_QK, axis=1)
            done_Q = (rank_QK[:, -1] >= top) | (fetch >= rows and nprobe >= lists)
            keep_QK = first_QK & (rank_QK <= top) & done_Q[:, None]
            query_QK = np.broadcast_to(at_Q[:, None], keep_QK.shape)
            parts.append(tuple(a[keep_QK] for a in (query_QK, rank_QK, code_QK, near.face_id_QK, near.score_QK)))
            if not done_Q.all():
                scanned_out = fetch >= rows or bool((near.face_id_QK[~done_Q, -1] < 0).any())
                work.append((at_Q[~done_Q], min(rows, 4 * fetch), min(lists, 4 * nprobe) if scanned_out else nprobe))
        return self._matches(parts, name_Q)

    def _matches(self, parts: list[tuple[np.ndarray, ...]], name_Q: list[str]) -> pa.Table:
        if not parts:
            return schema.MATCHES.empty_table()
        at, rank, code, face_id, score = (np.concatenate(column) for column in zip(*parts))
        order = np.lexsort((rank, at))
        columns = [
            pa.array(name_Q, pa.string()).take(pa.array(at[order])),
            pa.array(rank[order].astype(np.int32)),
            self.identities.names.take(pa.array(code[order])),
            pa.array(face_id[order]),
            pa.array(score[order]),
            pa.nulls(len(order), pa.bool_()),
        ]
        return pa.Table.from_arrays(columns, schema=schema.MATCHES)

    def _merged(self, query_QD: np.ndarray, k: int, nprobe: int | None) -> tuple[np.ndarray, np.ndarray]:
        found = [merging.shard_top(shard, query_QD, k, nprobe) for shard in self.shards]
        scores, ids = zip(*found)
        return merging.best(np.concatenate(scores, axis=1), np.concatenate(ids, axis=1), k)

    def _check(self, query_QD: np.ndarray, top: int, exclude_face_id_Q: np.ndarray | None) -> None:
        if query_QD.ndim != 2 or query_QD.shape[1] != self.dim:
            raise ValueError(f"queries have shape {query_QD.shape}, expected (Q, {self.dim})")
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        if exclude_face_id_Q is not None and exclude_face_id_Q.shape != (len(query_QD),):
            raise ValueError(f"{exclude_face_id_Q.shape} faces to exclude for {len(query_QD)} queries")
        check_unit(query_QD, "queries")


def check_fingerprint(index_fingerprint: str, other_fingerprint: str, other_uri: str) -> None:
    """Refuse to compare vectors of two models, whose similarities mean nothing.

    Raises:
        FingerprintMismatch: the fingerprints differ; the message names both.
    """
    if index_fingerprint != other_fingerprint:
        raise FingerprintMismatch(
            f"{other_uri} belongs to model {other_fingerprint}, but the index was built from vectors of model "
            f"{index_fingerprint}; use that model and its embeddings, or build an index from embeddings of this one"
        )
