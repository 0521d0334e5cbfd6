import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_core.artefacts.embeddings import Vectors
from metric_core.errors import TooFewImages
from metric_core.evaluate import classification, clustering, neighbours, retrieval
from metric_core.evaluate.neighbours import nearest_others


def _corners(rows: int, seed: int) -> Vectors:
    """Corners of a 4-dimensional cube: many equal vectors and equal scores, all of them exact."""
    random = np.random.default_rng(seed)
    emb_ND = random.choice(np.array([-0.5, 0.5], np.float32), (rows, 5)) * np.array([1, 1, 1, 1, 0], np.float32)
    return Vectors(random.permutation(rows) * 3, np.full(rows, "x", object), emb_ND)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 40), st.integers(0, 5), st.sampled_from([3, 8, 1024]), st.sampled_from([5, 1 << 21]))
def test_neighbours_are_a_sorted_row_with_ties_by_face_id(rows, seed, block, cells):
    v = _corners(rows, seed)
    k_N = np.random.default_rng(seed).integers(0, rows, rows)
    answered = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "_BLOCK", block)
        patch.setattr(neighbours, "_CELLS", cells)
        for near in nearest_others(v, k_N):
            assert near.at_BK.shape == near.score_BK.shape == (len(near.row_B), k_N[near.row_B].max())
            assert near.at_BK.size <= max(cells, rows)
            for row, at_K, score_K in zip(near.row_B, near.at_BK, near.score_BK):
                score_N = (v.embedding_ND * v.embedding_ND[row]).sum(1)  # BLAS may warn of NaN without reason
                others = sorted((i for i in range(rows) if i != row), key=lambda i: (-score_N[i], v.face_id_N[i]))
                assert at_K.tolist() == others[: len(at_K)]
                assert score_K.tolist() == score_N[at_K].tolist()
                answered.append(row)
    assert sorted(answered) == np.flatnonzero(k_N).tolist()


@pytest.mark.parametrize("block", [7, 1024])
def test_scores_are_cosines_within_a_millionth(block, people, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    v = people([40], dim=64)
    sim_NN = v.embedding_ND.astype(float) @ v.embedding_ND.T.astype(float)
    np.fill_diagonal(sim_NN, -np.inf)
    for near in nearest_others(v, np.full(40, 9)):
        np.testing.assert_allclose(near.score_BK, -np.sort(-sim_NN[near.row_B])[:, :9], atol=1e-6)
        np.testing.assert_allclose(np.take_along_axis(sim_NN[near.row_B], near.at_BK, 1), near.score_BK, atol=1e-6)


def test_one_vector_for_everybody_is_a_tie(people):
    v = people([300])
    same = Vectors(v.face_id_N, v.identity_N, np.full((300, 4), 0.5, np.float32))
    smallest = np.argsort(v.face_id_N)[:6]
    for near in nearest_others(same, np.full(300, 5)):
        for row, at_K in zip(near.row_B, near.at_BK):
            assert at_K.tolist() == smallest[smallest != row][:5].tolist()


def test_more_neighbours_than_others_are_refused(people):
    with pytest.raises(ValueError, match="5 neighbours are requested, but a vector has 4 others"):
        next(nearest_others(people([5]), np.full(5, 5)))
    assert list(nearest_others(people([5]), np.zeros(5, int))) == []


@pytest.mark.parametrize("report", [retrieval.report, clustering.report, lambda v: classification.report(v, 5)])
class TestProtocols:
    def test_refuse_too_few_images(self, report, people):
        for sizes in ([5], [1, 1, 1]):
            with pytest.raises(TooFewImages, match="at least 2 people"):
                report(people(sizes))

    def test_do_not_depend_on_the_order_of_rows(self, report, people):
        v = people([1, 2, 3, 4, 5] * 5, noise=1.0)
        order = np.random.default_rng(1).permutation(len(v))
        mixed = Vectors(v.face_id_N[order], v.identity_N[order], v.embedding_ND[order])
        figures, of_mixed = report(v), report(mixed)
        for name in figures:
            assert of_mixed[name] == pytest.approx(figures[name]), name

    def test_never_hold_a_square_matrix(self, report, people, monkeypatch):
        monkeypatch.setattr(neighbours, "_BLOCK", 128)
        v = people([4] * 1000)
        tracemalloc.start()
        try:
            report(v)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < len(v) ** 2 / 2, "a square of 4000 booleans is 16 MB"
