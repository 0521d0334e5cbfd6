from dataclasses import replace

import numpy as np
import pytest

from metric_core.artefacts.embeddings import Vectors
from metric_core.index import recall
from metric_core.index.spec import IndexSpec

FLAT = IndexSpec(16, "Flat", 2)
IVF = IndexSpec(16, "IVF16,Flat", 2, nprobe=1)


def test_a_flat_index_finds_everything(people, blocks_of, open_of):
    v = people(200, 5)
    index = open_of(v, FLAT)
    others = recall.exact(v.embedding_ND[:50], blocks_of(v, 70), 10, v.face_id_N[:50])
    assert recall.recall_at(index, others) == 1.0
    truth = recall.exact(v.embedding_ND[:50], blocks_of(v, 70), 10)
    assert recall.recall_at(index, truth) == 1.0
    assert recall.tune_nprobe(index, truth, 0.99) == recall.Tuned(None, 1.0, 10, 50)


def test_truth_is_a_scan(people, blocks_of):
    v = people()
    truth = recall.exact(v.embedding_ND[:20], blocks_of(v, 33), 7, v.face_id_N[:20])
    for q in range(20):
        order = np.argsort(-(v.embedding_ND @ v.embedding_ND[q]))
        expected = [int(v.face_id_N[i]) for i in order if i != q][:7]
        assert truth.near.face_id_QK[q, :7].tolist() == expected


def test_recall_counts_what_is_found(people, open_of):
    v = people(200, 5)
    index = open_of(v, IVF)
    q = slice(0, 100)
    truth = recall.exact(v.embedding_ND[q], [v], 10, v.face_id_N[q])
    found = index.search(v.embedding_ND[q], 10, nprobe=3, exclude_face_id_Q=v.face_id_N[q]).face_id_QK
    true = truth.near.face_id_QK[:, :10]
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), true.tolist())])
    assert 0.1 < expected < 1
    assert recall.recall_at(index, truth, 3) == pytest.approx(expected)


@pytest.mark.parametrize("target", [0.5, 0.9, 0.97, 1.0])
def test_tuned_nprobe_is_the_smallest_that_reaches_the_target(target, people, open_of):
    v = people(200, 5)
    index = open_of(v, IVF)
    truth = recall.exact(v.embedding_ND[:100], [v], 10, v.face_id_N[:100])
    tuned = recall.tune_nprobe(index, truth, target)
    by_nprobe = [recall.recall_at(index, truth, n) for n in range(1, 17)]
    assert tuned.nprobe == 1 + next(i for i, r in enumerate(by_nprobe) if r >= target)
    assert tuned.recall == by_nprobe[tuned.nprobe - 1]
    assert recall.recall_at(replace(index, nprobe=tuned.nprobe), truth) == tuned.recall


def test_copies_of_a_picture_count_as_each_other(people, open_of):
    v = people()
    same = Vectors(v.face_id_N, v.identity_N, np.repeat(v.embedding_ND[:30], 10, axis=0))
    assert recall.recall_at(open_of(same, FLAT), recall.exact(same.embedding_ND[:50], [same], 5)) == 1.0


def test_fewer_vectors_than_asked_for(people, open_of):
    v = people(3, 1)
    index = open_of(v, FLAT)
    assert recall.recall_at(index, recall.exact(v.embedding_ND, [v], 10, v.face_id_N)) == 1.0
    with pytest.raises(ValueError, match="at least one query"):
        recall.recall_at(index, recall.exact(v.embedding_ND[:0], [v], 10))
    with pytest.raises(ValueError, match="target"):
        recall.tune_nprobe(index, recall.exact(v.embedding_ND, [v], 1), 0)


def test_sift(data_root, open_of):
    """Real, clustered vectors with a published ground truth: cosine top-100 of 100 queries among 5,000."""
    folder = data_root / "ann"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set LIKENESS_DATA to the folder that holds ann/")
    base_ND, query_QD = (
        np.fromfile(folder / name, "<f4").reshape(-1, 129)[:, 1:]
        for name in ("sift5k_base.fvecs", "siftsmall_query.fvecs")
    )
    truth_QK = np.fromfile(folder / "sift5k_groundtruth_cosine_top100.ivecs", "<i4").reshape(-1, 101)[:, 1:]
    base_ND, query_QD = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (base_ND, query_QD))
    v = Vectors(np.arange(5000), np.array([str(i) for i in range(5000)], object), base_ND)
    flat, ivf = open_of(v, IndexSpec(128, "Flat", 3)), open_of(v, IndexSpec(128, "IVF64,Flat", 3, 1))
    found = flat.search(query_QD, 100).face_id_QK
    assert np.mean([len(set(a) & set(b)) / 100 for a, b in zip(found.tolist(), truth_QK.tolist())]) >= 0.999
    truth = recall.exact(query_QD, [v], 10)
    assert recall.recall_at(flat, truth) == 1.0
    tuned = recall.tune_nprobe(ivf, truth, 0.95)
    assert tuned.recall >= 0.95
    assert 1 < tuned.nprobe <= 24
    assert recall.recall_at(ivf, truth, tuned.nprobe - 1) < 0.95
