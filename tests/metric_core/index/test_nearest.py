import pickle
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch

from metric_core.index import products
from metric_core.index.nearest import Best, Nearest, flat_search

ROWS, DIM = 5000, 24
QUERIES = 70


def unit(rows: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    x_ND = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


class Vectors:
    """Vectors of which some are equal, the persons of most, and queries taken from among them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.x_ND = unit(ROWS)
        self.x_ND[rng.integers(0, ROWS, 200)] = self.x_ND[0]
        self.face_id_N = rng.permutation(10 * ROWS)[:ROWS]
        self.name_N = [None if i % 11 == 0 else f"person {i}" for i in rng.integers(0, 12, ROWS)]
        self.own_Q = np.append(0, rng.integers(0, ROWS, QUERIES - 1))
        self.query_QD = self.x_ND[self.own_Q]

    def nearest(self, width: int) -> Nearest:
        return Nearest(
            self.query_QD,
            width,
            exclude_face_id_Q=self.face_id_N[self.own_Q],
            identity_Q=[self.name_N[i] for i in self.own_Q],
        )

    def add(self, nearest: Nearest, rows: np.ndarray) -> None:
        """A block's dictionary has its own codes."""
        names = pa.array([self.name_N[i] for i in rows], pa.string()).dictionary_encode()
        nearest.add(self.face_id_N[rows], self.x_ND[rows], names)

    def oracle(self, width: int) -> Best:
        """One query and one row at a time."""
        best = Best(
            np.full((QUERIES, width), -np.inf, np.float32),
            np.full((QUERIES, width), -1, np.int64),
            np.zeros((QUERIES, width), bool),
        )
        for q, own in enumerate(self.own_Q):
            score_N = products.scores(self.x_ND, np.arange(ROWS), self.query_QD, np.full(ROWS, q))
            order = np.lexsort((self.face_id_N, -score_N))
            order = order[order != own][:width]
            best.score_QW[q, : len(order)] = score_N[order]
            best.face_id_QW[q, : len(order)] = self.face_id_N[order]
            mine = self.name_N[own]
            best.same_QW[q, : len(order)] = [mine is not None and self.name_N[i] == mine for i in order]
        return best


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return Vectors()


def equal(one: Best, other: Best) -> bool:
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in vars(one))


@pytest.mark.parametrize("cuts", [[], [1], [3, 17, 40, 2000], list(range(0, 5000, 250)), [4096], [4999]])
@pytest.mark.parametrize("width", [1, 16, 100])
def test_the_best_are_those_of_a_full_scan_however_the_vectors_are_cut(vectors, width, cuts):
    nearest = vectors.nearest(width)
    for start, stop in pairwise([0, *cuts, ROWS]):
        vectors.add(nearest, np.arange(start, stop))
    best = nearest.best()
    assert equal(best, vectors.oracle(width))
    assert best.same_QW.any()


def test_the_order_of_the_vectors_does_not_matter(vectors):
    nearest = vectors.nearest(16)
    for rows in np.array_split(np.random.default_rng(1).permutation(ROWS), 9):
        vectors.add(nearest, rows)
    assert equal(nearest.best(), vectors.oracle(16))


def test_parts_that_were_pickled_merge_to_the_whole(vectors):
    parts = []
    for rows in np.array_split(np.arange(ROWS), 3):
        part = vectors.nearest(16)
        vectors.add(part, rows)
        parts.append(pickle.loads(pickle.dumps(part)))
    whole = vectors.nearest(16)
    for part in parts[::-1]:
        whole.merge(part)
    assert equal(whole.best(), vectors.oracle(16))
    alone = vectors.nearest(16)
    vectors.add(alone, np.arange(ROWS // 3 + 1))
    assert not equal(alone.best(), whole.best())


def test_fewer_vectors_than_results_are_filled_up(vectors):
    nearest = vectors.nearest(50)
    rows = np.flatnonzero(np.isin(np.arange(ROWS), vectors.own_Q[:3]))
    vectors.add(nearest, rows)
    best = nearest.best()
    assert (best.face_id_QW[0] >= 0).sum() == len(rows) - 1
    assert np.isneginf(best.score_QW[best.face_id_QW < 0]).all()
    assert not best.same_QW[best.face_id_QW < 0].any()
    none = vectors.nearest(2).best()
    assert (none.face_id_QW == -1).all()


def test_equal_vectors_only_are_ordered_by_face_id():
    nearest = Nearest(unit(2), 5)
    nearest.add(np.arange(9000)[::-1], np.repeat(unit(1), 9000, axis=0))
    assert nearest.best().face_id_QW.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_nobody_is_the_same_person_without_identities():
    nearest = Nearest(unit(2), 3, identity_Q=["Ann", None])
    nearest.add(np.arange(9), unit(9), pa.array([None] * 9, pa.string()).dictionary_encode())
    assert not nearest.best().same_QW.any()
    nearest.add(np.arange(9, 18), unit(9), pa.array(["Ann"] * 9).dictionary_encode())
    assert nearest.best().same_QW.any(axis=1).tolist() == [True, False]


def test_bad_queries_are_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Nearest(unit(2), 0)
    with pytest.raises(ValueError, match="2 queries, 3 face_ids and 2 identities"):
        Nearest(unit(2), 1, exclude_face_id_Q=np.arange(3))
    with pytest.raises(ValueError, match="different queries"):
        Nearest(unit(2), 1).merge(Nearest(unit(2, seed=1), 1))


def cut(x_ND: np.ndarray, rows: int) -> list[tuple[int, np.ndarray]]:
    return [(start, x_ND[start : start + rows]) for start in range(0, len(x_ND), rows)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("share", [None, 0.5, 0.01, 0.001, 0])
def test_a_flat_search_finds_the_best_that_are_allowed(vectors, share, dtype):
    x_ND = vectors.x_ND.astype(dtype)
    allowed = None if share is None else np.random.default_rng(3).random(ROWS) < share
    score_QK, position_QK = flat_search(vectors.query_QD, cut(x_ND, 999), 20, allowed)
    there = np.arange(ROWS) if allowed is None else np.flatnonzero(allowed)
    for q in range(QUERIES):
        score_N = products.scores(x_ND.astype(np.float32), there, vectors.query_QD, np.full(len(there), q))
        order = np.lexsort((there, -score_N))[:20]
        assert position_QK[q].tolist() == there[order].tolist() + [-1] * (20 - len(order))
        assert (
            score_QK[q].tobytes() == np.append(score_N[order], np.full(20 - len(order), -np.inf, np.float32)).tobytes()
        )


@pytest.mark.parametrize("rows", [1, 64, 700, 5000])
def test_a_query_s_results_are_the_same_bits_whatever_other_queries_are_there(vectors, rows):
    score_QK, position_QK = flat_search(vectors.query_QD, cut(vectors.x_ND, ROWS), 20)
    for first, count in ((0, 1), (9, 1), (30, 2), (60, 10)):
        part = slice(first, first + count)
        score, position = flat_search(vectors.query_QD[part], cut(vectors.x_ND, rows), 20)
        assert np.array_equal(position, position_QK[part])
        assert score.tobytes() == score_QK[part].tobytes()


def test_pytorch_s_products_give_the_same_bits(vectors, monkeypatch):
    monkeypatch.setattr(products, "_cuda", lambda columns: torch)
    monkeypatch.setattr(products, "_copied", lambda torch, x: torch.tensor(x))
    nearest = vectors.nearest(16)
    vectors.add(nearest, np.arange(ROWS))
    assert equal(nearest.best(), vectors.oracle(16))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_gives_the_same_bits(vectors):
    assert products._cuda(QUERIES) is torch
    nearest = vectors.nearest(16)
    vectors.add(nearest, np.arange(ROWS))
    assert equal(nearest.best(), vectors.oracle(16))
