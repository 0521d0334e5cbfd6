import sys

import numpy as np
import pytest
import torch

from metric_core.index import kernels, products
from metric_core.index.engine import faiss
from metric_core.index.kernels import best_lists, kmeans, nearest


def unit(rows: int, dim: int, seed: int = 0, groups: int = 0) -> np.ndarray:
    """float32 (rows, dim), unit length; around ``groups`` centres if there are any."""
    rng = np.random.default_rng(seed)
    x_ND = rng.standard_normal((rows, dim))
    if groups:
        centre_GD = rng.standard_normal((groups, dim)) * 2
        x_ND += centre_GD[rng.integers(0, groups, rows)]
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)


def error(x_ND: np.ndarray, centroid_MD: np.ndarray) -> float:
    """The quantization error."""
    return float(np.mean(1 - (x_ND.astype(np.float64) @ centroid_MD.T.astype(np.float64)).max(axis=1)))


@pytest.fixture
def as_if_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's branch with PyTorch's products on the CPU."""
    monkeypatch.setattr(products, "_cuda", lambda columns: torch)
    monkeypatch.setattr(products, "_copied", lambda torch, x: torch.tensor(x))


def test_the_quantization_error_is_that_of_faiss():
    x_ND = unit(6000, 24, groups=300)
    ours, theirs = [], []
    for seed in range(5):
        peer = faiss.Clustering(24, 64)
        peer.niter, peer.seed, peer.spherical = 10, seed + 1, True
        peer.train(x_ND, faiss.IndexFlatIP(24))
        theirs.append(error(x_ND, faiss.vector_to_array(peer.centroids).reshape(64, 24)))
        ours.append(error(x_ND, kmeans(x_ND, 64, seed=seed)))
    assert np.mean(ours) <= np.mean(theirs) * 1.005


def test_k_means_is_deterministic_and_of_unit_length():
    x_ND = unit(3000, 16, groups=40)
    centroid_MD = kmeans(x_ND, 50, seed=7)
    assert centroid_MD.dtype == np.float32
    assert np.allclose(np.linalg.norm(centroid_MD, axis=1), 1, atol=1e-6)
    assert kmeans(x_ND, 50, seed=7).tobytes() == centroid_MD.tobytes()
    assert kmeans(x_ND, 50, seed=8).tobytes() != centroid_MD.tobytes()
    assert np.array_equal(x_ND, unit(3000, 16, groups=40)), "the rows were changed"


def test_every_iteration_lowers_the_error():
    x_ND = unit(3000, 16, groups=40)
    errors = [error(x_ND, kmeans(x_ND, 50, seed=1, iterations=i)) for i in (1, 2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_lists_without_rows_take_half_of_the_largest():
    x_ND = np.concatenate([np.repeat(unit(2, 8), 300, axis=0), unit(400, 8, seed=1)])  # most first centroids are equal
    list_N, _ = nearest(x_ND, kmeans(x_ND, 20, seed=0, iterations=20))
    assert (np.bincount(list_N, minlength=20) > 0).sum() >= 19


def test_two_halves_of_a_list_differ_a_little_and_share_its_rows():
    centroid_MD, size_M = unit(3, 6), np.array([10, 31, 0])
    before_MD = centroid_MD.copy()
    kernels._split(centroid_MD, size_M)
    assert size_M.tolist() == [10, 16, 15]
    assert np.array_equal(centroid_MD[0], before_MD[0])
    assert np.allclose(centroid_MD[1:], before_MD[1], atol=2e-3)
    assert not np.array_equal(centroid_MD[1], centroid_MD[2])
    assert np.allclose(np.linalg.norm(centroid_MD, axis=1), 1, atol=1e-6)


def test_rows_that_cancel_out_leave_the_centroid():
    one = np.eye(1, 4, dtype=np.float32)
    centroid_MD = kmeans(np.concatenate([one, -one]), 1, seed=0)
    assert np.isfinite(centroid_MD).all()
    assert np.allclose(np.abs(centroid_MD), one)


@pytest.mark.parametrize(
    ("rows", "count", "iterations", "bad", "message"),
    [
        (9, 10, 1, None, "10 centroids needs as many rows, got 9"),
        (9, 0, 1, None, "at least 1 centroid and 1 iteration, got 0 and 1"),
        (9, 2, 0, None, "at least 1 centroid and 1 iteration, got 2 and 0"),
        (9, 2, 1, np.nan, "finite"),
        (9, 2, 1, np.inf, "finite"),
    ],
)
def test_k_means_refuses(rows, count, iterations, bad, message):
    x_ND = unit(rows, 4)
    if bad is not None:
        x_ND[3, 2] = bad
    with pytest.raises(ValueError, match=message):
        kmeans(x_ND, count, seed=0, iterations=iterations)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_nearest_is_the_first_of_the_largest_products(dtype):
    x_ND, centroid_MD = unit(3000, 16).astype(dtype), unit(70, 16, seed=1)
    centroid_MD[50] = centroid_MD[20]
    list_N, score_N = nearest(x_ND, centroid_MD)
    product_NM = x_ND.astype(np.float64) @ centroid_MD.T.astype(np.float64)
    assert list_N.dtype == np.int64
    assert np.array_equal(list_N, product_NM.argmax(axis=1))
    assert np.allclose(score_N, product_NM.max(axis=1), atol=1e-6)
    assert 20 in list_N
    assert 50 not in list_N


@pytest.mark.parametrize("nprobe", [1, 7, 64, 300, 1000])
def test_best_lists_are_those_of_a_full_sort(nprobe):
    query_QD, centroid_MD = unit(90, 32), unit(300, 32, seed=1)
    centroid_MD[200] = centroid_MD[100]
    list_QP, score_QP = best_lists(query_QD, centroid_MD, nprobe)
    assert list_QP.shape == score_QP.shape == (90, min(nprobe, 300))
    for q in range(90):
        score_M = np.array(
            [products.scores(centroid_MD, np.array([m]), query_QD, np.array([q]))[0] for m in range(300)]
        )
        assert np.allclose(score_M, centroid_MD @ query_QD[q], atol=1e-6)
        order = np.lexsort((np.arange(300), -score_M))[:nprobe]
        assert list_QP[q].tolist() == order.tolist()
        assert score_QP[q].tobytes() == score_M[order].tobytes()


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


def test_products_stay_within_the_slack():
    query_QD, row_RD = unit(64, 512), unit(1024, 512, seed=1) * 2
    row_C, query_C = (a.ravel() for a in np.indices((1024, 64)))
    off_RQ = np.abs(row_RD @ query_QD.T - products.scores(row_RD, row_C, query_QD, query_C).reshape(1024, 64))
    assert (off_RQ.max(axis=0) <= products.slack(query_QD)).all()


def test_pairs_above_a_floor_are_all_found():
    row_RD, query_QD, floor_Q = unit(500, 8), unit(5, 8, seed=1), np.array([-np.inf, 0, 0.3, 0.5, np.inf], np.float32)
    row_C, query_C = products.above(row_RD, query_QD, floor_Q)
    assert set(zip(row_C, query_C)) == set(zip(*np.nonzero(row_RD @ query_QD.T >= floor_Q)))
    assert np.bincount(query_C, minlength=5)[[0, 4]].tolist() == [500, 0]


def test_pytorch_is_not_loaded_for_a_product(monkeypatch):
    assert products._cuda(10_000) is (torch if torch.cuda.is_available() else None)
    monkeypatch.delitem(sys.modules, "torch")
    assert products._cuda(10_000) is None
    nearest(unit(10, 4), unit(100, 4))
    assert "torch" not in sys.modules


def agree_with_numpy() -> None:
    x_ND, centroid_MD = unit(3000, 16), unit(70, 16, seed=1)
    centroid_MD[50] = centroid_MD[20]
    floor_M = np.full(70, 0.4, np.float32)
    got = nearest(x_ND, centroid_MD), products.above(x_ND, centroid_MD, floor_M)
    product_NM = x_ND @ centroid_MD.T
    assert np.array_equal(got[0][0], product_NM.argmax(axis=1))
    assert np.allclose(got[0][1], product_NM.max(axis=1), atol=1e-6)
    sure_NM = np.abs(product_NM - 0.4) > 1e-6
    found_NM = np.zeros(product_NM.shape, bool)
    found_NM[got[1]] = True
    assert np.array_equal(found_NM[sure_NM], (product_NM >= 0.4)[sure_NM])


def test_pytorch_s_products_are_used_as_numpy_s_are(as_if_gpu):
    before = torch.get_float32_matmul_precision()
    agree_with_numpy()
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_s_products_are_used_as_numpy_s_are():
    assert products._cuda(64) is torch
    agree_with_numpy()
    x_ND = unit(6000, 24, groups=300)
    assert error(x_ND, kmeans(x_ND, 64, seed=0)) < error(x_ND, kmeans(x_ND, 64, seed=0, iterations=1))
