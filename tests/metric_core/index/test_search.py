"""Searching an open index: equal to a scan of everything, and the same whatever other queries are there."""

# N: rows, D: components, Q: queries.

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_core.artefacts import schema
from metric_core.errors import FingerprintMismatch
from metric_core.index import search, template
from metric_core.index.corpus import Rows
from metric_core.index.engine import faiss
from metric_core.index.search import Index, check_fingerprint
from metric_core.index.spec import IndexSpec

FAMILIES = [
    "Flat",
    "SQfp16",
    "SQ8",
    "IVF8,Flat",
    "IVF8,SQfp16",
    "IVF8,SQ8",
    "IVF8,SQ8,Refine(SQfp16)",
    "IVF8,PQ4x4fsr",
    "IVF8,PQ8x4fsr,Refine(SQfp16)",
    "IVF8,PQ2x4fsr,Refine(SQ8)",
    "IVF8,RaBitQfs",
    "IVF8,RaBitQfs,Refine(SQfp16)",
    "IVF8,RaBitQfs4",
    "IVF8,RaBitQfs4,Refine(SQ8)",
]
EXACT = [("Flat", None), ("IVF4,Flat", 4)]
families = pytest.mark.parametrize("factory", FAMILIES)
Found = tuple[float, int, str]


def _rows(ids: np.ndarray, names: list[str], embedding_ND: np.ndarray) -> Rows:
    return Rows(np.asarray(ids, np.int64), pa.array(names, pa.string()).dictionary_encode(), None, embedding_ND)


def _brute(v: Rows, query_D: np.ndarray, exclude: int = -1) -> list[Found]:
    """Everything, best first, then by face_id."""
    rows = zip((v.embedding_ND @ query_D).tolist(), v.face_id_N.tolist(), v.identity.to_pylist())
    return sorted((row for row in rows if row[1] != exclude), key=lambda row: (-row[0], row[1]))


def _people(brute: list[Found], top: int) -> list[tuple[str, int]]:
    best: dict[str, int] = {}
    for _, face, name in brute:
        best.setdefault(name, face)
    return list(best.items())[:top]


@pytest.mark.parametrize("shards", [1, 3, 8])
@pytest.mark.parametrize(("factory", "nprobe"), EXACT)
def test_search_equals_a_scan_of_everything(shards, factory, nprobe, people, open_of):
    v = people()
    index = open_of(v, factory, shards=shards, nprobe=nprobe)
    near = index.search(v.embedding_ND[:30], 12)
    for q in range(30):
        expected = _brute(v, v.embedding_ND[q])[:12]
        assert near.face_id_QK[q].tolist() == [face for _, face, _ in expected]
        assert index.names.take(pa.array(near.code_QK[q])).to_pylist() == [name for _, _, name in expected]
        np.testing.assert_allclose(near.score_QK[q], [score for score, _, _ in expected], atol=1e-6)
    assert near.score_QK.dtype == np.float32


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_ties_go_by_face_id_even_across_the_last_place(factory, data, open_of):
    # Vectors along the axes: scores are exactly 0 or 1 whatever sums them, so ties abound.
    axis = np.array(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=40)))
    ids = np.array(data.draw(st.permutations(range(len(axis)))), np.int64) * 7
    v = _rows(ids, [f"p{a}" for a in axis], np.eye(4, dtype=np.float32)[axis])
    top = data.draw(st.integers(1, 45))
    trained = template.train(v.embedding_ND, IndexSpec(4, factory), 0, np.eye(4, dtype=np.float32))
    index = open_of(v, factory, shards=data.draw(st.integers(1, 4)), nprobe=4, trained=trained)
    near = index.search(np.eye(4, dtype=np.float32), top)
    for q in range(4):
        expected = [face for _, face, _ in _brute(v, np.eye(4)[q])][:top]
        assert near.face_id_QK[q].tolist() == expected + [-1] * (top - len(expected))
        assert np.isneginf(near.score_QK[q, len(expected) :]).all()


@families
def test_a_query_finds_the_same_to_the_bit_alone_and_in_a_batch(factory, people, open_of):
    v = people(130)
    index, batch_QD = open_of(v, factory, shards=2, nprobe=3, depth=20), v.embedding_ND
    near = index.search(batch_QD, 7, exclude_face_id_Q=v.face_id_N)
    table = index.identify(batch_QD, [str(q) for q in range(len(v))], 7)
    for q in range(0, len(v), 37):
        alone = index.search(batch_QD[q : q + 1], 7, exclude_face_id_Q=v.face_id_N[q : q + 1])
        assert alone.score_QK.tobytes() == near.score_QK[q : q + 1].tobytes()
        np.testing.assert_array_equal(alone.face_id_QK[0], near.face_id_QK[q])
        np.testing.assert_array_equal(alone.code_QK[0], near.code_QK[q])
        mine = table.filter(pa.array([name == str(q) for name in table["query"].to_pylist()]))
        assert index.identify(batch_QD[q : q + 1], [str(q)], 7).equals(mine.combine_chunks())


@families
def test_the_number_of_threads_makes_no_difference(factory, people, open_of):
    v = people(130)
    index, found = open_of(v, factory, shards=2, nprobe=3, depth=20), []
    for threads in (1, 3):
        faiss.omp_set_num_threads(threads)
        try:
            found.append(index.search(v.embedding_ND[:50], 7))
        finally:
            faiss.omp_set_num_threads(1)
    assert found[0].score_QK.tobytes() == found[1].score_QK.tobytes()
    np.testing.assert_array_equal(found[0].face_id_QK, found[1].face_id_QK)


@pytest.mark.parametrize("factory", ["IVF8,PQ4x4fsr", "IVF8,PQ2x4fsr", "IVF8,PQ4x4fsr,Refine(SQ8)"])
def test_so_it_does_where_sub_vectors_are_long(factory, people, open_of):
    """FAISS makes tables of sub-vectors of 16 components and more by a matrix product."""
    v = people(200, 4, dim=64)
    index = open_of(v, factory, shards=1, nprobe=3, depth=20)
    near = index.search(v.embedding_ND, 7)
    for q in range(0, len(v), 13):
        alone = index.search(v.embedding_ND[q : q + 1], 7)
        assert alone.score_QK.tobytes() == near.score_QK[q : q + 1].tobytes()
        np.testing.assert_array_equal(alone.face_id_QK[0], near.face_id_QK[q])


@families
def test_large_batches_are_cut_without_a_difference(factory, people, open_of, monkeypatch):
    v = people(130)
    index = open_of(v, factory, shards=2, nprobe=2, depth=12)
    query_QD, names = v.embedding_ND[:50], [str(i) for i in range(50)]
    whole, rows = index.search(query_QD, 5), index.identify(query_QD, names, 8)
    monkeypatch.setattr(IndexSpec, "workspace_bytes", lambda spec, rows: 1024)
    cut = index.search(query_QD, 5)
    assert cut.score_QK.tobytes() == whole.score_QK.tobytes()
    np.testing.assert_array_equal(cut.face_id_QK, whole.face_id_QK)
    assert index.identify(query_QD, names, 8).equals(rows)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("top", [1, 5, 60, 100])
@pytest.mark.parametrize(("factory", "nprobe"), EXACT)
def test_identify_ranks_people_by_their_best_image(shards, top, factory, nprobe, people, open_of):
    v = people()
    index = open_of(v, factory, shards=shards, nprobe=nprobe)
    names = [f"q{i}" for i in range(9)]
    rows = index.identify(v.embedding_ND[:9], names, top, exclude_face_id_Q=v.face_id_N[:9])
    schema.check(rows, schema.MATCHES, "matches")
    assert rows["accepted"].null_count == rows.num_rows
    for q in range(9):
        mine = rows.filter([n == names[q] for n in rows["query"].to_pylist()])
        expected = _people(_brute(v, v.embedding_ND[q], exclude=int(v.face_id_N[q])), top)
        assert list(zip(mine["identity"].to_pylist(), mine["face_id"].to_pylist())) == expected
        assert mine["rank"].to_pylist() == list(range(1, len(expected) + 1))
        assert mine["score"].to_pylist() == sorted(mine["score"].to_pylist(), reverse=True)


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "IVF8,PQ8x4fsr,Refine(SQfp16)"])
def test_one_person_with_many_pictures_does_not_crowd_out_the_others(factory, people, open_of):
    crowd, others = people(1, 1000, noise=0.01), people(6, 1, seed=9)
    v = _rows(
        np.concatenate([crowd.face_id_N, others.face_id_N + 1]),
        crowd.identity.to_pylist() + [f"o{i}" for i in range(6)],
        np.concatenate([crowd.embedding_ND, others.embedding_ND]),
    )
    rows = open_of(v, factory, shards=2, nprobe=1, depth=4).identify(crowd.embedding_ND[:2], ["a", "b"], 5)
    assert rows["query"].to_pylist() == ["a"] * 5 + ["b"] * 5
    assert [len(set(rows["identity"].to_pylist()[i : i + 5])) for i in (0, 5)] == [5, 5]


def test_a_query_finds_itself_unless_excluded(people, open_of):
    v = people()
    index, query_QD = open_of(v), v.embedding_ND[:20]
    assert (index.search(query_QD, 1).face_id_QK[:, 0] == v.face_id_N[:20]).all()
    exclude = np.where(np.arange(20) < 10, v.face_id_N[:20], -1)
    near = index.search(query_QD, 400, exclude_face_id_Q=exclude)
    assert near.face_id_QK.shape == (20, 400)
    assert not (near.face_id_QK[:10] == v.face_id_N[:10, None]).any()
    assert (near.face_id_QK[10:, 0] == v.face_id_N[10:20]).all()
    assert ((near.face_id_QK >= 0).sum(axis=1) == np.where(exclude >= 0, 299, 300)).all()


@pytest.mark.parametrize("factory", ["IVF16,Flat", "IVF16,PQ8x4fsr,Refine(SQfp16)"])
def test_nprobe_is_passed_and_never_set(factory, people, open_of):
    v = people(200, 5)
    index = open_of(v, factory, shards=1, nprobe=2, depth=40)
    few, all_lists = index.search(v.embedding_ND, 20), index.search(v.embedding_ND, 20, nprobe=16)
    assert (few.face_id_QK != all_lists.face_id_QK).any()
    np.testing.assert_array_equal(index.search(v.embedding_ND, 20, nprobe=2).face_id_QK, few.face_id_QK)
    assert index.shards[0].index.nprobe == 1  # FAISS's own default, untouched


def test_a_deeper_search_compares_more_candidates(people, open_of):
    v = people(200, 5)
    index = open_of(v, "IVF4,PQ2x4fsr,Refine(SQfp16)", shards=2, nprobe=4, depth=1)
    found = [
        (index.search(v.embedding_ND, 1, depth=depth).face_id_QK[:, 0] == v.face_id_N).mean() for depth in (1, 300)
    ]
    assert found[0] < 0.9 < found[1]


@pytest.mark.parametrize("shards", [1, 3])
def test_codes_that_lie_apart_are_scanned_as_those_with_ids(shards, people, open_of):
    v = people(2000)  # 256 entries of a codebook want as many rows
    apart = open_of(v, "IVF8,PQ4x8,Refine(SQfp16)", shards=shards, nprobe=3, depth=100)
    everything = dataclasses.replace(apart, allowed=tuple(np.ones(shard.rows, bool) for shard in apart.shards))
    query_QD = v.embedding_ND[::50]
    found, expected = apart.search(query_QD, 10), everything.search(query_QD, 10)
    for name in ("score_QK", "face_id_QK", "code_QK"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.face_id_QK[:, 0] == v.face_id_N[::50]).mean() > 0.9


@families
@pytest.mark.parametrize("by", ["identities", "face_ids", "views"])
def test_a_filter_finds_all_rows_that_meet_it_and_no_other(factory, by, people, open_of):
    v = people(130, views=True)
    kept = {
        "identities": {"p003", "p017", "p040", "p059"},
        "face_ids": set(v.face_id_N[::9].tolist()),
        "views": {"left"},
    }[by]
    column = {"identities": v.identity.to_pylist(), "face_ids": v.face_id_N.tolist(), "views": v.view.to_pylist()}[by]
    left = v.take(np.flatnonzero([value in kept for value in column]))
    index = open_of(v, factory, shards=3, nprobe=1, depth=len(v)).only(**{by: sorted(kept)})
    near = index.search(v.embedding_ND[:15], len(left) + 2)
    for q in range(15):
        expected = [face for _, face, _ in _brute(left, v.embedding_ND[q])]
        assert near.face_id_QK[q, -2:].tolist() == [-1, -1]
        assert set(near.face_id_QK[q, :-2].tolist()) == set(expected)
        if factory in ("Flat", "IVF8,Flat"):
            assert near.face_id_QK[q, :-2].tolist() == expected
    rows = index.identify(v.embedding_ND[:2], ["a", "b"], 200)
    assert set(rows["identity"].to_pylist()) == set(left.identity.to_pylist())


def test_conditions_of_a_filter_are_all_met_and_what_is_unknown_matches_nothing(people, open_of):
    v = people(views=True)
    index = open_of(v, shards=2)
    both = index.only(identities=["p003", "nobody"]).only(views=["right"], face_ids=v.face_id_N[:200])
    wanted = [i for i in range(200) if v.identity[i].as_py() == "p003" and v.view[i].as_py() == "right"]
    found = both.search(v.embedding_ND[:1], 5).face_id_QK[0]
    assert sorted(found[found >= 0].tolist()) == sorted(v.face_id_N[wanted].tolist())
    assert wanted
    for none in (index.only(identities=["nobody"]), index.only(views=["above"]), index.only(face_ids=[])):
        assert (none.search(v.embedding_ND[:2], 3).face_id_QK == -1).all()
        assert none.identify(v.embedding_ND[:2], ["a", "b"], 3).num_rows == 0
    assert (open_of(people(), shards=2).only(views=["left"]).search(v.embedding_ND[:1], 3).face_id_QK == -1).all()


def test_a_filter_scans_more_lists_so_that_its_answers_are_found(people, open_of, monkeypatch):
    v = people(200, 5)
    index = open_of(v, "IVF16,Flat", shards=2, nprobe=2)
    assert index.only(face_ids=v.face_id_N[:30]).nprobe == 16
    monkeypatch.setattr(search, "FEW", 10)
    assert index.only(face_ids=v.face_id_N[:500]).nprobe == 4
    assert index.only(face_ids=v.face_id_N).nprobe == 2


@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "IVF8,PQ8x4fsr,Refine(SQfp16)"])
def test_faces_that_are_left_out_are_not_found(factory, people, open_of):
    v = people(130, views=True)
    index = open_of(v, factory, shards=3, nprobe=8, depth=len(v))
    without = index.without(v.face_id_N[:40])
    near = without.search(v.embedding_ND[:40], len(v))
    assert not np.isin(near.face_id_QK, v.face_id_N[:40]).any()
    assert ((near.face_id_QK >= 0).sum(axis=1) == len(v) - 40).all()
    assert (index.search(v.embedding_ND[:40], 1).face_id_QK[:, 0] == v.face_id_N[:40]).all(), "the other is as it was"
    both = without.only(views=["left"]).without(v.face_id_N[40:50])
    found = both.search(v.embedding_ND[:1], len(v)).face_id_QK[0]
    assert set(found[found >= 0].tolist()) == set(v.face_id_N[[i for i in range(50, len(v)) if i % 3 == 0]].tolist())


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "IVF4,PQ8x4fsr,Refine(SQ8)"])
def test_no_queries_and_an_empty_index(factory, people, open_of):
    v = people(70, 10)
    index = open_of(v, factory, shards=2, nprobe=4, depth=5)
    assert index.search(v.embedding_ND[:0], 3).face_id_QK.shape == (0, 3)
    assert index.identify(v.embedding_ND[:0], [], 3).schema == schema.MATCHES
    trained = template.train(v.embedding_ND, IndexSpec(16, factory), 0)
    none = open_of(v.take(np.arange(0)), factory, shards=2, nprobe=4, depth=5, trained=trained)
    assert (none.search(v.embedding_ND[:2], 3).face_id_QK == -1).all()
    assert none.identify(v.embedding_ND[:2], ["a", "b"], 3).num_rows == 0


def test_bad_queries_are_refused(people, open_of):
    v = people()
    index: Index = open_of(v, shards=1)
    with pytest.raises(ValueError, match=r"expected \(Q, 16\)"):
        index.search(v.embedding_ND[:, :8], 3)
    with pytest.raises(ValueError, match="not unit length"):
        index.search(3 * v.embedding_ND, 3)
    with pytest.raises(ValueError, match="top"):
        index.search(v.embedding_ND, 0)
    with pytest.raises(ValueError, match="to exclude"):
        index.search(v.embedding_ND, 3, exclude_face_id_Q=v.face_id_N[:2])
    with pytest.raises(ValueError, match="2 names"):
        index.identify(v.embedding_ND, ["a", "b"], 3)


def test_models_do_not_mix():
    check_fingerprint("a", "a", "MODEL")
    with pytest.raises(FingerprintMismatch, match=r"(?s)MODEL.*bbbb.*aaaa.*build an index"):
        check_fingerprint("aaaa", "bbbb", "MODEL")
