import numpy as np
import pytest

from metric_core.artefacts.embeddings import Vectors
from metric_core.errors import TooFewImages
from metric_core.evaluate import identification


def _take(v: Vectors, at: np.ndarray) -> Vectors:
    return Vectors(v.face_id_N[at], v.identity_N[at], v.embedding_ND[at])


def test_gallery_has_the_smallest_id_of_each_person(people):
    v = people([3, 1, 4, 2])
    gallery, probes = identification.split_gallery_probes(v)
    smallest = {name: min(v.face_id_N[v.identity_N == name]) for name in v.identity_N}
    assert dict(zip(gallery.identity_N, gallery.face_id_N)) == smallest
    assert sorted([*gallery.face_id_N, *probes.face_id_N]) == sorted(v.face_id_N)
    assert "P_1" not in probes.identity_N
    mixed, _ = identification.split_gallery_probes(_take(v, np.random.default_rng(0).permutation(len(v))))
    np.testing.assert_array_equal(mixed.face_id_N, gallery.face_id_N)


@pytest.mark.parametrize("block", [3, 1024])
def test_report_equals_a_loop(block, people, monkeypatch):
    monkeypatch.setattr(identification, "_BLOCK", block)
    gallery, probes = identification.split_gallery_probes(people([1, 2, 3, 4] * 8, noise=1.0))
    ranks = []
    for emb_D, name in zip(probes.embedding_ND, probes.identity_N):
        order = np.argsort(-(gallery.embedding_ND @ emb_D))
        ranks.append(1 + gallery.identity_N[order].tolist().index(name))
    report = identification.report(gallery, probes)
    assert 0 < report["rank1"] < report["rank5"] < 1
    assert report["rank1"] == np.mean(np.array(ranks) == 1)
    assert report["rank5"] == np.mean(np.array(ranks) <= 5)
    assert report["cmc"] == [np.mean(np.array(ranks) <= r) for r in range(1, 21)]
    assert (report["probes"], report["gallery"]) == (48, 32)


def test_ties_count_as_errors(people):
    v = people([2] * 7)
    collapsed = Vectors(v.face_id_N, v.identity_N, np.repeat(v.embedding_ND[:1], len(v), axis=0))
    report = identification.report(*identification.split_gallery_probes(collapsed))
    assert report["cmc"] == [0.0] * 6 + [1.0]
    assert (report["rank1"], report["rank5"]) == (0.0, 0.0)


def test_too_little_to_identify_is_refused(people):
    for sizes in ([5], [1, 1, 1]):
        with pytest.raises(TooFewImages, match="at least 2 people"):
            identification.split_gallery_probes(people(sizes))
    gallery, probes = identification.split_gallery_probes(people([2, 2]))
    with pytest.raises(TooFewImages, match="at least one probe"):
        identification.report(gallery, _take(probes, np.array([], int)))
    with pytest.raises(ValueError, match="one picture per person"):
        identification.ranks(people([2, 1]), probes)
    with pytest.raises(ValueError, match="'P_1' is among the probes"):
        identification.ranks(_take(gallery, gallery.identity_N != "P_1"), probes)
