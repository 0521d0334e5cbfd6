import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_core.artefacts import schema
from metric_core.artefacts.embeddings import Vectors
from metric_core.errors import FingerprintMismatch
from metric_core.index import build
from metric_core.index.identities import Identities
from metric_core.index.search import Index, check_fingerprint
from metric_core.index.spec import IndexSpec
from metric_core.index.version import Version


def _open(v: Vectors, shards: int, factory: str = "Flat", nprobe: int | None = None) -> Index:
    spec = IndexSpec(v.embedding_ND.shape[1], factory, shards, nprobe)
    template = build.train_template(v.embedding_ND, spec, 0)
    built = [build.build_shard(template, build.of_shard([v], n, shards)) for n in range(shards)]
    identities = Identities.of([b.identities for b in built])
    return Index(tuple(b.index for b in built), identities, spec.dim, "f", Version("index", "v"), nprobe)


def _brute(v: Vectors, query: np.ndarray, exclude: int = -1) -> list[tuple[float, int, str]]:
    """Everything, best first, then by face_id."""
    rows = zip((v.embedding_ND @ query).tolist(), v.face_id_N.tolist(), v.identity_N.tolist())
    return sorted((r for r in rows if r[1] != exclude), key=lambda r: (-r[0], r[1]))


def _people(brute: list[tuple[float, int, str]], top: int) -> list[tuple[str, int]]:
    best: dict[str, int] = {}
    for _, face, name in brute:
        best.setdefault(name, face)
    return list(best.items())[:top]


@pytest.mark.parametrize("shards", [1, 3, 8])
@pytest.mark.parametrize(("factory", "nprobe"), [("Flat", None), ("IVF4,Flat", 4)])
def test_search_equals_a_scan_of_everything(shards, factory, nprobe, people):
    v = people()
    near = _open(v, shards, factory, nprobe).search(v.embedding_ND[:30], 12)
    for q in range(30):
        expected = _brute(v, v.embedding_ND[q])[:12]
        assert near.face_id_QK[q].tolist() == [face for _, face, _ in expected]
        np.testing.assert_allclose(near.score_QK[q], [score for score, _, _ in expected], atol=1e-6)
    assert near.score_QK.dtype == np.float32


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_ties_go_by_face_id_even_across_the_last_place(data):
    # Vectors along the axes: scores are exactly 0 or 1 whatever sums them, so ties abound.
    axis = np.array(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=40)))
    ids = np.array(data.draw(st.permutations(range(len(axis)))), np.int64) * 7
    v = Vectors(ids, np.array([f"p{a}" for a in axis], object), np.eye(4, dtype=np.float32)[axis])
    top = data.draw(st.integers(1, 45))
    near = _open(v, data.draw(st.integers(1, 4))).search(np.eye(4, dtype=np.float32), top)
    for q in range(4):
        expected = [face for _, face, _ in _brute(v, np.eye(4)[q])][:top]
        assert near.face_id_QK[q].tolist() == expected + [-1] * (top - len(expected))
        assert np.isneginf(near.score_QK[q, len(expected) :]).all()


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("top", [1, 5, 60, 100])
@pytest.mark.parametrize(("factory", "nprobe"), [("Flat", None), ("IVF4,Flat", 4)])
def test_identify_ranks_people_by_their_best_image(shards, top, factory, nprobe, people):
    v = people()
    index = _open(v, shards, factory, nprobe)
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


def test_one_person_with_many_pictures_does_not_crowd_out_the_others(people):
    crowd, others = people(1, 1000, noise=0.01), people(6, 1, seed=9)
    ids = np.concatenate([crowd.face_id_N, others.face_id_N + 1])
    names = np.concatenate([crowd.identity_N, np.array([f"o{i}" for i in range(6)], object)])
    v = Vectors(ids, names, np.concatenate([crowd.embedding_ND, others.embedding_ND]))
    for index in (_open(v, 2), _open(v, 2, "IVF8,Flat", 1)):
        rows = index.identify(crowd.embedding_ND[:2], ["a", "b"], 5)
        assert rows["query"].to_pylist() == ["a"] * 5 + ["b"] * 5
        assert [len(set(rows["identity"].to_pylist()[i : i + 5])) for i in (0, 5)] == [5, 5]


def test_a_query_finds_itself_unless_excluded(people):
    v = people()
    index = _open(v, 3)
    q = v.embedding_ND[:20]
    assert (index.search(q, 1).face_id_QK[:, 0] == v.face_id_N[:20]).all()
    exclude = np.where(np.arange(20) < 10, v.face_id_N[:20], -1)
    near = index.search(q, 400, exclude_face_id_Q=exclude)
    assert near.face_id_QK.shape == (20, 400)
    assert not (near.face_id_QK[:10] == v.face_id_N[:10, None]).any()
    assert (near.face_id_QK[10:, 0] == v.face_id_N[10:20]).all()
    assert ((near.face_id_QK >= 0).sum(axis=1) == np.where(exclude >= 0, 299, 300)).all()


def test_nprobe_is_passed_and_never_set(people):
    v = people(200, 5)
    index = _open(v, 1, "IVF16,Flat", 2)
    few, all_lists = index.search(v.embedding_ND, 20), index.search(v.embedding_ND, 20, nprobe=16)
    assert (few.face_id_QK != all_lists.face_id_QK).any()
    np.testing.assert_array_equal(index.search(v.embedding_ND, 20, nprobe=2).face_id_QK, few.face_id_QK)
    assert index.shards[0].nprobe == 1  # FAISS's own default, untouched


def test_large_batches_are_cut_without_a_difference(people, monkeypatch):
    v = people()
    index, query_QD, names = _open(v, 2), v.embedding_ND[:50], [str(i) for i in range(50)]
    whole, rows = index.search(query_QD, 5), index.identify(query_QD, names, 8)
    monkeypatch.setattr("metric_core.index.search._CELLS", 64)
    np.testing.assert_array_equal(index.search(query_QD, 5).face_id_QK, whole.face_id_QK)
    cut = index.identify(query_QD, names, 8)
    assert cut.drop(["score"]).equals(rows.drop(["score"]))
    np.testing.assert_allclose(cut["score"].to_numpy(), rows["score"].to_numpy(), atol=1e-6)


def test_no_queries_and_an_empty_index(people):
    v = people(20, 10)
    index = _open(v, 2)
    assert index.search(v.embedding_ND[:0], 3).face_id_QK.shape == (0, 3)
    assert index.identify(v.embedding_ND[:0], [], 3).schema == schema.MATCHES
    none = _open(Vectors(v.face_id_N[:0], v.identity_N[:0], v.embedding_ND[:0]), 2)
    assert (none.search(v.embedding_ND[:2], 3).face_id_QK == -1).all()
    assert none.identify(v.embedding_ND[:2], ["a", "b"], 3).num_rows == 0


def test_bad_queries_are_refused(people):
    v = people()
    index = _open(v, 1)
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
