"""An index opened for searching: the nearest vectors in all shards, and the nearest *people*.

What a search finds is a function of the version, the query and the parameters: not of the other queries of the call,
nor of the number of threads. Searching does not change an index, so any number of threads may search the same one.
"""

# Q: queries, D: components, K: neighbours per query, N: rows of a shard, M: lists, P: lists per query.

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from os import PathLike
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core import storage
from metric_core.artefacts import ids, schema
from metric_core.artefacts.embeddings import check_unit
from metric_core.errors import FingerprintMismatch
from metric_core.index import filtering, format1, merging, threads
from metric_core.index.layout import Content
from metric_core.index.lists import best_lists
from metric_core.index.opened import FEW, OpenShard
from metric_core.index.shard import read_rows
from metric_core.index.spec import IndexSpec
from metric_core.index.store import IndexStore
from metric_core.index.version import Version

_CELL_BYTES = 16
"""Of a workspace, for each of a search's candidates (query x neighbour x shard) that are in memory at a time."""
_LEAST_ROOM = 128 << 10  # bytes that each thread may work in, however many there are
_SCAN_WORKSPACES = 4  # of those that a search may take: the more queries a scan has, the more share a list


@dataclass(frozen=True)
class Neighbours:
    """The nearest vectors of every query, best first; equal scores by face_id."""

    score_QK: np.ndarray
    """float32, cosine similarity; -inf where there are fewer than K"""
    face_id_QK: np.ndarray
    """int64; -1 where there are fewer than K"""
    code_QK: np.ndarray
    """int32; positions in the index's ``names``, -1 for a face without a name and where there are fewer than K"""


@dataclass(frozen=True)
class Index:
    """A version of an index, ready to be searched."""

    shards: tuple[OpenShard, ...]
    """each face_id is in one of them; those whose codes are in memory are opened as one"""
    names: pa.Array
    """the distinct identities, in byte order"""
    centroid_MD: np.ndarray | None
    """float32, the centroids of the lists, which all shards have in common; None for an exact scan"""
    spec: IndexSpec
    fingerprint: str
    """of the model that made the vectors"""
    version: Version
    """the handle of the version that was loaded"""
    nprobe: int | None = None
    """lists scanned per query; None for an exact scan"""
    depth: int | None = None
    """candidates per query that are compared again by their stored vectors; None where none are stored"""
    mapped: bool = False
    """whether the records for reranking are in memory"""
    allowed: tuple[np.ndarray | None, ...] = ()
    """bool (N,) per shard: the rows that may be found; None or nothing: all of them"""
    filtered: bool = False
    """whether ``only`` or ``without`` has left out rows that are there"""
    state: str = ""
    """digest of the version's manifest, which a mask or an erasure changes"""
    looked: float = 0.0
    """when ``refresh`` looked for another version, in seconds of ``time.monotonic``"""

    @classmethod
    def open(cls, uri: str | PathLike[str], version: str | None = None, *, verify: bool = False) -> "Index":
        """Open a finished version: the one with the id ``version``, else the live one.

        A file is hashed when this machine opens it for the first time. Its digest is then remembered with its size,
        times and inode, and it is hashed again only when one of these changed.

        Args:
            uri: folder or object-store address of the index.
            version: id of a version; None for the live one.
            verify: hash every file again.

        Raises:
            Missing: there is no index, or no such version.
            Unfinished: no version was published yet, or the version has no manifest.
            Corrupt: a file is not what its digest says.
        """
        found, now = IndexStore(storage.absolute(str(uri))).version(version), time.monotonic()
        stored = found.manifest()
        if stored.format > 1:
            index = cls.load(found, Content.parse(stored.content), verify=verify)
            return replace(index, state=stored.digest, looked=now)
        shards, names = format1.opened(found.uri, stored.content, verify=verify)
        spec = IndexSpec(stored.content["spec"]["dim"], stored.content["spec"]["factory"])
        centroid_MD = shards[0].centroid_MD
        return cls(
            shards=tuple(shards),
            names=names,
            centroid_MD=centroid_MD,
            spec=spec,
            fingerprint=stored.content["fingerprint"],
            version=found,
            nprobe=stored.content["nprobe"],
            state=stored.digest,
            looked=now,
        )

    def refresh(self, every: float = 10.0) -> "Index":
        """The live version as it is now: the index itself while that is what it was opened from, else a new one.

        A process that answers for long calls this before each query, and answers the whole query from what it gets: so
        no answer mixes two versions.

        Args:
            every: seconds within which the storage is looked at once.

        Raises:
            Missing, Unfinished, Corrupt: as ``open``; the index itself stays usable.
            ValueError: it is restricted by a filter, which says nothing about another version.
        """
        if self.filtered:
            raise ValueError(
                "the index is restricted to some rows; refresh the whole one and restrict what that returns"
            )
        now = time.monotonic()
        if now - self.looked < every:
            return self
        live = IndexStore(self.version.index_uri).current()
        if live == self.version and live.manifest().digest == self.state:
            return replace(self, looked=now)
        return Index.open(live.index_uri)

    @classmethod
    def load(cls, version: Version, content: Content, *, verify: bool = False) -> "Index":
        """Open the shards of a version that may not have its manifest yet, to tune it and measure its recall.

        Raises:
            Corrupt: as ``open``.
        """
        names, code_of = version.read_names(content, verify=verify)
        shards: list[OpenShard] = []
        joined = content.spec.fast_scan and content.spec.refine is not None
        for receipt, code_M in zip(content.shards, code_of):
            with version.local_files(receipt, verify=verify) as paths:
                shard = OpenShard.open(paths, content.spec, code_M, version.address(receipt), mapped=content.mapped)
            if shards and joined:
                shards[0].join(shard)
            else:
                shards.append(shard)
        centroid_MD = shards[0].centroid_MD
        index = cls(
            shards=tuple(shards),
            names=names,
            centroid_MD=centroid_MD,
            spec=content.spec,
            fingerprint=content.fingerprint,
            version=version,
            nprobe=content.nprobe,
            depth=content.depth,
            mapped=content.mapped,
        )
        masked = version.read_masks(content)
        return index._masked(masked) if any(map(len, masked)) else index

    @classmethod
    def single(cls, paths: Mapping[str, Path], spec: IndexSpec) -> "Index":
        """Open a shard that belongs to no version yet, with its records mapped.

        Args:
            paths: its files, by ending.
            spec: of the shard.
        """
        rows = read_rows(paths["rows"])
        names = rows["identity"].dictionary
        shard = OpenShard.open(paths, spec, np.arange(len(names), dtype=np.int32), "a new shard", mapped=True)
        centroid_MD = shard.centroid_MD
        return cls((shard,), names, centroid_MD, spec, "", Version("", "new"))

    @property
    def dim(self) -> int:
        """Components per vector."""
        return self.spec.dim

    @property
    def rows(self) -> int:
        """Vectors in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def restricted(self) -> list[tuple[OpenShard, np.ndarray | None]]:
        """Each shard, and bool (N,), its rows that may be found; None for all of them."""
        return list(zip(self.shards, self.allowed or (None,) * len(self.shards)))

    @property
    def left(self) -> int:
        """Vectors that may be found."""
        return sum(shard.rows if rows is None else int(rows.sum()) for shard, rows in self.restricted)

    @property
    def unlabelled(self) -> bool:
        """Whether there are faces without a name."""
        return any(shard.unnamed for shard in self.shards)

    @property
    def matches(self) -> pa.Schema:
        """The schema of what ``identify`` returns."""
        return schema.UNLABELLED_MATCHES if self.unlabelled else schema.MATCHES

    @cached_property
    def _people(self) -> int:
        """Distinct identities of the rows that may be found, and their faces without a name."""
        if not self.allowed:
            return len(self.names) + sum(shard.unnamed for shard in self.shards)
        there_M, unnamed = np.zeros(len(self.names) + 1, bool), 0  # the last entry is for those without a name
        for shard, rows_N in self.restricted:
            code_N = shard.identity_N if rows_N is None else shard.identity_N[rows_N]
            there_M[code_N] = True
            unnamed += int((code_N < 0).sum())
        return int(there_M[:-1].sum()) + unnamed

    @property
    def nlist(self) -> int | None:
        """Lists, which all shards have in common; None for an exact scan."""
        return None if self.centroid_MD is None else len(self.centroid_MD)

    def only(
        self,
        *,
        identities: Sequence[str] | None = None,
        face_ids: Sequence[int] | np.ndarray | None = None,
        views: Sequence[str] | None = None,
    ) -> "Index":
        """The same index, restricted to the rows that meet all of the conditions.

        A restricted index scans more lists, in proportion to the share of rows that are left, so that those which it
        may find are found as surely as before. Where few are left, all of them are compared.

        Args:
            identities: names of people.
            face_ids: ids of faces.
            views: views, as in the Faces.
        """
        allowed = tuple(
            filtering.allowed(shard, before, self.names, identities, face_ids, views)
            for shard, before in self.restricted
        )
        found = replace(self, allowed=allowed, filtered=True)
        if self.nprobe is None or self.nlist is None:
            return found
        if found.left <= FEW:
            return replace(found, nprobe=self.nlist)
        return replace(found, nprobe=min(self.nlist, -(-self.nprobe * self.left // found.left)))

    def without(self, face_ids: np.ndarray) -> "Index":
        """The same index, without some faces: int64 (any number,), their ids."""
        rows = [(~np.isin(shard.face_id_N, face_ids), before) for shard, before in self.restricted]
        allowed = tuple(now if before is None else now & before for now, before in rows)
        return replace(self, allowed=allowed, filtered=True)

    def _masked(self, masked: list[np.ndarray]) -> "Index":
        """The same index, without some faces: for each shard int64, sorted, the ids of its own."""
        allowed, numbers = [], iter(masked)
        for shard in self.shards:
            parts = [~ids.within(shard.face_id_N[span.start : span.stop], next(numbers)) for span in shard.spans]
            allowed.append(np.concatenate(parts))
        return replace(self, allowed=tuple(None if found.all() else found for found in allowed))

    def search(
        self,
        query_QD: np.ndarray,
        top: int,
        *,
        nprobe: int | None = None,
        depth: int | None = None,
        exclude_face_id_Q: np.ndarray | None = None,
    ) -> Neighbours:
        """The ``top`` nearest vectors of each query, merged over the shards.

        Args:
            query_QD: float32 (Q, D), unit length.
            top: neighbours per query, at least 1.
            nprobe: lists to scan; None: the version's tuned number.
            depth: candidates to rerank; None: the version's tuned number. At least ``top`` are reranked.
            exclude_face_id_Q: int64 (Q,), a face that each query must not find (itself, if in the index); -1: none.

        Raises:
            ValueError: queries of another dimension or not of unit length, or ``top`` below 1.
        """
        self._check(query_QD, top, exclude_face_id_Q)
        for name, value in (("nprobe", nprobe), ("depth", depth)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}; leave it out for the tuned number")
        extra = 0 if exclude_face_id_Q is None else 1
        fetch = top + extra
        if self.spec.refine is not None:
            fetch = max(fetch, (depth or self.depth or 1) + extra)
        score_QK, face_id_QK, code_QK = self.reranked(query_QD, fetch, nprobe or self.nprobe)
        if exclude_face_id_Q is not None:
            gone_QK = (face_id_QK == exclude_face_id_Q[:, None]) & (face_id_QK >= 0)
            score_QK[gone_QK], face_id_QK[gone_QK], code_QK[gone_QK] = -np.inf, -1, -1
        order_QK = np.lexsort((face_id_QK, -score_QK), axis=-1)[:, :top]
        return Neighbours(*(np.take_along_axis(a, order_QK, 1) for a in (score_QK, face_id_QK, code_QK)))

    def identify(
        self, query_QD: np.ndarray, name_Q: list[str], top: int, *, exclude_face_id_Q: np.ndarray | None = None
    ) -> pa.Table:
        """The ``top`` nearest identities of each query, each with its best image.

        A face without a name is somebody of its own: its identity is null, and its face_id tells which it is.

        One person's pictures can fill any fixed number of neighbours. So for queries with fewer than ``top`` people,
        more neighbours are fetched and more lists scanned, until there are enough or everything was scanned.

        Args:
            query_QD, exclude_face_id_Q: as in ``search``.
            name_Q: name of each query in the result.
            top: identities per query, at least 1.

        Returns:
            ``schema.MATCHES``, or where faces have no name ``schema.UNLABELLED_MATCHES`` with ``key`` null, by query in
            the order given, then by rank from 1; ``accepted`` is null. A query has
            fewer than ``top`` rows only if the index has fewer people.

        Raises:
            ValueError: as ``search``, or the number of names is not the number of queries.
        """
        self._check(query_QD, top, exclude_face_id_Q)
        if len(name_Q) != len(query_QD):
            raise ValueError(f"{len(name_Q)} names for {len(query_QD)} queries")
        top = min(top, max(1, self._people))  # for people who are not there, everything would be scanned
        rows, lists = max(1, self.left), self.nlist or 1
        shape = (len(query_QD), top)
        best = Neighbours(np.zeros(shape, np.float32), np.full(shape, -1, np.int64), np.full(shape, -1, np.int32))
        work = [(np.arange(len(query_QD)), min(rows, max(4 * top, self.depth or 32)), min(lists, self.nprobe or 1))]
        while work:
            at_Q, fetch, nprobe = work.pop()
            if len(at_Q) > 1 and len(at_Q) * self._width(fetch) > self._cells:
                work += [(half, fetch, nprobe) for half in np.array_split(at_Q, 2)]
                continue
            exclude = None if exclude_face_id_Q is None else exclude_face_id_Q[at_Q]
            near = self.search(query_QD[at_Q], fetch, nprobe=nprobe, exclude_face_id_Q=exclude)
            first_QK = merging.firsts(near.code_QK, near.face_id_QK)
            rank_QK = np.cumsum(first_QK, axis=1)
            done_Q = (rank_QK[:, -1] >= top) | (fetch >= rows and nprobe >= lists)
            query_R, column_R = np.nonzero(first_QK & (rank_QK <= top) & done_Q[:, None])
            place = at_Q[query_R], rank_QK[query_R, column_R] - 1
            best.score_QK[place] = near.score_QK[query_R, column_R]
            best.face_id_QK[place] = near.face_id_QK[query_R, column_R]
            best.code_QK[place] = near.code_QK[query_R, column_R]
            if not done_Q.all():
                scanned_out = fetch >= rows or bool((near.face_id_QK[~done_Q, -1] < 0).any())
                work.append((at_Q[~done_Q], min(rows, 4 * fetch), min(lists, 4 * nprobe) if scanned_out else nprobe))
        return self._matches(best, name_Q)

    def _matches(self, best: Neighbours, name_Q: list[str]) -> pa.Table:
        query_R, place_R = np.nonzero(best.face_id_QK >= 0)
        code_R = best.code_QK[query_R, place_R]
        pool = pa.system_memory_pool()  # Arrow's own keeps ten times what it is asked for here
        columns = [
            pc.take(
                pa.array(name_Q, pa.string(), memory_pool=pool), pa.array(query_R, memory_pool=pool), memory_pool=pool
            ),
            pa.array((place_R + 1).astype(np.int32)),
            pc.take(self.names, pa.array(code_R, mask=code_R < 0), memory_pool=pool),
            pa.array(best.face_id_QK[query_R, place_R]),
            pa.array(best.score_QK[query_R, place_R]),
            pa.nulls(len(query_R), pa.bool_(), memory_pool=pool),
        ]
        if self.unlabelled:
            columns.append(pa.nulls(len(query_R), pa.string(), memory_pool=pool))
        return pa.Table.from_arrays(columns, schema=self.matches)

    def reranked(self, query_QD: np.ndarray, k: int, nprobe: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ``k`` rows with the highest scores by their codes, in this order: float32 scores by their stored vectors,
        int64 face_ids and int32 codes of identities, (Q, k); -inf, -1 and -1 where there are fewer.

        Where nothing is reranked, there are ``k`` of each shard, with the scores by their codes.
        """
        width = self._width(k)
        score_QK = np.full((len(query_QD), width), -np.inf, np.float32)
        face_id_QK = np.full((len(query_QD), width), -1, np.int64)
        code_QK = np.full((len(query_QD), width), -1, np.int32)
        group = max(1, self._cells // width)
        for start in range(0, len(query_QD), group):
            part = slice(start, start + group)
            self._find(query_QD[part], k, nprobe, score_QK[part], face_id_QK[part], code_QK[part])
        return score_QK, face_id_QK, code_QK

    @property
    def _room(self) -> int:
        """Bytes of a thread's workspace."""
        return max(_LEAST_ROOM, self.spec.workspace_bytes(self.rows) // threads.available())

    @property
    def _cells(self) -> int:
        return self.spec.workspace_bytes(self.rows) // _CELL_BYTES

    def _width(self, k: int) -> int:
        """Candidates per query whose face_ids are looked up: without reranking, the best ``k`` of each shard."""
        return k * (len(self.shards) if self.spec.refine is None else 1)

    def _find(
        self,
        query_QD: np.ndarray,
        k: int,
        nprobe: int | None,
        score_QK: np.ndarray,
        face_id_QK: np.ndarray,
        code_QK: np.ndarray,
    ) -> None:
        """Fills the last three arguments. Candidates are compared again in the order of their records, so that those
        of several queries that lie together are read together."""
        row_QK, query_QD = np.empty(score_QK.shape, np.int64), np.ascontiguousarray(query_QD, np.float32)

        def scan(part: slice) -> None:
            row_QK[part], score_QK[part] = self._candidates(query_QD[part], k, nprobe)

        several = min(_SCAN_WORKSPACES * self._room // self.spec.scan_bytes, self._cells // (k * len(self.shards)))
        threads.each(scan, threads.cut(len(query_QD), max(1, several)))
        cell_R = np.argsort(row_QK, axis=None)
        row_R = row_QK.ravel()[cell_R]
        edges = np.searchsorted(row_R, self._first_S).tolist()
        score_C, face_id_C, code_C = (array.reshape(-1) for array in (score_QK, face_id_QK, code_QK))

        def fill(part: slice) -> None:
            number = int(np.searchsorted(self._first_S, row_R[part.start], side="right")) - 1
            shard, position_R = self.shards[number], row_R[part] - self._first_S[number]
            cell_P = cell_R[part]
            if self.spec.refine is None:
                face_id_C[cell_P], code_C[cell_P] = shard.rows_at(position_R)
            else:
                query_P = cell_P // self._width(k)
                score_C[cell_P], face_id_C[cell_P], code_C[cell_P] = shard.compared(query_QD, query_P, position_R)

        few = max(1, self._room // (4 * self.dim))
        pieces = [range(begin, end, few) for begin, end in pairwise(edges)]
        threads.each(fill, [slice(at, min(at + few, piece.stop)) for piece in pieces for at in piece])

    @cached_property
    def _first_S(self) -> np.ndarray:
        """int64 (shards + 1,): the rows before each shard, if all are numbered from 0 on."""
        return np.cumsum([0, *(shard.rows for shard in self.shards)])

    def _candidates(self, query_QD: np.ndarray, k: int, nprobe: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` rows with the highest scores by their codes, best first: rows and scores, (Q, ``_width``)."""
        probed = None
        if self.centroid_MD is not None:
            probed = best_lists(query_QD, self.centroid_MD, min(nprobe or 1, len(self.centroid_MD)))
        found = [shard.candidates(query_QD, probed, k, rows) for shard, rows in self.restricted]
        if len(found) == 1:
            return found[0][1], found[0][0]
        score_QC = np.concatenate([score_QK for score_QK, _ in found], axis=1)
        row_QC = np.concatenate(
            [np.where(at_QK < 0, -1, at_QK + first) for first, (_, at_QK) in zip(self._first_S, found)], axis=1
        )
        if self.spec.refine is None:  # all are needed: which of equal scores comes first is known by face_id only
            return row_QC, score_QC
        best_QK = np.argsort(-score_QC, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(row_QC, best_QK, 1), np.take_along_axis(score_QC, best_QK, 1)

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
