"""Builds an index: one trained template, then shards that start as copies of it and are checked before they are used.

Every shard must come from the same template, because lists of different centroids cannot be searched together.
Storing the files is left to ``version``, choosing the live version to ``store``.
"""

# N: vectors, D: components, K: neighbours per query.

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from metric_core import counter
from metric_core.artefacts.embeddings import Vectors, check_unit
from metric_core.errors import ConfigError, IndexBuildError
from metric_core.index import identities
from metric_core.index.codec import load, template_hash, trained_hash
from metric_core.index.engine import faiss
from metric_core.index.spec import IndexSpec

_PROBES = 256  # sampled rows that a shard must find before it is used


@dataclass(frozen=True)
class Built:
    """A shard in memory."""

    index: Any
    """The FAISS index; its ids are face_ids."""
    identities: pa.Table
    """``identities.SCHEMA``, sorted by face_id"""
    probes: Vectors
    """Up to 256 of the rows, which ``check_shard`` searches for."""
    rows: int
    """Vectors that were added."""


def shard_of(face_id_N: np.ndarray, shards: int) -> np.ndarray:
    """int64 (N,): the shard each face belongs to, a function of its id alone.

    It is the remainder of division by ``shards``. face_ids are hashes, so shards have about equal sizes. The order and
    the parts in which rows arrive do not matter, and a later addition or erasure knows its shard. Unlike ranges of ids,
    this also balances ids that were counted from 0.
    """
    if shards < 1:
        raise ValueError(f"shards must be at least 1, got {shards}")
    return np.asarray(face_id_N, dtype=np.int64) % shards


def of_shard(blocks: Iterable[Vectors], number: int, shards: int) -> Iterator[Vectors]:
    """The rows of each block that belong to shard ``number``; blocks without any are left out."""
    for block in blocks:
        mine = shard_of(block.face_id_N, shards) == number
        if mine.any():
            yield _rows(block, mine)


def sample(blocks: Iterable[Vectors], wanted: int, seed: int, purpose: str) -> Vectors:
    """A uniform sample of ``wanted`` rows (all, if fewer) in one pass, sorted by face_id.

    Every face gets a random number from (seed, purpose, face_id) and the lowest are taken, so the sample is the same
    however the rows are ordered and split into blocks. The first rows of ordered data are not suitable: lists trained
    on them are several times more uneven.
    """
    kept: Vectors | None = None
    drawn_N = np.empty(0)
    for block in blocks:
        draw_B = counter.uniform(seed, 0, block.face_id_N, purpose, 1)[:, 0]
        if kept is None:
            kept = _rows(block, slice(0))
        elif len(kept) == wanted:  # full: only draws below the highest kept one can still be taken
            close_B = draw_B <= drawn_N.max(initial=-1.0)
            block, draw_B = _rows(block, close_B), draw_B[close_B]
        kept, drawn_N = _concatenate(kept, block), np.concatenate([drawn_N, draw_B])
        if len(kept) > wanted:
            lowest = np.lexsort((kept.face_id_N, drawn_N))[:wanted]
            kept, drawn_N = _rows(kept, lowest), drawn_N[lowest]
    if kept is None:
        raise ValueError("sampling needs at least one block")
    return _rows(kept, np.argsort(kept.face_id_N, kind="stable"))


def train_template(sample_ND: np.ndarray, spec: IndexSpec, seed: int) -> bytes:
    """An empty trained index, serialized; every shard starts as a copy of it.

    Args:
        sample_ND: float32 (N, D), a uniform sample of the vectors, unit length; unused by a flat index.
        spec: what to build.
        seed: random seed of k-means.

    Raises:
        ConfigError: fewer sample rows than the lists need.
        ValueError: the sample does not have ``spec.dim`` components or unit length.
    """
    if sample_ND.ndim != 2 or sample_ND.shape[1] != spec.dim:
        raise ValueError(f"the sample has shape {sample_ND.shape}, expected (N, {spec.dim})")
    index = faiss.index_factory(spec.dim, spec.factory, faiss.METRIC_INNER_PRODUCT)
    if spec.nlist is None:
        index = faiss.IndexIDMap2(index)  # a plain flat index numbers its rows and accepts no ids
    else:
        if len(sample_ND) < spec.min_train_rows:
            raise ConfigError(
                f"{spec.factory} needs at least {spec.min_train_rows} vectors to train, got {len(sample_ND)}; "
                f"ask for fewer lists or for 'Flat'"
            )
        check_unit(sample_ND, "training sample")
        index.cp.seed = seed % (1 << 31)
        index.train(np.ascontiguousarray(sample_ND, dtype=np.float32))
    data: bytes = faiss.serialize_index(index).tobytes()
    return data


def build_shard(template: bytes, blocks: Iterable[Vectors]) -> Built:
    """A shard with the rows of ``blocks``, which should be only the rows of that shard; ``check_shard`` checks that.

    Raises:
        IndexBuildError: a vector is not finite or not of unit length, or an id is negative.
    """
    index = load(template)
    face_ids, names, probes = [np.empty(0, np.int64)], [np.empty(0, object)], []
    for number, block in enumerate(blocks):
        if (block.face_id_N < 0).any():  # -1 means "none" in FAISS
            raise IndexBuildError(f"block {number}: face_id {int(block.face_id_N.min())} is negative; ids are 63 bits")
        try:
            check_unit(block.embedding_ND, f"block {number}")
        except ValueError as error:
            raise IndexBuildError(f"{error}; embed again, or leave those rows out") from error
        index.add_with_ids(np.ascontiguousarray(block.embedding_ND, dtype=np.float32), block.face_id_N)
        face_ids.append(block.face_id_N)
        names.append(block.identity_N)
        probes.append(_rows(block, slice(None, None, max(1, len(block) // 16))))
    face_id_N = np.concatenate(face_ids)
    table = identities.to_table(face_id_N, np.concatenate(names))
    return Built(index, table, _thin(probes, index.d), len(face_id_N))


def check_shard(built: Built, number: int, shards: int, rows: int, template: bytes) -> None:
    """Refuse a shard that would give wrong results.

    Args:
        built: the shard.
        number: its number, from 0.
        shards: number of shards.
        rows: rows that the inputs have for it.
        template: the template that it must have been started from.

    Raises:
        IndexBuildError: names every check that failed.
    """
    problems = []
    ids = stored_ids(built.index)
    if not built.index.ntotal == len(ids) == built.rows == rows:
        problems.append(f"it holds {len(ids)} vectors (FAISS counts {built.index.ntotal}), expected {rows}")
    if len(np.unique(ids)) != len(ids):
        problems.append(f"{len(ids) - len(np.unique(ids))} face_ids occur more than once")
    if not np.array_equal(np.sort(ids), built.identities["face_id"].to_numpy()):
        problems.append("its ids are not those of its identity table")
    if len(ids) and (shard_of(ids, shards) != number).any():
        problems.append(f"{int((shard_of(ids, shards) != number).sum())} rows belong to other shards")
    if trained_hash(built.index) != template_hash(template):
        problems.append("it was started from another template")
    if len(built.probes):
        score_NK, id_NK = search(built.index, built.probes.embedding_ND, 10, nprobe=8)
        # A picture with more than 10 copies may not find its own id; then the last of the ten is a copy, too.
        found = (id_NK == built.probes.face_id_N[:, None]).any(axis=1) | (score_NK[:, -1] >= 1 - 1e-4)
        if not found.all():
            problems.append(f"{int((~found).sum())} of {len(found)} sampled vectors do not find themselves")
    if problems:
        raise IndexBuildError(f"shard {number} of {shards}: {'; '.join(problems)}; build the index again")


def search(index: Any, query_QD: np.ndarray, k: int, nprobe: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One shard's ``k`` nearest: float32 scores and int64 ids, (Q, k); id -1 where there were fewer.

    ``nprobe`` is passed with the call: the index's own is shared by every thread that searches it.
    """
    ivf = faiss.try_extract_index_ivf(index)
    params = faiss.SearchParametersIVF(nprobe=min(nprobe, ivf.nlist)) if ivf and nprobe else None
    score_QK, id_QK = index.search(np.ascontiguousarray(query_QD, dtype=np.float32), k, params=params)
    return score_QK, id_QK


def stored_ids(index: Any) -> np.ndarray:
    """int64 (N,): the ids that an index really has, in storage order; ``ntotal`` also counts rows that it dropped."""
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is None:
        id_N: np.ndarray = faiss.vector_to_array(index.id_map)
        return id_N
    lists = ivf.invlists
    out = [np.empty(0, np.int64)]
    for i in range(ivf.nlist):
        if size := lists.list_size(i):
            out.append(faiss.rev_swig_ptr(lists.get_ids(i), size).copy())
    return np.concatenate(out)


def _rows(block: Vectors, which: Any) -> Vectors:
    return Vectors(block.face_id_N[which], block.identity_N[which], block.embedding_ND[which])


def _concatenate(*blocks: Vectors) -> Vectors:
    return Vectors(
        np.concatenate([b.face_id_N for b in blocks]),
        np.concatenate([b.identity_N for b in blocks]),
        np.concatenate([b.embedding_ND for b in blocks]),
    )


def _thin(blocks: list[Vectors], dim: int) -> Vectors:
    """Evenly spaced rows of all blocks, at most ``_PROBES``."""
    none = Vectors(np.empty(0, np.int64), np.empty(0, object), np.empty((0, dim), np.float32))
    pool = _concatenate(none, *blocks)
    return _rows(pool, np.unique(np.linspace(0, max(0, len(pool) - 1), min(len(pool), _PROBES)).astype(int)))
