import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_core import metrics
from metric_core.artefacts.embeddings import Vectors
from metric_core.evaluate import all_pairs


def _brute(v: Vectors) -> tuple[np.ndarray, np.ndarray]:
    i, j = np.triu_indices(len(v), k=1)
    return (v.embedding_ND @ v.embedding_ND.T)[i, j], v.identity_N[i] == v.identity_N[j]


def test_all_pairs_when_few_enough(people):
    v = people([4, 3, 1, 1])
    scores = all_pairs.all_pairs_scores(v, 100, 0)
    score_N, same_N = _brute(v)
    for kind in (True, False):
        got, expected = np.sort(scores.score_N[scores.same_N == kind]), np.sort(score_N[same_N == kind])
        np.testing.assert_allclose(got, expected, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=12), st.integers(2, 200), st.integers(0, 5))
def test_a_sample_of_pairs_is_distinct_seeded_and_of_the_requested_size(sizes, wanted, seed):
    n = sum(sizes)
    # The sampling does not use the vectors, so the products of two primes can identify pairs.
    emb = np.array([p for p in range(2, 400) if all(p % q for q in range(2, p))][:n], np.float32)[:, None]
    v = Vectors(np.arange(n) * 5, np.repeat([f"p{i}" for i in range(len(sizes))], sizes).astype(object), emb)
    scores = all_pairs.all_pairs_scores(v, wanted, seed)
    score_N, same_N = _brute(v)
    assert len(scores.score_N) <= wanted
    if len(score_N) <= wanted:
        assert len(scores.score_N) == len(score_N)
    else:
        genuine = min(int(same_N.sum()), wanted // 2) if same_N.sum() > wanted // 2 else int(same_N.sum())
        assert scores.same_N.sum() == genuine
        assert (~scores.same_N).sum() == min(wanted - genuine, (~same_N).sum())
    for kind in (True, False):
        got = scores.score_N[scores.same_N == kind]
        assert len(np.unique(got)) == len(got)
        assert set(got) <= set(score_N[same_N == kind])
    order = np.random.default_rng(1).permutation(n)
    mixed = Vectors(v.face_id_N[order], v.identity_N[order], v.embedding_ND[order])
    np.testing.assert_array_equal(all_pairs.all_pairs_scores(mixed, wanted, seed).score_N, scores.score_N)


@pytest.mark.parametrize(("block", "bins"), [(7, 1 << 16), (64, 8), (2048, 64)])
def test_operating_points_are_those_of_all_pairs(block, bins, people, monkeypatch):
    monkeypatch.setattr(all_pairs, "_BLOCK", block)
    monkeypatch.setattr(all_pairs, "_BINS", bins)
    v = people([1, 2, 3, 4, 5] * 15)
    score_N, same_N = _brute(v)
    points = all_pairs.operating_points(v)
    # 25,000 impostor pairs: 1e-3 can be measured, 1e-4 cannot.
    assert [p.far for p in points] == [1e-1, 1e-2, 1e-3]
    for point in points:
        expected = metrics.operating_point(score_N, same_N, point.far)
        assert point.threshold == pytest.approx(expected.threshold, abs=1e-6)
        assert (point.tar, point.negatives) == (pytest.approx(expected.tar, abs=1e-3), expected.negatives)
        assert np.mean(score_N[~same_N] >= point.threshold - 1e-6) >= point.far - 1.5 / point.negatives
        # Scores in float32 and in float64 are compared alike.
        assert np.float32(point.threshold) == point.threshold


def test_operating_points_reject_ties(people):
    """Impostors with one common score: none may be accepted, because all would be."""
    axes = np.eye(40, dtype=np.float32)
    v = Vectors(np.arange(80), np.repeat([f"p{i}" for i in range(40)], 2).astype(object), np.repeat(axes, 2, axis=0))
    points = all_pairs.operating_points(v, fars=(0.1, 0.01))
    assert [(p.threshold > 0, p.tar, p.negatives) for p in points] == [(True, 1.0, 3120)] * 2
    same = Vectors(v.face_id_N, v.identity_N, np.repeat(axes[:1], 80, axis=0))
    assert [(p.threshold > 1, p.tar) for p in all_pairs.operating_points(same, fars=(0.1,))] == [(True, 0.0)]


def test_nothing_to_measure(people):
    assert all_pairs.operating_points(people([1, 1, 1])) == []
    assert all_pairs.operating_points(people([5])) == []
    assert all_pairs.operating_points(people([2, 2])) == []
    with pytest.raises(ValueError, match="at least 2"):
        all_pairs.all_pairs_scores(people([2, 2]), 1, 0)


def test_balanced_scores_have_as_many_of_both_kinds(people):
    v = people([1, 2, 3, 4, 5] * 15)
    assert all_pairs.genuine_count(v) == 300
    for wanted, each in ((10_000, 300), (600, 300), (100, 50)):
        scores = all_pairs.balanced_scores(v, wanted, 0)
        assert (scores.same_N.sum(), (~scores.same_N).sum()) == (each, each)
    assert len(all_pairs.balanced_scores(people([1, 1, 1]), 100, 0).score_N) == 2


def test_only_wanted_pairs_are_created():
    """One person on nearly all pictures: half a billion genuine pairs, and few impostor pairs."""
    n = 30_000
    emb = np.ones((n, 1), np.float32)
    emb[-1] = -1
    v = Vectors(np.arange(n), np.array(["Ann"] * (n - 1) + ["Bob"], object), emb)
    scores = all_pairs.all_pairs_scores(v, 50_000, 0)
    assert (scores.same_N.sum(), (~scores.same_N).sum()) == (25_000, 25_000)
    np.testing.assert_array_equal(scores.score_N, np.where(scores.same_N, 1, -1))
