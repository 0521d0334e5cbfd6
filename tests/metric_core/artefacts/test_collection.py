"""Several artefacts read as one: what is hidden, what is refused, and what erasure does."""

from pathlib import Path

import numpy as np
import pytest
from support import minted

from metric_core import storage
from metric_core.artefacts import embeddings, manifest, partial, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.errors import ConfigError, Corrupt, FingerprintMismatch, Missing


@pytest.fixture
def stacked(tmp_path: Path) -> str:
    """A: 0..9; B, its delta: 3 again, 7 again without success, 10 new, 1 and 2 gone; C: 2 is back."""
    a = minted.embeddings(tmp_path / "a", range(10), minted.unit_vectors(10, seed=1))
    bases = [{"plan_id": "a", "digest": "x"}]
    b = minted.embeddings(
        tmp_path / "b", [3, 10], minted.unit_vectors(2, seed=2), rejected=[7], gone=[1, 2], since=bases
    )
    bases = [*bases, {"plan_id": "b", "digest": "y"}]
    c = minted.embeddings(tmp_path / "c", [2], minted.unit_vectors(1, seed=3), since=bases)
    return f"{a},{b},{c}"


def test_later_ones_win(stacked: str) -> None:
    found = Collection.open(stacked)
    vectors = found.load()
    assert vectors.face_id_N.tolist() == [0, 4, 5, 6, 8, 9, 3, 10, 2]
    assert found.rows == 9
    row = vectors.face_id_N.tolist().index
    np.testing.assert_array_equal(vectors.embedding_ND[row(3)], minted.unit_vectors(2, seed=2)[0])
    np.testing.assert_array_equal(vectors.embedding_ND[row(2)], minted.unit_vectors(1, seed=3)[0])
    np.testing.assert_array_equal(vectors.embedding_ND[row(9)], minted.unit_vectors(10, seed=1)[9])
    columns = [number for table in found.iter_columns(["face_id", "norm"]) for number in table["face_id"].to_pylist()]
    assert columns == vectors.face_id_N.tolist()
    assert found.quarantined().tolist() == [7]


def test_files_are_read_ahead_in_order_and_not_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "AHEAD", 2)
    source = embeddings.Embeddings.open(
        minted.embeddings(tmp_path / "a", range(20), minted.unit_vectors(20, seed=1), unit=2)
    )
    read, opened = storage.read_bytes, []

    def reading(uri: str) -> bytes:
        opened.append(uri)
        return read(uri)

    monkeypatch.setattr(storage, "read_bytes", reading)
    found = []
    for number, table in enumerate(source.iter_tags(), start=1):
        found += table["face_id"].to_pylist()
        assert len(opened) <= number + 2
    assert found == list(range(20))
    ahead = [number for table in source.iter_columns(["face_id"]) for number in table["face_id"].to_pylist()]
    assert ahead == found


def test_some_faces_are_taken_out(stacked: str) -> None:
    found = Collection.open(stacked)
    some = found.take(np.array([1, 2, 3, 9, 77]))
    assert some.face_id_N.tolist() == [2, 3, 9]
    assert some.identity_N.tolist() == ["p0", "p1", "p3"]
    np.testing.assert_array_equal(some.embedding_ND[1], minted.unit_vectors(2, seed=2)[0])


def test_one_artefact_is_itself(stacked: str) -> None:
    a = stacked.split(",")[0]
    assert Collection.open(a).digest == manifest.read(a, "embeddings").digest
    assert Collection.open(a).rows == 10
    digests = {Collection.open(uris).digest for uris in (a, stacked, ",".join(stacked.split(",")[:2]))}
    assert len(digests) == 3


def test_a_delta_needs_what_it_is_a_delta_of(stacked: str) -> None:
    a, b, c = stacked.split(",")
    assert Collection.open(b).rows == 2, "it may be opened alone"
    with pytest.raises(ConfigError, match=r"/b is a delta of .*plan a.*list those before it"):
        Collection.open(b).require_whole()
    with pytest.raises(ConfigError, match=r"/c is a delta of .*plan a.*plan b"):
        Collection.open(f"{a},{c}")
    for order in (f"{a},{c},{b}", f"{b},{a},{c}", f"{b},{c}"):
        with pytest.raises(ConfigError, match="is a delta of"):
            Collection.open(order)
    assert Collection.open(stacked).require_whole().rows == 9


@pytest.mark.parametrize(("name", "value"), [("namespace", "other"), ("dtype", "float16"), ("dim", 4)])
def test_artefacts_that_do_not_fit_together_are_refused(stacked: str, tmp_path: Path, name: str, value: object) -> None:
    a = stacked.split(",")[0]
    vectors = minted.unit_vectors(2, dim=4 if name == "dim" else 8).astype("float16" if name == "dtype" else "float32")
    other = minted.embeddings(tmp_path / "other", [77, 78], vectors, **({} if name != "namespace" else {name: value}))
    with pytest.raises(ConfigError, match=rf"{name} is .* in .*/a and {value} in .*/other"):
        Collection.open(f"{a},{other}")
    two = minted.embeddings(tmp_path / "two", [77], minted.unit_vectors(1), fingerprint="e" * 64)
    with pytest.raises(FingerprintMismatch, match=f"of model {'e' * 64}, .* of model {'f' * 64}.*embed both with"):
        Collection.open(f"{a},{two}")


def test_erased_faces_are_hidden(stacked: str, tmp_path: Path) -> None:
    found = Collection.open(stacked)
    assert found.without_erased() is found, "nothing was erased"
    tombstones.add(str(tmp_path / "tombstones"), "n", face_ids=[10], identities=["p1"])
    left = found.without_erased()
    assert left.load().face_id_N.tolist() == [0, 6, 8, 9, 2]
    assert left.rows == 5
    assert left.digest != found.digest
    with pytest.raises(Missing, match=r"elsewhere: there is no such folder of tombstones.*omit --tombstones"):
        found.without_erased(str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    assert found.without_erased(str(tmp_path / "elsewhere")) is found
    (tmp_path / "elsewhere" / "notes.txt").touch()
    with pytest.raises(Missing, match=r"elsewhere holds notes\.txt and no key, so it is not a folder of tombstones"):
        found.without_erased(str(tmp_path / "elsewhere"))


def test_artefacts_whose_erasures_cannot_be_found(stacked: str, tmp_path: Path) -> None:
    found = Collection.open(stacked)
    assert found.unguarded() == found.sources, "their Faces do not exist"
    tombstones.add(str(tmp_path / "tombstones"), "n", face_ids=[10])
    assert found.unguarded() == [], "the Faces do not exist, but there are tombstones beside them"


def test_damage_beside_the_parts_is_reported(stacked: str, tmp_path: Path) -> None:
    for name in ("tags/part-000000.parquet", "gone.parquet"):
        path = tmp_path / "b" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + b"x" + whole[-8:])
        with pytest.raises(Corrupt, match=rf"{name}: its sha256 is not the manifest's"):
            Collection.open(stacked)
        path.write_bytes(whole)
