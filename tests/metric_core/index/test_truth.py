"""The probes' exact neighbours: those of all rows, however these were divided among shards."""

import numpy as np
import pyarrow as pa
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


def _followed(rng, rows, masked, added, least=10):
    """Neighbours of 12 probes after a change, found by ``followed`` and by looking at all rows."""
    dim, probes = 8, 12
    all_ND = rng.standard_normal((rows + added, dim)).astype(np.float32)
    all_ND /= np.linalg.norm(all_ND, axis=1, keepdims=True)
    id_N = rng.permutation(10 * (rows + added))[: rows + added].astype(np.int64)
    names = pa.array([f"p{n % 17}" for n in range(rows + added)]).dictionary_encode()
    own = Probes(id_N[:probes], names[:probes].to_pylist(), all_ND[:probes])
    near = own.nearest()
    near.add(id_N[:rows], all_ND[:rows], names[:rows])
    new = own.nearest()
    new.add(id_N[rows:], all_ND[rows:], names[rows:])
    hidden = rng.choice(rows, masked, replace=False)
    found = truth.followed(Truth(own, near.best()), rows, np.sort(id_N[hidden]), [new.best()], least)
    left_N = np.setdiff1d(np.arange(rows + added), hidden)
    oracle = own.nearest()
    oracle.add(id_N[left_N], all_ND[left_N], names.take(pa.array(left_N)))
    kept_Q = ~np.isin(own.face_id_Q, id_N[hidden])
    return found, oracle.best(), kept_Q, own


@pytest.mark.parametrize(
    ("rows", "masked", "added"), [(400, 0, 40), (400, 40, 0), (400, 60, 30), (30, 5, 9), (20, 10, 0)]
)
def test_followed_neighbours_are_those_of_all_rows_that_are_left(rows, masked, added):
    for seed in range(5):
        found, best, kept_Q, own = _followed(np.random.default_rng(seed), rows, masked, added)
        assert found.masked == int((~kept_Q).sum())
        assert found.short + found.masked + len(found.truth.probes) == len(own)
        at_Q = [own.face_id_Q.tolist().index(number) for number in found.truth.probes.face_id_Q.tolist()]
        assert kept_Q[at_Q].all()
        mine = found.truth.best
        known_QW = mine.face_id_QW >= 0
        assert (known_QW.sum(axis=1) >= min(10, rows + added - masked - 1)).all()
        for name in ("score_QW", "face_id_QW", "same_QW"):
            np.testing.assert_array_equal(getattr(mine, name)[known_QW], getattr(best, name)[at_Q][known_QW])


def test_a_probe_whose_neighbours_are_nearly_all_hidden_does_not_count():
    found, _, kept_Q, _ = _followed(np.random.default_rng(0), 400, 350, 0)
    assert found.short > 0
    assert len(found.truth.probes) == kept_Q.sum() - found.short


def test_neighbours_are_followed_over_several_changes():
    """What was not known after a change is not taken for known after the next one."""
    rng = np.random.default_rng(3)
    dim, rows = 8, 300
    all_ND = rng.standard_normal((rows, dim)).astype(np.float32)
    all_ND /= np.linalg.norm(all_ND, axis=1, keepdims=True)
    id_N = np.arange(rows, dtype=np.int64)
    own = Probes(id_N[:10], [None] * 10, all_ND[:10])
    near = own.nearest()
    near.add(id_N[:200], all_ND[:200])
    known, hidden = Truth(own, near.best()), np.empty(0, np.int64)
    for step in range(4):
        more = np.arange(200 + 25 * step, 225 + 25 * step)
        fresh = np.sort(rng.choice(np.setdiff1d(np.arange(10, 200 + 25 * step), hidden), 30, replace=False))
        new = known.probes.nearest()
        new.add(id_N[more], all_ND[more])
        known = truth.followed(known, 200 + 25 * step - len(hidden), fresh, [new.best()], 5).truth
        hidden = np.union1d(hidden, fresh)
        left_N = np.setdiff1d(np.arange(225 + 25 * step), hidden)
        oracle = known.probes.nearest()
        oracle.add(id_N[left_N], all_ND[left_N])
        known_QW = known.best.face_id_QW >= 0
        assert len(known.probes) > 0
        np.testing.assert_array_equal(known.best.face_id_QW[known_QW], oracle.best().face_id_QW[known_QW])
