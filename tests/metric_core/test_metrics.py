import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, roc_auc_score, roc_curve

from metric_core import metrics

# Few distinct scores, so that ties are the rule.
scored = st.lists(st.tuples(st.integers(-6, 6).map(lambda i: i / 7), st.booleans()), min_size=2, max_size=60)


def _arrays(pairs):
    score_N, same_N = np.array([s for s, _ in pairs]), np.array([b for _, b in pairs])
    assume(same_N.any() and not same_N.all())
    return score_N, same_N


@settings(deadline=None)
@given(scored, st.floats(0.001, 0.999))
def test_operating_point_is_the_most_permissive_with_far_at_most_the_target(pairs, far):
    score_N, same_N = _arrays(pairs)
    point = metrics.operating_point(score_N, same_N, far)
    impostor, genuine = score_N[~same_N], score_N[same_N]
    assert np.mean(impostor >= point.threshold) <= far + 1e-9
    assert point.tar == np.mean(genuine >= point.threshold)
    # Every threshold that accepts more impostors exceeds the target.
    for lower in impostor[impostor < point.threshold]:
        assert np.mean(impostor >= lower) > far
    assert (point.far, point.negatives) == (far, len(impostor))


@pytest.mark.parametrize(("far", "accepted"), [(0.1, 3), (0.09, 2), (1 / 30, 1), (0.03, 0)])
def test_operating_point_counts_impostors_exactly(far, accepted):
    score_N, same_N = np.arange(60) / 100, np.arange(60) % 2 == 1
    point = metrics.operating_point(score_N, same_N, far)
    assert int((score_N[~same_N] >= point.threshold).sum()) == accepted


@settings(deadline=None)
@given(scored)
def test_auc_is_the_chance_of_a_genuine_pair_above_an_impostor_pair(pairs):
    score_N, same_N = _arrays(pairs)
    above = score_N[same_N][:, None] - score_N[~same_N][None, :]
    assert metrics.auc(score_N, same_N) == pytest.approx(np.mean((above > 0) + 0.5 * (above == 0)))
    assert metrics.auc(score_N, same_N) == pytest.approx(roc_auc_score(same_N, score_N))


@settings(deadline=None)
@given(scored)
def test_eer_lies_on_the_roc_polygon_where_both_errors_are_equal(pairs):
    score_N, same_N = _arrays(pairs)
    far, tar, _ = roc_curve(same_N, score_N, drop_intermediate=False)
    eer = metrics.eer(score_N, same_N)
    # Walk along the polygon in small steps: the two errors differ least at the equal error rate.
    t = np.linspace(0, len(far) - 1, 200 * (len(far) - 1) + 1)
    far_t, frr_t = np.interp(t, np.arange(len(far)), far), 1 - np.interp(t, np.arange(len(tar)), tar)
    at = np.argmin(np.abs(far_t - frr_t))
    assert eer == pytest.approx((far_t[at] + frr_t[at]) / 2, abs=0.01)


@pytest.mark.parametrize(
    ("score", "same", "eer"),
    [
        ([0.9, 0.8, 0.1, 0.0], [1, 1, 0, 0], 0.0),
        ([0.0, 0.1, 0.8, 0.9], [1, 1, 0, 0], 1.0),
        ([0.5, 0.5], [1, 0], 0.5),
        ([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0], 0.5),
        ([0.9, 0.7, 0.4, 0.6, 0.2, 0.1], [1, 1, 1, 0, 0, 0], 1 / 3),
    ],
)
def test_eer_table(score, same, eer):
    assert metrics.eer(np.array(score), np.array(same, bool)) == pytest.approx(eer)


@settings(deadline=None)
@given(scored)
def test_best_threshold_has_the_highest_accuracy_of_all(pairs):
    score_N, same_N = _arrays(pairs)
    candidates = [*(score_N - 1e-3), *(score_N + 1e-3)]
    best = max(accuracy_score(same_N, score_N >= t) for t in candidates)
    threshold = metrics.best_threshold(score_N, same_N)
    assert accuracy_score(same_N, score_N >= threshold) == best
    assert threshold not in score_N or threshold == score_N.min()


def test_best_threshold_is_in_the_middle_of_the_gap():
    assert metrics.best_threshold(np.array([0.2, 0.8]), np.array([False, True])) == pytest.approx(0.5)


@settings(deadline=None)
@given(st.integers(2, 5), st.integers(0, 1000))
def test_each_fold_is_judged_at_the_best_threshold_of_the_others(folds, seed):
    random = np.random.default_rng(seed)
    fold_N = np.repeat(np.arange(folds), 8)
    same_N = np.tile([True, False], 4 * folds)
    score_N = random.standard_normal(8 * folds) + same_N
    got = metrics.fold_accuracies(score_N, same_N, fold_N)
    for f in range(folds):
        threshold = metrics.best_threshold(score_N[fold_N != f], same_N[fold_N != f])
        assert got[f] == np.mean((score_N >= threshold)[fold_N == f] == same_N[fold_N == f])


def test_a_fold_does_not_choose_its_own_threshold():
    # Fold 1's scores are shifted: its own best threshold would be perfect, and fold 0's rejects every pair.
    score_N = np.array([0.8, 0.9, 0.1, 0.2, 0.3, 0.35, -0.5, -0.6])
    same_N = np.array([True, True, False, False] * 2)
    assert metrics.fold_accuracies(score_N, same_N, np.repeat([0, 1], 4)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("score", "same", "message"),
    [
        ([0.1, np.nan], [True, False], "NaN"),
        ([0.1, 0.2], [True, True], "2 genuine of 2"),
        ([0.1, 0.2], [True], "of the same length"),
    ],
)
def test_bad_arrays_are_refused(score, same, message):
    for function in (metrics.auc, metrics.eer, metrics.best_threshold):
        with pytest.raises(ValueError, match=message):
            function(np.array(score), np.array(same))


def test_bad_far_and_single_fold_are_refused():
    score_N, same_N = np.array([0.1, 0.2]), np.array([True, False])
    for far in (0, 1, -0.1):
        with pytest.raises(ValueError, match="far"):
            metrics.operating_point(score_N, same_N, far)
    with pytest.raises(ValueError, match="2 folds"):
        metrics.fold_accuracies(score_N, same_N, np.zeros(2))


def test_quantiles_are_named_by_their_shares():
    assert metrics.quantiles(np.arange(101) / 3, [0.01, 0.5]) == {"0.01": 0.3333, "0.5": 16.6667}
    assert metrics.quantiles(np.empty(0), [0.5]) == {}
