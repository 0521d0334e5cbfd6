"""The probes' exact neighbours: those of all rows, however these were divided among shards."""

import numpy as np
import pytest

from metric_core.index import truth
from metric_core.index import version as versions
from metric_core.index.corpus import Rows
from metric_core.index.truth import Probes, Truth


def _probes(v: Rows) -> Probes:
    return Probes(v.face_id_N, v.identity.to_pylist(), v.embedding_ND)


@pytest.mark.parametrize("shards", [1, 2, 7])
def test_the_truth_of_shards_merged_is_that_of_all_rows(shards, people):
    v = people(130)
    probes = _probes(v.take(np.arange(0, 650, 13)))
    whole = probes.nearest()
    whole.add(v.face_id_N, v.embedding_ND, v.identity)
    parts = []
    for at_N in np.array_split(np.random.default_rng(0).permutation(650), shards):
        near, part = probes.nearest(), v.take(at_N)
        near.add(part.face_id_N, part.embedding_ND, part.identity)
        parts.append(near.best())
    merged = truth.merged(parts)
    for name in ("score_QW", "face_id_QW", "same_QW"):
        assert getattr(merged, name).tobytes() == getattr(whole.best(), name).tobytes()
    score_QN = probes.query_QD @ v.embedding_ND.T
    score_QN[np.arange(50), np.arange(0, 650, 13)] = -np.inf
    expected = v.face_id_N[np.argsort(-score_QN, axis=1)[:, : truth.WIDTH]]
    np.testing.assert_array_equal(merged.face_id_QW, expected)
    name_of = dict(zip(v.face_id_N.tolist(), v.identity.to_pylist()))
    same = [[name_of[f] == who for f in row] for row, who in zip(expected.tolist(), probes.identity_Q)]
    np.testing.assert_array_equal(merged.same_QW, same)


def test_shards_with_fewer_rows_than_neighbours(people):
    v = people(4, 3)
    probes, parts = _probes(v), []
    for at_N in ([0, 1, 2, 3, 4], [], [5, 6, 7, 8, 9, 10, 11]):
        near, part = probes.nearest(), v.take(np.array(at_N, np.int64))
        near.add(part.face_id_N, part.embedding_ND, part.identity)
        parts.append(near.best())
    merged = truth.merged(parts)
    assert merged.face_id_QW.shape == (12, truth.WIDTH)
    assert ((merged.face_id_QW >= 0).sum(axis=1) == 11).all(), "each but itself"
    assert np.isneginf(merged.score_QW[:, 11:]).all()
    assert not merged.same_QW[:, 11:].any()


def test_what_is_stored_is_read_back(people):
    v = people()
    probes = _probes(v.take(np.arange(20)))
    near = probes.nearest()
    near.add(v.face_id_N, v.embedding_ND, v.identity)
    known = Truth(probes, near.best())
    back = Truth.parse(versions.ipc(known.to_table()))
    best = truth.parse_best(versions.ipc(truth.best_table(known.best)))
    alone = Probes.parse(versions.ipc(probes.to_table()))
    for one in (back.probes, alone):
        np.testing.assert_array_equal(one.face_id_Q, probes.face_id_Q)
        np.testing.assert_array_equal(one.query_QD, probes.query_QD)
        assert one.identity_Q == probes.identity_Q
    for name in ("score_QW", "face_id_QW", "same_QW"):
        for one in (back.best, best):
            assert getattr(one, name).dtype == getattr(known.best, name).dtype
            np.testing.assert_array_equal(getattr(one, name), getattr(known.best, name))
    np.testing.assert_array_equal(back.counted_Q, known.best.same_QW[:, 0])
    assert 0 < known.counted_Q.mean() <= 1


def test_no_probes(people):
    v = people()
    known = Truth(_probes(v.take(np.arange(0))), _probes(v.take(np.arange(0))).nearest().best())
    back = Truth.parse(versions.ipc(known.to_table()))
    assert len(back.probes) == 0
    assert back.probes.query_QD.shape == (0, 16)
    assert back.counted_Q.shape == (0,)
