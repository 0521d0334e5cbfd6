import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from metric_core.artefacts.embeddings import Vectors
from metric_core.evaluate import classification, neighbours


@pytest.mark.parametrize(("k", "block"), [(1, 1024), (3, 7), (5, 1024), (20, 7), (1000, 1024)])
def test_report_equals_scikit_learn_leaving_one_out(k, block, people, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    v = people([1, 2, 3, 4, 5] * 5, noise=1.0)
    right = []
    for row in range(len(v)):
        rest = np.arange(len(v)) != row
        if v.identity_N[row] not in v.identity_N[rest]:
            continue
        judge = KNeighborsClassifier(
            min(k, len(v) - 1), metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
        )
        judge.fit(v.embedding_ND[rest].astype(float), v.identity_N[rest].astype(str))
        right.append(judge.predict(v.embedding_ND[row : row + 1].astype(float))[0] == v.identity_N[row])
    report = classification.report(v, k)
    assert 0 < np.mean(right) < 1
    assert report == {
        "accuracy": pytest.approx(np.mean(right)),
        "neighbours": min(k, len(v) - 1),
        "queries": 70,
        "queries_skipped": 5,
    }


def _on_a_circle(people: str, degrees: list[float]) -> Vectors:
    angle_N = np.deg2rad(degrees)
    emb_ND = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1).astype(np.float32)
    return Vectors(np.arange(len(people)) * 2, np.array(list(people), object), emb_ND)


def test_the_nearer_picture_outvotes_farther_ones_and_face_ids_break_ties():
    # Ann at 0 and 10 degrees are each other's nearest; three pictures of Bob are 40 degrees away.
    v = _on_a_circle("aabbb", [0, 10, 50, 51, 52])
    assert classification.report(v, 4)["accuracy"] == 1
    # All vectors are equal: the nearest of each is the smallest id other than its own.
    assert classification.report(_on_a_circle("aabb", [0, 0, 0, 0]), 1)["accuracy"] == 0.5
    assert classification.report(_on_a_circle("abba", [0, 0, 0, 0]), 1)["accuracy"] == 0.25


def test_no_neighbours_cannot_vote(people):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        classification.report(people([2, 2]), 0)
