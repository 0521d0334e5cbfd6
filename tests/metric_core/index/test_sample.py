"""Rows to train and to try an index on: whole row groups of all stretches of the corpus, the same for the same seed."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support import minted

from metric_core import storage
from metric_core.artefacts import layout
from metric_core.artefacts.collection import Collection
from metric_core.errors import Corrupt
from metric_core.index import sample
from metric_core.index.corpus import Corpus
from metric_core.index.sample import Sample

ROWS = 600


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """20 parts of 30 rows, in 90 row groups of 8 or 6 rows; people of 3 pictures."""
    monkeypatch.setitem(layout.LAYOUT, "row_group_size", 8)
    monkeypatch.setattr(sample, "GROUP_ROWS", 8)
    return Corpus.of(
        Collection.open(minted.embeddings(tmp_path / "e", range(ROWS), minted.unit_vectors(ROWS), unit=30))
    )


def groups_of(found: Sample) -> list[tuple[int, int]]:
    """(part, row group) of each row group, from the ids, which are counted from 0."""
    return sorted({(number // 30, number % 30 // 8) for number in found.rows.face_id_N.tolist()})


def test_whole_groups_are_read_from_every_stretch(source: Corpus) -> None:
    found = sample.draw(source, 10, seed=1)
    id_N = found.rows.face_id_N
    assert (np.diff(id_N) > 0).all(), "in the corpus's order"
    groups = groups_of(found)
    expected = [part * 30 + row for part, group in groups for row in range(group * 8, min(group * 8 + 8, 30))]
    assert id_N.tolist() == expected
    assert len(groups) >= 0.7 * sample.STRATA
    assert found.read == len(id_N) < 0.6 * ROWS
    assert np.bincount(id_N // 60, minlength=10).min() > 0, "a tenth of the corpus was left out"
    np.testing.assert_array_equal(found.rows.embedding_ND, minted.unit_vectors(ROWS)[id_N])
    assert found.rows.embedding_ND.dtype == np.float32
    assert found.rows.identity.to_pylist() == [f"p{number // 3}" for number in id_N]
    assert len(set(zip(found.group_N.tolist(), id_N // 30))) == len(groups) == found.group_N.max() + 1


def test_as_many_rows_are_read_as_are_wanted(source: Corpus) -> None:
    assert ROWS > sample.draw(source, 300, seed=1).read >= sample.MARGIN * 300
    everything = sample.draw(source, 10_000, seed=1)
    assert everything.rows.face_id_N.tolist() == list(range(ROWS))


def test_a_large_corpus_is_read_to_a_tenth(source: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "LARGE", ROWS)
    assert 0 < sample.draw(source, 300, seed=1).read <= ROWS / 10


def test_the_seed_alone_decides(source: Corpus) -> None:
    one, same, other = (sample.draw(source, 100, seed) for seed in (1, 1, 2))
    assert one.rows.face_id_N.tolist() == same.rows.face_id_N.tolist() != other.rows.face_id_N.tolist()
    for first, second in (
        (one.training(50, 2), same.training(50, 2)),
        (one.probes(9), same.probes(9)),
        (one.whole(60), same.whole(60)),
    ):
        np.testing.assert_array_equal(first, second)


def test_over_seeds_every_row_is_drawn_about_as_often(source: Corpus) -> None:
    counts = Counter(number for seed in range(60) for number in sample.draw(source, 10, seed).rows.face_id_N.tolist())
    assert set(counts) == set(range(ROWS))
    share_N = np.array([counts[number] for number in range(ROWS)]) / 60
    assert share_N.max() < 2.5 * share_N.mean()


def test_other_bytes_than_those_of_the_groups_are_not_needed(source: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "read_bytes", None)
    drawn = {part for part, _ in groups_of(sample.draw(source, 2, seed=1))}
    monkeypatch.setattr(sample, "STRATA", 4)
    few = {part for part, _ in groups_of(sample.draw(source, 2, seed=1))}
    for number in set(range(20)) - few:
        Path(source.address(source.parts[number])).write_bytes(b"not read")
    assert {part for part, _ in groups_of(sample.draw(source, 2, seed=1))} == few < drawn


def test_damage_in_a_drawn_part_is_an_error(source: Corpus) -> None:
    for part in source.parts:
        Path(source.address(part)).write_bytes(b"damaged")
    with pytest.raises(Corrupt, match=r"part-0000\d\d.parquet: .*; embed again to another --out"):
        sample.draw(source, 10, seed=1)


def test_a_part_with_other_rows_is_an_error(source: Corpus, tmp_path: Path) -> None:
    other = Path(minted.embeddings(tmp_path / "o", range(7), minted.unit_vectors(7), unit=7), "part-000000.parquet")
    for part in source.parts:
        Path(source.address(part)).write_bytes(other.read_bytes())
    with pytest.raises(Corrupt, match="7 rows, the manifest says 30; embed again to another --out"):
        sample.draw(source, 10, seed=1)


def test_hidden_faces_are_not_drawn(tmp_path: Path) -> None:
    a = minted.embeddings(tmp_path / "a", range(40), minted.unit_vectors(40))
    bases = [{"plan_id": "a", "digest": "x"}]
    b = minted.embeddings(
        tmp_path / "b", [50], minted.unit_vectors(1), gone=[*range(10), *range(12, 40, 2)], since=bases
    )
    found = sample.draw(Corpus.of(Collection.open(f"{a},{b}")), 1000, seed=1)
    assert found.rows.face_id_N.tolist() == [10, *range(11, 40, 2), 50]
    assert found.read == 41
    assert found.group_N.tolist() == sorted(found.group_N.tolist())
    assert set(found.group_N.tolist()) == set(range(found.group_N.max() + 1))
    assert set(found.rows.identity.dictionary.to_pylist()) == {f"p{n // 3}" for n in found.rows.face_id_N}


def test_float16_is_widened(tmp_path: Path) -> None:
    vector_ND = minted.unit_vectors(40).astype(np.float16)
    source = Corpus.of(Collection.open(minted.embeddings(tmp_path / "e", range(40), vector_ND)))
    found = sample.draw(source, 40, seed=1).rows.embedding_ND
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, vector_ND.astype(np.float32))


@pytest.fixture
def crowd(tmp_path: Path) -> Sample:
    """One person with 40 pictures, 20 with 3, and 10 with one."""
    names = ["many"] * 40 + [f"some {n // 3}" for n in range(60)] + [f"one {n}" for n in range(10)]
    uri = minted.embeddings(tmp_path / "e", range(110), minted.unit_vectors(110), identities=names)
    return sample.draw(Corpus.of(Collection.open(uri)), 110, seed=5)


def people(found: Sample, at_M: np.ndarray) -> Counter[str]:
    assert at_M.dtype == np.int64
    assert (np.diff(at_M) > 0).all()
    return Counter(found.rows.identity.take(at_M).to_pylist())


def test_nobody_has_more_training_rows_than_others_while_there_are_enough(crowd: Sample) -> None:
    assert max(people(crowd, crowd.training(50, 2)).values()) == 2
    assert len(crowd.training(50, 2)) == 50
    counts = people(crowd, crowd.training(52, 2))
    assert counts == {"many": 2} | {f"some {n}": 2 for n in range(20)} | {f"one {n}": 1 for n in range(10)}
    assert crowd.training(52, 2).tolist() != crowd.training(52, 3).tolist()


def test_only_then_do_people_with_many_pictures_give_more(crowd: Sample) -> None:
    assert people(crowd, crowd.training(73, 2))["many"] == 3
    assert people(crowd, crowd.training(100, 2))["many"] == 30
    assert crowd.training(1000, 2).tolist() == list(range(110))


def test_training_rows_are_not_the_first_ones(crowd: Sample) -> None:
    at_M = crowd.training(30, 10)
    assert at_M[at_M < 40].tolist() != list(range(int((at_M < 40).sum())))


def test_probes_are_held_out(crowd: Sample) -> None:
    probe_M = crowd.probes(15)
    assert not np.isin(crowd.training(1000, 2, probe_M), probe_M).any()
    assert len(crowd.training(1000, 2, probe_M)) == 95
    assert max(people(crowd, crowd.training(30, 2, probe_M)).values()) == 2


def test_probes_are_of_different_people_who_have_another_picture(crowd: Sample) -> None:
    counts = people(crowd, crowd.probes(21))
    assert counts == {"many": 1} | {f"some {n}": 1 for n in range(20)}
    assert set(people(crowd, crowd.probes(31)).values()) == {1}
    assert len(crowd.probes(1000)) == 31
    assert set(crowd.probes(5)) < set(crowd.probes(21))


def test_whole_groups_are_kept_up_to_a_limit(source: Corpus) -> None:
    found = sample.draw(source, 200, seed=1)
    at_M = found.whole(50)
    assert 50 - 8 < len(at_M) <= 50
    size_G = np.bincount(found.group_N)
    chosen = np.unique(found.group_N[at_M])
    assert len(at_M) == size_G[chosen].sum(), "every group is there with all its rows"
    assert len(np.unique(found.group_N[found.whole(1)])) == 1
    assert found.whole(ROWS).tolist() == list(range(len(found.rows)))


def test_no_rows_are_no_sample(tmp_path: Path) -> None:
    source = Corpus.of(Collection.open(minted.embeddings(tmp_path / "e", [], minted.unit_vectors(0))))
    found = sample.draw(source, 10, seed=1)
    assert (len(found.rows), found.read) == (0, 0)
    assert [len(at) for at in (found.training(5, 2), found.probes(5), found.whole(5))] == [0, 0, 0]
