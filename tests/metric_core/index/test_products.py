import sys

import numpy as np
import pytest
import torch

from metric_core.index import products
from metric_core.index.products import nearest


def unit(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """float32 (rows, dim), unit length."""
    x_ND = np.random.default_rng(seed).standard_normal((rows, dim))
    return (x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def as_if_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's branch with PyTorch's products on the CPU."""
    monkeypatch.setattr(products, "_cuda", lambda columns: torch)
    monkeypatch.setattr(products, "_copied", lambda torch, x: torch.tensor(x))


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
