import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.metrics import normalized_mutual_info_score, pair_confusion_matrix

from metric_core.artefacts.embeddings import Vectors
from metric_core.evaluate import clustering


def _labels(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 6), min_size=size, max_size=size)


@settings(deadline=None)
@given(st.integers(2, 25).flatmap(lambda size: st.tuples(_labels(size), _labels(size))))
def test_agreement_equals_loops(labels):
    person_N, cluster_N = (np.array(column) * 11 for column in labels)
    rows = range(len(person_N))
    precision, recall = [], []
    for i in rows:
        together = [j for j in rows if cluster_N[j] == cluster_N[i]]
        own = [j for j in rows if person_N[j] == person_N[i]]
        both = len(set(together) & set(own))
        precision.append(both / len(together))
        recall.append(both / len(own))
    figures = clustering.agreement(person_N.astype(str), cluster_N)
    p, r = np.mean(precision), np.mean(recall)
    assert figures["bcubed"] == pytest.approx({"precision": p, "recall": r, "f": 2 * p * r / (p + r)})
    (_, false), (missed, right) = pair_confusion_matrix(person_N, cluster_N)
    expected = {"precision": (right, right + false), "recall": (right, right + missed)}
    expected["f"] = (2 * right, 2 * right + false + missed)
    assert figures["pairwise"] == {
        name: pytest.approx(part / whole) if whole else None for name, (part, whole) in expected.items()
    }


def test_agreement_of_amigos_example():
    """Three people's pictures, where one cluster has two of the people."""
    figures = clustering.agreement(np.array(list("aaaabbc")), np.array([0, 0, 0, 0, 1, 1, 1]))
    assert figures["bcubed"]["precision"] == pytest.approx((4 * 1 + 2 * 2 / 3 + 1 / 3) / 7)
    assert figures["bcubed"]["recall"] == 1
    assert figures["pairwise"] == {"precision": 7 / 9, "recall": 1, "f": 7 / 8}


def _brute_links(v: Vectors, k: int, threshold: float) -> np.ndarray:
    sim_NN = np.rint(v.embedding_ND @ v.embedding_ND.T * 2**20) / 2**20
    linked_NN = np.zeros(sim_NN.shape, bool)
    for i in range(len(v)):
        near = sorted((j for j in range(len(v)) if j != i), key=lambda j: (-sim_NN[i, j], v.face_id_N[j]))[:k]
        linked_NN[i, [j for j in near if sim_NN[i, j] >= threshold]] = True
    return np.where(linked_NN | linked_NN.T, sim_NN, 0)


def _spy_on(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The links that the report passes to the clustering, and the clusters that it gets."""
    seen = {}
    whispers = clustering._whispers

    def spy(links: csr_array, order_N: np.ndarray) -> np.ndarray:
        seen["links"], seen["clusters"] = links.toarray(), whispers(links, order_N)
        return seen["clusters"]

    monkeypatch.setattr(clustering, "_whispers", spy)
    return seen


@pytest.mark.parametrize(("k", "threshold"), [(50, 0.4), (3, 0.4), (5, None)])
def test_links_and_figures_of_a_report(k, threshold, people, monkeypatch):
    monkeypatch.setattr(clustering, "NEIGHBOURS", k)
    seen = _spy_on(monkeypatch)
    v = people([1, 2, 3, 4, 10] * 3, dim=64)
    report = clustering.report(v, threshold)
    links_NN, cluster_N = seen["links"], seen["clusters"]
    np.testing.assert_allclose(links_NN, _brute_links(v, k, report["threshold"]), atol=2e-6)
    assert report["nmi"] == pytest.approx(normalized_mutual_info_score(v.identity_N.astype(str), cluster_N))
    assert {k: report[k] for k in ("bcubed", "pairwise")} == clustering.agreement(v.identity_N.astype(str), cluster_N)
    assert (report["clusters"], report["people"], report["pictures"]) == (len(set(cluster_N)), 15, 60)
    assert 15 <= report["clusters"] < 60
    assert report["bcubed"]["f"] > 0.8
    # At the end no picture has stronger links to another cluster.
    to_NC = np.stack([links_NN[:, cluster_N == c].sum(axis=1) for c in range(report["clusters"])], axis=1)
    assert (to_NC.max(axis=1) <= to_NC[np.arange(60), cluster_N] + 1e-6).all()


def test_the_default_threshold_has_the_best_links(people, monkeypatch):
    monkeypatch.setattr(clustering, "NEIGHBOURS", 8)
    v = people([1, 2, 3, 4, 10] * 3, dim=16)
    sim_NN = np.where(np.eye(60, dtype=bool), -2, v.embedding_ND @ v.embedding_ND.T)
    near_NN = np.argsort(np.argsort(-sim_NN, axis=1), axis=1) < 8
    right_NN = near_NN & (v.identity_N[:, None] == v.identity_N)
    best = []
    for step in range(1, 1000):
        linked_NN = near_NN & (sim_NN >= step / 1000)
        hits = (linked_NN & right_NN).sum()
        best.append((2 * hits / max(linked_NN.sum() + right_NN.sum(), 1), step / 1000))
    assert clustering.report(v)["threshold"] == max(best)[1]


def test_people_joined_by_a_weaker_link_stay_apart():
    random = np.random.default_rng(0)
    weight_NN = np.zeros((12, 12), np.float32)
    weight_NN[:6, :6], weight_NN[6:, 6:] = random.integers(32, 64, (2, 6, 6)) / 64
    weight_NN = np.triu(weight_NN, 1)
    weight_NN[2, 7] = 31 / 64
    links = csr_array(weight_NN + weight_NN.T)
    for seed in range(20):
        cluster_N = clustering._whispers(links, np.random.default_rng(seed).permutation(12))
        assert len(set(cluster_N[:6])) == len(set(cluster_N[6:])) == 1
        assert cluster_N[0] != cluster_N[6]


def test_a_cluster_is_connected():
    """Two groups join picture 0's cluster, and picture 0 then joins a third: the two have one label, but no link."""
    weight_NN = np.zeros((10, 10), np.float32)
    for one, two, three in ((1, 2, 3), (4, 5, 6)):
        weight_NN[0, one], weight_NN[one, two], weight_NN[one, three], weight_NN[two, three] = 0.75, 0.5, 0.5, 0.25
    weight_NN[0, 7:] = weight_NN[7, 8:] = weight_NN[8, 9] = 0.875
    order_N = np.array([1, 2, 3, 4, 5, 6, 8, 9, 7, 0])
    cluster_N = clustering._whispers(csr_array(weight_NN + weight_NN.T), order_N)
    first, *rest = cluster_N[[1, 4, 7]]
    assert cluster_N.tolist() == [rest[1], *[first] * 3, *[rest[0]] * 3, *[rest[1]] * 3]
    assert len({first, *rest}) == 3


def test_separate_people_are_found_and_a_high_threshold_separates_all_pictures(people):
    v = people([1, 2, 3, 30, 1], noise=0.2, dim=64)
    perfect = {"precision": 1, "recall": 1, "f": 1}
    report = clustering.report(v, 0.5)
    assert (report["nmi"], report["bcubed"], report["pairwise"]) == (pytest.approx(1), perfect, perfect)
    assert (report["clusters"], report["threshold"]) == (5, 0.5)
    alone = clustering.report(v, 0.9999)
    assert (alone["clusters"], alone["bcubed"]["precision"]) == (37, 1)
    assert alone["pairwise"] == {"precision": None, "recall": 0, "f": 0}


@pytest.mark.parametrize("threshold", [0, 1, -0.2, float("nan")])
def test_thresholds_outside_are_refused(threshold, people):
    with pytest.raises(ValueError, match=r"in \(0, 1\)"):
        clustering.report(people([2, 2]), threshold)
