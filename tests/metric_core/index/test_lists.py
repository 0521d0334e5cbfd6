import numpy as np
import pytest

from metric_core.index.lists import best_lists


def unit(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """float32 (rows, dim), unit length."""
    x_ND = np.random.default_rng(seed).standard_normal((rows, dim))
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("nprobe", [1, 7, 64, 300, 1000])
def test_best_lists_are_those_of_a_full_sort(nprobe):
    query_QD, centroid_MD = unit(90, 32), unit(300, 32, seed=1)
    centroid_MD[200] = centroid_MD[100]
    list_QP, score_QP = best_lists(query_QD, centroid_MD, nprobe)
    assert list_QP.shape == score_QP.shape == (90, min(nprobe, 300))
    for q in range(90):
        score_M = centroid_MD @ query_QD[q]
        order = np.lexsort((np.arange(300), -score_M))[:nprobe]
        assert sorted(list_QP[q].tolist()) == sorted(order.tolist())
        np.testing.assert_allclose(score_QP[q], score_M[list_QP[q]], atol=1e-6)


@pytest.mark.parametrize("dim", [31, 128])
def test_a_query_s_lists_are_the_same_bits_whatever_other_queries_are_there(dim):
    centroid_MD, query_QD = unit(2000, dim), unit(1000, dim, seed=1)
    list_QP, score_QP = best_lists(query_QD, centroid_MD, 40)
    order = np.random.default_rng(2).permutation(1000)
    moved = best_lists(query_QD[order], centroid_MD, 40)
    assert np.array_equal(moved[0], list_QP[order])
    assert moved[1].tobytes() == score_QP[order].tobytes()
    for q, others in ((0, 1), (3, 1), (640, 2), (993, 7)):
        alone = best_lists(query_QD[q : q + others], centroid_MD, 40)
        assert np.array_equal(alone[0], list_QP[q : q + others])
        assert alone[1].tobytes() == score_QP[q : q + others].tobytes()


def test_best_lists_refuses_no_lists():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        best_lists(unit(1, 4), unit(2, 4), 0)
