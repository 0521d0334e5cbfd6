"""What the index relies on FAISS for, per family and on its own objects: an upgrade that breaks it fails here."""

# N rows, D components, L lists, Q queries, K results

from functools import cache

import numpy as np
import pytest

from metric_core.index.engine import faiss
from metric_core.index.spec import IndexSpec

N, D, L, Q, K = 3000, 32, 8, 40, 10

FAMILIES = [
    "Flat",
    "SQfp16",
    "SQ8",
    f"IVF{L},Flat",
    f"IVF{L},SQfp16",
    f"IVF{L},SQ8",
    f"IVF{L},PQ16x4fsr",
    f"IVF{L},PQ8x8",
    f"IVF{L},RaBitQfs",
    f"IVF{L},RaBitQfs2",
    f"IVF{L},RaBitQfs4",
]

families = pytest.mark.parametrize("factory", FAMILIES)


@cache
def vectors():
    x_ND = np.random.default_rng(0).standard_normal((N, D), np.float32)
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


@cache
def template(factory):
    """The trained index without rows, as bytes; centroids are vectors, not k-means."""
    index = faiss.index_factory(D, IndexSpec(D, factory).coarse_factory, faiss.METRIC_INNER_PRODUCT)
    if IndexSpec(D, factory).nlist:
        index.quantizer.add(vectors()[:L])
    index.train(vectors())
    return faiss.serialize_index(index)


def lists_of(x_ND, count):
    """The ``count`` best lists of every vector and their scores, best first."""
    score_NL = x_ND @ vectors()[:L].T
    list_NL = np.argsort(-score_NL, axis=1)[:, :count].astype(np.int64)
    return np.ascontiguousarray(list_NL), np.take_along_axis(score_NL, list_NL, axis=1)


def plain_of(factory, first=0, last=N):
    """An index of some of the vectors under their positions, before conversion to fast-scan."""
    index = faiss.deserialize_index(template(factory))
    x_ND = np.ascontiguousarray(vectors()[first:last])
    if IndexSpec(D, factory).nlist is None:
        index.add(x_ND)
        return index
    id_N, (list_N, _) = np.arange(first, last), lists_of(x_ND, 1)
    index.add_core(len(x_ND), faiss.swig_ptr(x_ND), faiss.swig_ptr(id_N), faiss.swig_ptr(list_N))
    return index


def built(factory, first=0, last=N):
    """An index of some of the vectors, as it is published."""
    index = plain_of(factory, first, last)
    convert = {"PQ": faiss.IndexIVFPQFastScan, "RaBitQ": faiss.IndexIVFRaBitQFastScan}.get(IndexSpec(D, factory).code)
    return convert(index) if convert else index


def search(index, *, k=K, nprobe=L, allowed_N=None):
    """Scores and ids of the first vectors' neighbours, with lists found outside FAISS."""
    x_QD = np.ascontiguousarray(vectors()[:Q])
    bits = None if allowed_N is None else np.packbits(allowed_N, bitorder="little")
    selector = {} if bits is None else {"sel": faiss.IDSelectorBitmap(len(allowed_N), faiss.swig_ptr(bits))}
    if not hasattr(index, "nlist"):
        return index.search(x_QD, k, params=faiss.SearchParameters(**selector))
    params = faiss.SearchParametersIVF(nprobe=nprobe, **selector)
    list_QP, coarse_QP = lists_of(x_QD, nprobe)
    score_QK, id_QK = np.empty((Q, k), np.float32), np.empty((Q, k), np.int64)
    given, found = (x_QD, list_QP, coarse_QP), (score_QK, id_QK)
    x, lists, coarse, scores, ids = (faiss.swig_ptr(array) for array in (*given, *found))
    index.search_preassigned_c(Q, x, k, lists, coarse, scores, ids, False, params)
    return score_QK, id_QK


def same(found, expected):
    """Whether the scores are equal to the bit, and the ids where no score ties."""
    score_QK, id_QK = found
    tied_QK = np.zeros(score_QK.shape, bool)
    tied_QK[:, 1:] |= score_QK[:, 1:] == score_QK[:, :-1]
    tied_QK[:, :-1] |= tied_QK[:, 1:]
    tied_QK[:, -1] = True  # its equal may be just beyond
    return np.array_equal(score_QK, expected[0]) and np.array_equal(id_QK[~tied_QK], expected[1][~tied_QK])


@families
def test_every_row_that_is_added_is_counted_and_is_near_itself(factory):
    index = built(factory)
    scores, ids = search(index)
    assert index.ntotal == N
    assert (ids == np.arange(Q)[:, None]).any(axis=1).mean() >= 0.95
    assert (np.diff(scores, axis=1) <= 0).all()


@families
def test_scores_are_inner_products_as_close_as_the_code_is_fine(factory):
    scores, ids = search(built(factory))
    exact_QK = np.einsum("qd,qkd->qk", vectors()[:Q], vectors()[ids])
    tolerance = {"Flat": 1e-6, "SQfp16": 3e-4, "SQ8": 0.005, "PQ": 0.15, "PQx8": 0.15}
    # RaBitQ's estimate is unbiased, but the best of many estimates are those that are too high.
    by_bits = {1: 0.6, 2: 0.15, 4: 0.05}
    spec = IndexSpec(D, factory)
    assert np.abs(scores - exact_QK).mean() < (by_bits[spec.bits] if spec.bits else tolerance[spec.code])


@families
def test_a_filter_by_positions_loses_no_answer_and_lets_no_other_through(factory):
    allowed_N = np.arange(N) % 50 == 0  # fewer than k + the rows of a list
    scores, ids = search(built(factory), k=N // 50, allowed_N=allowed_N)
    assert (np.sort(ids, axis=1) == np.flatnonzero(allowed_N)).all()
    assert np.isfinite(scores).all()


@families
def test_a_filter_holds_where_only_some_lists_are_scanned(factory):
    index, allowed_N = built(factory), np.arange(N) % 3 == 0
    _, ids = search(index, nprobe=2, allowed_N=allowed_N)
    assert allowed_N[ids].all()


@families
def test_as_many_rows_are_removed_as_asked_and_they_are_gone(factory):
    index, gone = built(factory), np.arange(0, N, 7)
    kept_N = np.arange(N) % 7 != 0
    expected = search(index, allowed_N=kept_N)
    assert index.remove_ids(gone) == len(gone)
    assert index.ntotal == N - len(gone)
    scores, ids = search(index)
    if IndexSpec(D, factory).nlist is None:
        ids = np.flatnonzero(kept_N)[ids]  # positions close up; the ids of inverted lists stay
    assert same((scores, ids), expected)
    assert index.remove_ids(np.array([N + 5])) == 0


@families
def test_a_mapped_index_answers_as_the_one_in_memory(factory, tmp_path):
    index = built(factory)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    mapped = faiss.read_index(str(tmp_path / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
    assert mapped.ntotal == N
    assert same(search(mapped), search(index))
    allowed_N = np.arange(N) % 3 == 0
    assert same(search(mapped, allowed_N=allowed_N), search(index, allowed_N=allowed_N))


@families
def test_an_index_with_removed_rows_is_the_same_after_reopening(factory, tmp_path):
    index = built(factory)
    index.remove_ids(np.arange(0, N, 7))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    opened = faiss.read_index(str(tmp_path / "index.faiss"))
    assert opened.ntotal == index.ntotal
    assert same(search(opened), search(index))


@families
def test_two_shards_of_one_template_merge_into_the_index_of_all_rows(factory):
    first, second = built(factory, 0, N // 3), built(factory, N // 3, N)
    first.merge_from(second, 0)
    assert (first.ntotal, second.ntotal) == (N, 0)
    assert same(search(first), search(built(factory)))


@families
def test_the_same_rows_give_the_same_bytes(factory):
    assert np.array_equal(faiss.serialize_index(built(factory)), faiss.serialize_index(built(factory)))


@pytest.mark.parametrize("factory", [f for f in FAMILIES if IndexSpec(D, f).fast_scan])
def test_conversion_to_fast_scan_keeps_rows_lists_and_scores(factory):
    plain, fast = plain_of(factory), built(factory)
    sizes = [[index.invlists.list_size(i) for i in range(L)] for index in (plain, fast)]
    assert sizes[0] == sizes[1]
    before, after = search(plain), search(fast)
    assert np.abs(before[0] - after[0]).max() < 0.05  # tables of 8 bits instead of float32
    assert (before[1][:, :, None] == after[1][:, None, :]).any(axis=2).mean() >= 0.8
