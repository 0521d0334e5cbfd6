"""How far an index has drifted since its last full build."""

from dataclasses import replace

import numpy as np
import pytest

from metric_core.index import drift
from metric_core.index.drift import Drift

CALM = Drift(
    rows=1000,
    added=100,
    masked=50,
    probe_similarity=0.8,
    added_similarity=0.75,
    imbalance=1.2,
    imbalance_now=1.5,
    identity=0.99,
    identity_now=0.986,
)


def test_within_the_bounds_nothing_is_advised():
    assert CALM.advice() is None
    assert CALM.changed == 0.15
    assert (
        replace(CALM, probe_similarity=None, added_similarity=None, imbalance=None, imbalance_now=None).advice() is None
    )


@pytest.mark.parametrize(
    ("beyond", "line"),
    [
        (
            {"added_similarity": 0.7},
            "mean similarity of 0.700 to the centroids of their lists, the stored probes one of 0",
        ),
        ({"imbalance_now": 1.9}, "the imbalance of the lists grew from 1.20 to 1.90 (bound: 1.5 times)"),
        ({"identity_now": 0.98}, "stored probes fell from 0.9900 to 0.9800 (bound: 0.5 points)"),
        ({"masked": 110}, "100 rows were added and 110 masked since the last full build of 1,000 (bound: 20%)"),
    ],
)
def test_each_bound_is_said_with_its_figures(beyond, line):
    advice = replace(CALM, **beyond).advice()
    assert advice.startswith("rebuild advised: ")
    assert line in advice
    assert ";" not in advice, "only what is beyond its bound"


def test_all_bounds_are_said_in_one_line():
    advice = replace(CALM, added_similarity=0.1, imbalance_now=9.0, identity_now=0.5, added=900).advice()
    assert advice.count(";") == 3
    assert "\n" not in advice


def test_imbalance():
    assert drift.imbalance(np.array([5, 5, 5])) == 1
    assert drift.imbalance(np.array([9, 0, 0])) == 3
    assert drift.imbalance(np.array([3, 1])) == round(2 * 10 / 16, 6)
    assert drift.imbalance(np.zeros(0, np.int64)) is None
    assert drift.imbalance(np.zeros(4, np.int64)) is None


@pytest.mark.parametrize(
    "factory", ["IVF4,Flat", "IVF4,SQfp16", "IVF4,PQ8x4fsr,Refine(SQfp16)", "IVF4,PQ8x8,Refine(SQ8)"]
)
def test_similarities_are_those_of_rows_and_the_centroids_of_their_lists(factory, people, open_of):
    v = people(2000)
    index = open_of(v, factory, shards=1, nprobe=4, depth=600)
    expected = (v.embedding_ND @ index.centroid_MD.T).max(axis=1).mean()
    assert drift.row_similarity(index.shards) == pytest.approx(expected, abs=5e-3)
    assert drift.probe_similarity(v.embedding_ND, index.centroid_MD) == pytest.approx(expected, abs=1e-5)
    sizes = drift.list_sizes(index.shards[0])
    assert sizes.tolist() == np.bincount((v.embedding_ND @ index.centroid_MD.T).argmax(axis=1), minlength=4).tolist()


def test_an_index_without_lists_has_neither(people, open_of):
    v = people()
    index = open_of(v, "Flat", shards=1)
    assert drift.row_similarity(index.shards) is None
    assert drift.probe_similarity(v.embedding_ND, index.centroid_MD) is None
    assert drift.imbalance(drift.list_sizes(index.shards[0])) is None


def test_rows_that_are_distributed_otherwise_are_less_similar(people, open_of):
    index = open_of(people(200, noise=0.1), "IVF4,Flat", shards=1)
    like, other = (
        drift.probe_similarity(people(200, noise=0.1, seed=seed).embedding_ND, index.centroid_MD) for seed in (0, 1)
    )
    assert other < 0.9 * like
