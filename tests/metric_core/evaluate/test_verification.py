import numpy as np
import pytest

from metric_core import metrics
from metric_core.artefacts.embeddings import Vectors
from metric_core.artefacts.faces import face_id
from metric_core.errors import DataError
from metric_core.evaluate import verification
from metric_core.evaluate.pairs import PairScores, read_pairs


def _scores(folds: int, side: int, seed: int = 0, gap: float = 1.5) -> PairScores:
    random = np.random.default_rng(seed)
    same_N = np.tile(np.repeat([True, False], side), folds)
    return PairScores(gap * same_N + random.standard_normal(len(same_N)), same_N, np.repeat(np.arange(folds), 2 * side))


def test_pairs_are_scored_over_blocks_and_missing_pictures_are_counted(people):
    v = people([3, 2, 1])
    text = "1\t3\nP_0\t1\t2\nP_0\t2\t3\nP_1\t1\t9\nP_0\t1\tP_1\t1\nP_1\t2\tP_2\t1\nP_0\t1\tP_7\t1\n"
    blocks = [Vectors(v.face_id_N[i::2], v.identity_N[i::2], v.embedding_ND[i::2]) for i in (0, 1)]
    scores = verification.score_pairs(read_pairs(text, "p"), blocks, "test")
    e = v.embedding_ND
    np.testing.assert_allclose(scores.score_N, [e[0] @ e[1], e[1] @ e[2], e[0] @ e[3], e[4] @ e[5]], atol=1e-6)
    assert (scores.same_N.tolist(), scores.skipped) == ([True, True, False, False], 2)
    assert verification.report(scores)["pairs_skipped"] == 2
    assert verification.report(scores)["pairs"] == 4


def test_prefix_and_salts_lead_to_the_ids(people):
    v = people([2, 1])
    keys = ["img/P_0/P_0_0001", "img/P_0/P_0_0002", "img/P_1/P_1_0001"]
    ids = np.array([face_id("ns", keys[0]), face_id("ns", keys[1], 1), face_id("ns", keys[2])])
    v = Vectors(ids, v.identity_N, v.embedding_ND)
    pairs = read_pairs("1\nP_0\t1\t2\nP_0\t1\tP_1\t1\n", "p")
    assert verification.score_pairs(pairs, [v], "ns", {keys[1]: 1}, "img/").skipped == 0
    assert verification.score_pairs(pairs, [v], "ns", key_prefix="img/").skipped == 1
    with pytest.raises(
        DataError, match=r"none of the 2 pairs .* 0 of the 3 .* key is 'P_0/P_0_0001' in namespace 'ns'"
    ):
        verification.score_pairs(pairs, [v], "ns")
    with pytest.raises(DataError, match="none of the 2 pairs"):
        verification.score_pairs(pairs, [], "ns")


def test_report_of_many_folds_is_lfws_protocol():
    scores = _scores(10, 60)
    report = verification.report(scores)
    assert list(report) == ["accuracy", "accuracy_se", "auc", "eer", "tar_at_far", "pairs", "pairs_skipped"]
    by_fold = metrics.fold_accuracies(scores.score_N, scores.same_N, scores.fold_N)
    assert report["accuracy"] == by_fold.mean()
    assert report["accuracy_se"] == pytest.approx(np.std(by_fold, ddof=1) / np.sqrt(10))
    assert report["auc"] == metrics.auc(scores.score_N, scores.same_N)
    assert report["eer"] == metrics.eer(scores.score_N, scores.same_N)
    # 600 impostor pairs: enough for 1e-1, too few for 1e-2 (1,000 needed).
    tar = metrics.operating_point(scores.score_N, scores.same_N, 0.1).tar
    assert report["tar_at_far"] == {"1e-1": tar, "1e-2": None, "1e-3": None}
    assert verification.report(_scores(2, 500))["tar_at_far"]["1e-2"] is not None


@pytest.mark.parametrize("folds", [1, 2, 4])
def test_with_few_folds_the_error_is_a_bootstrap_of_the_right_size(folds):
    scores = _scores(folds, 400 // folds)
    report = verification.report(scores, resamples=300)
    binomial = np.sqrt(report["accuracy"] * (1 - report["accuracy"]) / 800)
    assert 0.8 * binomial < report["accuracy_se"] < 1.6 * binomial
    assert report == verification.report(scores, resamples=300)
    assert report["accuracy_se"] != verification.report(scores, resamples=300, seed=1)["accuracy_se"]


def test_one_fold_is_not_judged_at_its_own_threshold():
    """On pure noise the best threshold of the fold itself is better than chance; that of other folds is not."""
    accuracies = [verification.report(_scores(1, 20, seed=s, gap=0), resamples=2)["accuracy"] for s in range(60)]
    assert 0.45 < np.mean(accuracies) < 0.54


def test_lists_without_both_kinds_are_refused():
    with pytest.raises(DataError, match="1 genuine and 3 impostor"):
        verification.report(PairScores(np.arange(4.0), np.arange(4) < 1, np.zeros(4, int)))
    with pytest.raises(DataError, match="a fold has all"):
        verification.report(PairScores(np.arange(6.0), np.arange(6) < 3, np.array([0, 0, 0, 1, 1, 1])))


@pytest.mark.parametrize(("far", "name"), [(0.1, "1e-1"), (1e-2, "1e-2"), (2.5e-4, "2.5e-4"), (0.0001, "1e-4")])
def test_names_of_rates(far, name):
    assert verification.far_name(far) == name
