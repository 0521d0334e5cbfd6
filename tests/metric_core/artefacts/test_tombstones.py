"""What was erased stays erased, and the list does not say who that was."""

from pathlib import Path

import pyarrow as pa
import pytest

from metric_core.artefacts import faces, keys, tombstones
from metric_core.errors import Corrupt, Missing

FACES = pa.table({"face_id": [1, 2, 3, 4], "identity": ["ann", "bob", "ann", "cy"]})


def test_faces_and_people_are_erased(tmp_path: Path) -> None:
    at = tombstones.beside(str(tmp_path / "faces"))
    assert at == str(tmp_path / "tombstones")
    assert not tombstones.read(at)
    assert tombstones.read(at).erased(FACES, "n").tolist() == [False] * 4
    tombstones.add(at, "n", face_ids=[4])
    found = tombstones.add(at, "n", identities=["ann"])
    assert found == tombstones.read(at)
    assert found.erased(FACES, "n").tolist() == [True, False, True, True]
    assert found.erased(FACES, "other").tolist() == [False, False, False, True], "another corpus's ann is somebody else"


def test_the_same_again_changes_nothing(tmp_path: Path) -> None:
    first = tombstones.add(str(tmp_path), "n", face_ids=[4, 2, 4], identities=["ann"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert tombstones.add(str(tmp_path), "n", face_ids=[2, 4], identities=["ann"]).digest == first.digest
    assert tombstones.add(str(tmp_path), "n").digest == first.digest
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert tombstones.add(str(tmp_path), "n", face_ids=[5]).digest != first.digest


def test_names_cannot_be_read_off(tmp_path: Path) -> None:
    tombstones.add(str(tmp_path / "1"), "n", identities=["ann"])
    tombstones.add(str(tmp_path / "2"), "n", identities=["ann"])
    one, two = (tombstones.read(str(tmp_path / n)).people for n in "12")
    assert one.isdisjoint(two), "without the key, hashes of names cannot be computed beforehand"
    assert all(b"ann" not in path.read_bytes() for path in (tmp_path / "1").iterdir())


def test_damage_is_told(tmp_path: Path) -> None:
    tombstones.add(str(tmp_path), "n", face_ids=[1], identities=["ann"])
    key = (tmp_path / "key").read_bytes()
    (tmp_path / "key").unlink()
    with pytest.raises(Missing, match=r"has no file key: .* restore it"):
        tombstones.read(str(tmp_path))
    (tmp_path / "key").write_bytes(key)
    (path,) = tmp_path.glob("erased-*")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Corrupt, match="its sha256 is not the one in its name"):
        tombstones.read(str(tmp_path))


def test_a_face_without_a_name_is_erased_by_its_id_only(tmp_path):
    at = str(tmp_path / "tombstones")
    unlabelled = pa.table({"face_id": [1, 2, 3], "identity": pa.array([None, "ann", None], pa.string())})
    found = tombstones.add(at, "n", face_ids=[3], identities=["ann", "None", ""])
    assert found.erased(unlabelled, "n").tolist() == [False, True, True]
    nobody = unlabelled.set_column(1, "identity", pa.nulls(3, pa.string()))
    assert found.erased(nobody, "n").tolist() == [False, False, True]


def test_lists_of_a_request_are_found_and_lifted(tmp_path: Path) -> None:
    at = str(tmp_path)
    tombstones.add(at, "n", face_ids=[1, 2], identities=["ann"], request="first")
    tombstones.add(at, "n", face_ids=[2, 3], request="second")
    (name,) = tombstones.lists_of(at, "first")
    assert tombstones.lift(at, [name]) == 1
    found = tombstones.read(at)
    assert (found.face_id_M.tolist(), found.people) == ([2, 3], frozenset()), "what another request erased too stays"
    assert tombstones.lift(at, [name]) == 0
    tombstones.lift(at, tombstones.lists_of(at, "second"))
    assert not tombstones.read(at)
    assert tombstones.add(at, "n", face_ids=[9]).face_id_M.tolist() == [9], "the folder is still good"


def test_a_lift_that_was_killed_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = str(tmp_path)
    (name,) = tombstones.add(at, "n", face_ids=[1], request="r").names
    with monkeypatch.context() as patched:
        patched.setattr(tombstones.storage, "remove", lambda uri: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tombstones.lift(at, [name])
    assert tombstones.read(at).face_id_M.tolist() == [1], "until it is complete, what is there counts"
    assert tombstones.lift(at, [name]) == 1
    assert not tombstones.read(at)


def test_other_ids_are_found_for_paths_of_every_shape(tmp_path: Path) -> None:
    """The quick way for most files agrees with the slow one for all."""
    paths = [
        "a/1.jpg",
        "a/.b",
        "a/.b.png",
        "a.b/c",
        "a/1.jpg.png",
        "x.",
        "a/x.y.",
        "é/ü.JPG",
        "1.jpg",
        "a/1..jpg",
        "a/b",
    ]
    for path in paths:
        plain = keys.plain(path)
        rows = [{"key": key, "kind": "file", "uri": path} for key in (plain, path, f"{path}/", "given")]
        table = pa.Table.from_pylist([{"face_id": 1, "identity": "x", **row} for row in rows])
        for other in {plain, path, f"{path}/"}:
            found = tombstones.Tombstones(faces.face_ids("n", [other]), names=("one",))
            expected = [other in keys.others(**row) for row in rows]
            assert found.erased(table, "n").tolist() == expected, (path, other)
