"""The least work that reaches a target, and what is counted as found."""

# N: rows, Q: probes.

from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest

from metric_core.index import template, tuning
from metric_core.index.corpus import Rows
from metric_core.index.spec import IndexSpec
from metric_core.index.truth import Probes, Truth
from metric_core.index.tuning import Target

IVF = "IVF16,Flat"
REFINED = "IVF8,PQ2x4fsr,Refine(SQfp16)"
TIES = 0.03
"""What equal scores of coarse codes change: which of them are candidates depends on how many are asked for."""


def _truth(v: Rows, step: int = 5) -> Truth:
    some = v.take(np.arange(0, len(v), step))
    probes = Probes(some.face_id_N, some.identity.to_pylist(), some.embedding_ND)
    near = probes.nearest()
    near.add(v.face_id_N, v.embedding_ND, v.identity)
    return Truth(probes, near.best())


def test_a_flat_index_finds_everything(people, open_of):
    v = people(130)
    tuned = tuning.tune(open_of(v), _truth(v), Target(1.0, 1.0))
    assert (tuned.identity, tuned.first, tuned.recall) == (1.0, 1.0, 1.0)
    assert (tuned.nprobe, tuned.depth) == (None, None)
    assert (tuned.probes, len(tuned.curve)) == (130, 1)
    assert 0 < tuned.counted <= 130


def test_recalls_count_what_is_found(people, open_of):
    v = people(200)
    index, known = open_of(v, IVF, shards=2), _truth(v)
    probes = known.probes
    point = tuning.measure(index, known, 2, None)
    near = index.search(probes.query_QD, 10, nprobe=2, exclude_face_id_Q=probes.face_id_Q)
    true = known.best.face_id_QW[:, :10]
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near.face_id_QK.tolist(), true.tolist())])
    assert 0.1 < expected < 1
    assert point.recall == pytest.approx(expected)
    assert point.first == pytest.approx((near.face_id_QK[:, 0] == true[:, 0]).mean())
    names = index.names.to_pylist()
    right = np.array([names[code] == who for code, who in zip(near.code_QK[:, 0], probes.identity_Q)])
    assert 0 < known.counted_Q.sum() < len(probes), "probes whose person is not first do not count"
    assert point.identity == pytest.approx(right[known.counted_Q].mean())


@pytest.mark.parametrize("target", [Target(0.8), Target(0.95), Target(1.0), Target(0.5, 0.9), Target(0.5, 1.0)])
def test_the_least_work_that_reaches_the_target_is_chosen(target, people, open_of):
    v = people(200)
    index, known = open_of(v, IVF, shards=2), _truth(v)
    tuned = tuning.tune(index, known, target)
    points = [tuning.measure(index, known, nprobe, None) for nprobe in tuning.steps(16)]
    expected = min((point for point in points if target.met(point)), key=lambda point: point.work)
    assert {name: value for name, value in asdict(tuned).items() if name in asdict(expected)} == asdict(expected)
    assert target.met(tuning.measure(index, known, tuned.nprobe, tuned.depth))


@pytest.mark.parametrize("target", [Target(0.9), Target(0.99), Target(0.9, 0.9)])
def test_lists_and_candidates_are_tuned_together(target, people, open_of):
    v = people(200)
    index, known = open_of(v, REFINED, shards=2, depth=1), _truth(v)
    tuned = tuning.tune(index, known, target)
    assert target.met(tuned)
    again = tuning.measure(index, known, tuned.nprobe, tuned.depth)
    for name in ("identity", "first", "recall"):
        assert getattr(again, name) == pytest.approx(getattr(tuned, name), abs=TIES)
    reached = [point for point in tuned.curve if target.met(tuning.Point(**point))]
    assert tuned.work == min(point["work"] for point in reached)
    assert tuned.depth > 1
    harder = replace(target, identity=target.identity + TIES, vectors=target.vectors and target.vectors + TIES)
    depths = [depth for depth in tuning._DEPTHS if depth < tuned.depth]
    assert not any(harder.met(tuning.measure(index, known, tuned.nprobe, depth)) for depth in depths)


def test_the_best_is_returned_where_the_target_is_out_of_reach(people, open_of):
    v = people(200)
    index, known = open_of(v, "IVF8,PQ2x4fsr", shards=2), _truth(v)
    tuned = tuning.tune(index, known, Target(1.0, 1.0))
    assert tuned.recall < 1
    assert len(tuned.curve) == len(tuning.steps(8))
    assert tuned.identity == max(point["identity"] for point in tuned.curve)


def test_where_nobody_has_two_pictures_the_nearest_vector_counts(people, open_of):
    v = people(650, 1)
    index, known = open_of(v, "IVF16,SQ8", shards=2), _truth(v)
    assert not known.counted_Q.any()
    tuned = tuning.tune(index, known, Target(0.9))
    assert tuned.counted == 0
    assert tuned.identity == tuned.first >= 0.9
    few = tuning.measure(index, known, 1, None)
    assert few.identity == few.first < 0.9


def test_copies_of_a_picture_count_as_each_other(people, open_of):
    v = people(130)
    same = Rows(v.face_id_N, v.identity, None, np.repeat(v.embedding_ND[:13], 50, axis=0))
    point = tuning.measure(open_of(same, "SQfp16"), _truth(same), None, None)
    assert (point.first, point.recall) == (1.0, 1.0)


@pytest.mark.parametrize("factory", ["Flat", REFINED])
def test_fewer_vectors_than_neighbours(factory, people, open_of):
    v, many = people(4, 1), people(200)
    trained = template.train(many.embedding_ND, IndexSpec(16, factory), 0)
    index = open_of(v, factory, shards=2, trained=trained, depth=1)
    tuned = tuning.tune(index, _truth(v, 1), Target(1.0, 1.0))
    assert (tuned.identity, tuned.first, tuned.recall) == (1.0, 1.0, 1.0)
    one = v.take(np.arange(1))
    alone = tuning.tune(open_of(one, factory, shards=1, trained=trained, depth=1), _truth(one, 1), Target(1.0, 1.0))
    assert alone.recall == 1.0, "there is nothing to be found"


def test_a_sample_s_candidates_are_weighed_as_those_of_the_whole(people, open_of):
    v = people(200)
    index, known = open_of(v, REFINED, shards=1, depth=1), _truth(v)
    tuned = tuning.tune(index, known, Target(0.9))
    crowded = tuning.tune(index, known, Target(0.9), crowding=20.0)
    assert crowded.work > tuned.work
    assert crowded.identity >= 0.9


def test_steps_are_powers_of_two_and_halfway_between():
    assert tuning.steps(None) == [None]
    assert tuning.steps(1) == [1]
    assert tuning.steps(16) == [1, 2, 3, 4, 6, 8, 12, 16]
    assert tuning.steps(20) == [1, 2, 3, 4, 6, 8, 12, 16, 20]


@pytest.mark.parametrize("start", [1, 3, 6, 16])
def test_tuning_finds_the_same_wherever_it_begins(start, people, open_of):
    v = people(200)
    index, known = open_of(v, IVF, shards=2), _truth(v)
    tuned, expected = (tuning.tune(index, known, Target(0.99), start=first) for first in (start, 1))
    assert (tuned.nprobe, tuned.identity) == (expected.nprobe, expected.identity)
    assert tuned.nprobe not in (1, 16), "there are fewer and more lists to be tried"


def test_a_target_is_reached_surely(people):
    """Of a thousand draws of probes that find with a chance of just the target, one in twenty seems sure."""
    target, probes = Target(0.95), 1000
    sure = target.surely(probes).identity
    found = np.random.default_rng(0).binomial(probes, 0.95, 20_000) / probes
    assert (found >= sure).mean() == pytest.approx(0.05, abs=0.01)
    assert Target(1.0).surely(5) == Target(1.0)
    assert Target(0.99, 0.9).surely(10) == Target(1.0, 0.9)


def test_sift(data_root, open_of):
    """Real, clustered vectors with a published ground truth: cosine top-100 of 100 queries among 5,000."""
    folder = data_root / "ann"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set LIKENESS_DATA to the folder that holds ann/")
    base_ND, query_QD = (
        np.fromfile(folder / name, "<f4").reshape(-1, 129)[:, 1:]
        for name in ("sift5k_base.fvecs", "siftsmall_query.fvecs")
    )
    true_QK = np.fromfile(folder / "sift5k_groundtruth_cosine_top100.ivecs", "<i4").reshape(-1, 101)[:, 1:]
    base_ND, query_QD = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (base_ND, query_QD))
    v = Rows(np.arange(5000), pa.array([str(i) for i in range(5000)]).dictionary_encode(), None, base_ND)
    found = open_of(v, "Flat").search(query_QD, 100).face_id_QK
    assert np.mean([len(set(a) & set(b)) / 100 for a, b in zip(found.tolist(), true_QK.tolist())]) >= 0.999
    probes = Probes(np.full(100, -1), [None] * 100, query_QD)
    near = probes.nearest()
    near.add(v.face_id_N, v.embedding_ND, v.identity)
    known = Truth(probes, near.best())
    for factory, most in (("IVF64,Flat", 24), ("IVF64,PQ32x4fsr,Refine(SQfp16)", 48)):
        index = open_of(v, factory, shards=1, depth=1)
        tuned = tuning.tune(index, known, Target(0.95, 0.95))
        assert tuned.recall >= 0.95
        assert tuned.first == tuned.identity >= 0.95
        assert 1 < tuned.nprobe <= most
        assert not Target(0.95, 0.95).met(tuning.measure(index, known, 12, 512))
