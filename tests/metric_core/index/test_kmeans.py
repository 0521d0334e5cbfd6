import numpy as np
import pytest

from metric_core.index.engine import faiss
from metric_core.index.kmeans import _nearest_near, _split, kmeans
from metric_core.index.products import nearest


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


def test_a_row_is_compared_with_the_centroids_near_its_own_only_and_they_are_enough():
    x_ND = unit(6000, 16, groups=300)
    centroid_MD = kmeans(x_ND, 150, seed=1)  # more lists than twice those that are compared
    list_N, _ = nearest(x_ND, centroid_MD)
    near_MK = np.argsort(-(centroid_MD @ centroid_MD.T), axis=1)[:, :64]
    assert (_nearest_near(x_ND, list_N, centroid_MD, near_MK) == list_N).all()
    assert error(x_ND, centroid_MD) < error(x_ND, x_ND[:150])
    far_N = np.zeros(len(x_ND), np.int64)
    assert np.isin(_nearest_near(x_ND, far_N, centroid_MD, near_MK), near_MK[0]).all()


def test_lists_without_rows_take_half_of_the_largest():
    x_ND = np.concatenate([np.repeat(unit(2, 8), 300, axis=0), unit(400, 8, seed=1)])  # most first centroids are equal
    list_N, _ = nearest(x_ND, kmeans(x_ND, 20, seed=0))
    assert (np.bincount(list_N, minlength=20) > 0).sum() >= 19


def test_two_halves_of_a_list_differ_a_little_and_share_its_rows():
    centroid_MD, size_M = unit(3, 6), np.array([10, 31, 0])
    before_MD = centroid_MD.copy()
    _split(centroid_MD, size_M)
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
    ("rows", "count", "bad", "message"),
    [
        (9, 10, None, "10 centroids needs as many rows, got 9"),
        (9, 0, None, "at least 1 centroid, got 0"),
        (9, 2, np.nan, "finite"),
        (9, 2, np.inf, "finite"),
    ],
)
def test_k_means_refuses(rows, count, bad, message):
    x_ND = unit(rows, 4)
    if bad is not None:
        x_ND[3, 2] = bad
    with pytest.raises(ValueError, match=message):
        kmeans(x_ND, count, seed=0)
