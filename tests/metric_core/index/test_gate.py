"""A version that finds less than the live one is noticed, and one of the same data is not."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from metric_core.index import gate
from metric_core.index.corpus import Rows
from metric_core.index.search import Index
from metric_core.index.truth import Probes

REFINED = "IVF16,PQ4x4fsr,Refine(SQfp16)"


@pytest.fixture
def opened(write_index, tmp_path):
    def make(v, *, factory=REFINED, **how):
        version = write_index(tmp_path, v, factory, depth=40, **{"nprobe": 16, **how})
        return Index.open(str(tmp_path), version.id)

    return make


def verdicts(live, new, **how):
    found = gate.compare(live, new, gate.probes_of(live), **how)
    return {figure.name: figure for figure in found}


def stopping(live, new, **how):
    return [name for name, figure in verdicts(live, new, **how).items() if figure.stops]


def with_noise(v: Rows, at: slice) -> Rows:
    noise = v.embedding_ND.copy()
    noise[at] = np.random.default_rng(0).normal(size=noise[at].shape)
    return replace(v, embedding_ND=noise / np.linalg.norm(noise, axis=1, keepdims=True))


def test_builds_of_the_same_data_pass(opened, people):
    v = people(1000)
    live = opened(v)
    for seed in range(2, 8):
        figures = verdicts(live, opened(v, seed=seed))
        assert not [one for one in figures.values() if one.stops], figures
        assert figures["rows"].new == figures["rows"].live == 5000
        assert figures["people"].new == 1000


@pytest.mark.parametrize("factory", [REFINED, "Flat", "IVF16,SQ8"])
def test_the_probes_are_rows_of_the_version_as_they_are_stored(opened, people, factory):
    v = people(300)
    index = opened(v, factory=factory)
    probes = gate.probes_of(index)
    assert len(np.unique(probes.face_id_Q)) == len(probes) == len(v)
    at_Q = np.searchsorted(v.face_id_N, probes.face_id_Q) if (np.diff(v.face_id_N) > 0).all() else None
    at_Q = at_Q if at_Q is not None else np.array([np.flatnonzero(v.face_id_N == one)[0] for one in probes.face_id_Q])
    assert (np.einsum("qd,qd->q", v.embedding_ND[at_Q], probes.query_QD) > 0.99).all()
    assert probes.identity_Q == v.identity.take(pa.array(at_Q)).to_pylist()
    few = gate.probes_of(index, 150)
    assert 100 <= len(few) <= 200
    assert set(few.face_id_Q.tolist()) <= set(probes.face_id_Q.tolist())


def test_an_answer_leaves_the_probe_itself_out(opened, people):
    v = people(130)
    index = opened(v, factory="Flat")
    probes = gate.probes_of(index)
    found = gate.answers(index, probes)
    assert not (found.face_id_Q == probes.face_id_Q).any()
    near_NN = v.embedding_ND @ v.embedding_ND.T
    np.fill_diagonal(near_NN, -2)
    best = dict(zip(v.face_id_N.tolist(), v.face_id_N[near_NN.argmax(axis=1)].tolist()))
    assert [best[one] for one in probes.face_id_Q.tolist()] == found.face_id_Q.tolist()
    names = dict(zip(v.face_id_N.tolist(), v.identity.to_pylist()))
    assert [names[one] for one in found.face_id_Q.tolist()] == found.person_Q.to_pylist()


def test_what_is_worse_is_stopped(opened, people):
    v = people(1000)
    live = opened(v)
    assert stopping(live, opened(v, nprobe=1, seed=2)) == ["probes found"]
    assert stopping(live, opened(with_noise(v, slice(0, 1700)), seed=3)) == ["probes found"]
    fewer = v.take(np.arange(50, len(v)))
    assert stopping(live, opened(fewer, seed=4)) == ["rows", "people"]
    figures = verdicts(live, opened(fewer, seed=4))
    assert figures["people"].note.startswith("10 are gone, p0")
    gone_M = np.sort(v.face_id_N[:50])
    assert not stopping(live, opened(fewer, seed=4), gone_M=gone_M), "they were to go"


def test_one_picture_of_many_is_a_row_and_no_person(opened, people):
    v = people(200)
    live, new = opened(v), opened(v.take(np.arange(len(v))[np.arange(len(v)) % 5 > 0]), seed=2)
    figures = verdicts(live, new)
    assert (figures["rows"].stops, figures["rows"].new) == (True, 800)
    assert (figures["people"].stops, figures["people"].new) == (False, 200)
    assert not stopping(live, new, tolerance=0.5)


def test_a_fall_that_chance_explains_passes():
    right_Q = np.ones(100, bool)
    found = partial(gate._found, "probes found", right_Q, tolerance=0.003)
    few_Q, many_Q = right_Q.copy(), right_Q.copy()
    few_Q[:5], many_Q[:12] = False, False
    assert not found(now_Q=few_Q).stops, "two to the minus five"
    assert found(now_Q=many_Q).stops
    exchanged_Q, before_Q = np.arange(100) % 2 == 0, np.arange(100) % 2 == 1
    assert not gate._found("probes found", before_Q, exchanged_Q, 0.003).stops, "as many were won as lost"


def test_given_probes_count_by_themselves(opened, people):
    v = people(400)
    live, new = opened(v), opened(with_noise(v, slice(0, 100)), seed=2)
    given = Probes(np.full(100, -1), v.identity.to_pylist()[:100], v.embedding_ND[:100])
    figures = verdicts(live, new, given=given, tolerance=0.2)
    assert not figures["probes found"].stops
    assert (figures["given probes found"].stops, figures["given probes found"].live) == (True, 1.0)


def test_versions_of_two_models_answer_with_their_own_vectors(opened, people):
    v = people(400)
    turned = replace(v, embedding_ND=np.ascontiguousarray(v.embedding_ND[:, ::-1]))
    live = opened(v)
    same, worse = (opened(rows, seed=seed) for rows, seed in ((turned, 2), (with_noise(turned, slice(0, 500)), 3)))
    other = partial(replace, fingerprint="e" * 64)
    assert not stopping(live, other(same))
    assert stopping(live, other(worse)) == ["probes found"]
    assert stopping(live, same) == ["probes found"], "their vectors do not compare"


def test_faces_without_a_name_are_rows_only(opened, people):
    v = people(130)
    code = v.identity.indices.to_numpy().copy()
    names = pa.DictionaryArray.from_arrays(pa.array(code, mask=np.ones(len(code), bool)), v.identity.dictionary)
    live = opened(replace(v, identity=names))
    figures = verdicts(live, opened(replace(v, identity=names), seed=2))
    assert set(figures) == {"rows", "people"}
    assert figures["people"].live == figures["people"].new == 0
