import os
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_core import storage
from metric_core.artefacts.faces import face_id
from metric_core.errors import ConfigError, DataError, Missing
from metric_core.sources import catalogue, listing
from metric_core.sources.fetching import fetch


def tree(root: Path, *paths: str) -> str:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return str(root)


def test_a_folder_a_person_with_any_nesting_above(tmp_path: Path) -> None:
    source = catalogue.scan(tree(tmp_path / "corpus", "x/y/Ann/2.jpg", "x/Bob/1.PNG", "x/y/Ann/1.jpg", "x/notes.txt"))
    found = list(source.faces)
    assert [(f.identity, f.key) for f in found] == [("Bob", "x/Bob/1"), ("Ann", "x/y/Ann/1"), ("Ann", "x/y/Ann/2")]
    assert source.name == "corpus"
    assert source.ignored == {".txt": 1}


def test_ids_depend_on_namespace_and_key_alone(tmp_path: Path) -> None:
    one = tree(tmp_path / "1", "a/Ann/1.jpg", "a/Ann/2.jpg")
    two = tree(tmp_path / "2", "a/Ann/2.png", "a/Ann/3.png")
    tables = [catalogue.to_table(list(catalogue.scan(s).faces), "faces").to_pylist() for s in (one, two)]
    ids = [{row["key"]: row["face_id"] for row in table} for table in tables]
    assert ids[0]["a/Ann/2"] == ids[1]["a/Ann/2"] == face_id("faces", "a/Ann/2")
    assert face_id("other", "a/Ann/2") != ids[0]["a/Ann/2"]
    assert all(0 <= number < 2**63 for table in ids for number in table.values())


def test_face_id_is_pinned() -> None:
    """Ids live in artefacts for years; this value must never change."""
    assert face_id("lfw", "Ann/Ann_0001") == 2944299925651128325


def settled(keys: list[str], first_ids: list[int]) -> tuple[list[int], dict[str, int]]:
    changed, salts = catalogue.resolve_collisions(np.array(first_ids), lambda row_M: [keys[row] for row in row_M], "n")
    return [changed.get(row, first) for row, first in enumerate(first_ids)], salts


def test_a_collision_gives_the_later_key_the_next_salt() -> None:
    assert settled(["b", "a", "c"], [7, 7, 8]) == ([face_id("n", "b", 1), 7, 8], {"b": 1})
    assert settled(["c", "a", "b"], [7, 7, 7])[1] == {"b": 1, "c": 1}, "the first in byte order keeps its id"
    assert settled(["a", "b"], [7, 8]) == ([7, 8], {})


def test_a_salted_id_that_is_taken_is_passed_over() -> None:
    taken = face_id("n", "b", 1)
    assert settled(["a", "b", "c"], [7, 7, taken]) == ([7, face_id("n", "b", 2), taken], {"b": 2})


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(DataError, match="the key 'a' and 0 more occur twice"):
        settled(["a", "b", "a"], [7, 8, 7])


def test_what_a_folder_must_not_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not in a person's folder"):
        list(catalogue.scan(tree(tmp_path / "1", "face.jpg")).faces)
    with pytest.raises(DataError, match="two folders named 'Ann'"):
        list(catalogue.scan(tree(tmp_path / "2", "x/Ann/1.jpg", "y/Ann/1.jpg")).faces)
    with pytest.raises(Missing):
        catalogue.scan(str(tmp_path / "nothing"))
    latin = tree(tmp_path / "4", "Ann/1.jpg")
    Path(latin, "Ann", os.fsdecode(b"\xe9.jpg")).write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 pictures whose names are not UTF-8 \('Ann/\\udce9\.jpg'\); rename"):
        list(catalogue.scan(latin).faces)
    with pytest.raises(DataError, match=r"x\.zip is none of \.rec, \.tar"):
        catalogue.scan(tree(tmp_path / "3", "x.zip") + "/x.zip")


def test_a_list_keeps_its_order_and_says_view_and_split(tmp_path: Path) -> None:
    root = tree(tmp_path, "p/2.jpg", "p/1.jpg")
    (tmp_path / "list.csv").write_text("path,identity,view,split\np/2.jpg,007,id,train\np/1.jpg,Bob,,train\n")
    source = catalogue.scan(f"{root}/list.csv")
    rows = catalogue.to_table(list(source.faces), source.name).to_pylist()
    assert [(r["identity"], r["view"], r["split"]) for r in rows] == [("007", "id", "train"), ("Bob", None, "train")]
    assert [fetch(source.root, row) for row in rows] == [b"p/2.jpg", b"p/1.jpg"]


def test_ids_do_not_tell_where_a_list_lies(tmp_path: Path) -> None:
    root = tree(tmp_path, "p/1.jpg", "p/2.jpg")
    (tmp_path / "l.csv").write_text(f"path,identity\np/1.jpg,Ann\n{root}/p/2.jpg,Ann\n/else/where.jpg,Ann\n")
    with pytest.raises(DataError, match=r"1 of 3 files that are not there: /else/where\.jpg"):
        list(catalogue.scan(str(tmp_path / "l.csv")).faces)
    (tmp_path / "l.csv").write_text(f"path,identity\np/1.jpg,Ann\n{root}/p/2.jpg,Ann\n")
    assert [face.key for face in catalogue.scan(str(tmp_path / "l.csv")).faces] == ["p/1", "p/2"]


def test_only_an_empty_cell_is_nothing(tmp_path: Path) -> None:
    """Whatever else pyarrow takes for a missing value can be somebody's name, and Parquet takes it for one."""
    words = ["NA", "null", "nan", "N/A", "NULL", "None", "-nan"]
    root = tree(tmp_path, *(f"{n}.jpg" for n in range(len(words) + 1)))
    rows = [{"path": f"{n}.jpg", "identity": w, "key": w, "split": w, "view": w} for n, w in enumerate(words)]
    rows.append({"path": f"{len(words)}.jpg", "identity": "Ann", "key": None, "split": None, "view": None})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    lines = [",".join(rows[0]), *(",".join(cell or "" for cell in row.values()) for row in rows)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    found = [list(catalogue.scan(f"{root}/list.{ending}").faces) for ending in ("csv", "parquet")]
    assert found[0] == found[1]
    assert [(f.identity, f.key, f.split, f.view) for f in found[0]] == [
        *((w, w, w, w) for w in words),
        ("Ann", str(len(words)), None, None),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,identity\np/1.jpg,A\nno.jpg,B\nno2.jpg,B\n", "lists 2 of 3 files that are not there: no.jpg, no2.jpg"),
        ("file,who\np/1.jpg,A\n", "has columns file, who; expected path, identity"),
        ("path,identity\np/1.jpg,\n", "1 rows have no identity"),
        ("path,identity\np/1.jpg,A\np/1.jpg,B\n", "'p/1' occurs twice"),
        ("path,identity\np/1.jpg,A,B\n", "cannot be read as a list"),
    ],
)
def test_bad_lists(tmp_path: Path, text: str, message: str) -> None:
    root = tree(tmp_path, "p/1.jpg")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        list(catalogue.scan(f"{root}/list.csv").faces)


def test_content_tags_of_a_list_are_asked_for_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "READERS", 2)
    monkeypatch.setattr(listing, "RUN", 2)
    meet, tag_of = threading.Barrier(2, timeout=30), storage.content_tag

    def tag(uri: str) -> str:
        meet.wait()  # one after the other, the first would never come back
        return tag_of(uri)

    names = [f"{n}.jpg" for n in range(12)]
    root = tree(tmp_path, *names)
    (tmp_path / "list.csv").write_text("path,identity\n" + "".join(f"{name},A\n" for name in names))
    monkeypatch.setattr(storage, "content_tag", tag)
    found = list(catalogue.scan(f"{root}/list.csv").faces)
    assert [(f.uri, f.content_tag) for f in found] == [(name, tag_of(f"{root}/{name}")) for name in names]
    for name in (names[3], names[11]):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"lists 2 of 12 files that are not there: 3\.jpg, 11\.jpg;"):
        list(catalogue.scan(f"{root}/list.csv").faces)


def test_a_split_file_goes_before_the_list_s_own(tmp_path: Path) -> None:
    root = tree(tmp_path, "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    (tmp_path / "list.csv").write_text("path,identity,split\n1.jpg,A,x\n2.jpg,B,y\n3.jpg,A,x\n4.jpg,C,\n")
    table = catalogue.to_table(list(catalogue.scan(f"{root}/list.csv").faces), "n")
    assert catalogue.with_splits(table, {"B": "z", "D": "w"})["split"].to_pylist() == ["x", "z", "x", None]
    assert catalogue.with_splits(table, {}).equals(table)
    assert catalogue.with_splits(table.slice(0, 0), {"B": "z"}).num_rows == 0


def test_seeded_splits_are_by_person_and_stay_when_people_join() -> None:
    people = [f"p{n}" for n in range(2000)]
    few = catalogue.seeded_splits(people[:1000], {"train": 0.8, "valid": 0.2}, seed=1)
    many = catalogue.seeded_splits(people, {"train": 0.8, "valid": 0.2}, seed=1)
    assert all(many[p] == split for p, split in few.items())
    assert 0.17 < sum(s == "valid" for s in many.values()) / 2000 < 0.23
    assert many != catalogue.seeded_splits(people, {"train": 0.8, "valid": 0.2}, seed=2)
    with pytest.raises(ConfigError, match="add up to 1"):
        catalogue.seeded_splits(people, {"train": 0.8}, seed=1)


def test_split_files(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("identity,split,images\nAnn,train,3\nBob,valid,1\n")
    assert catalogue.read_splits(str(path)) == {"Ann": "train", "Bob": "valid"}
    path.write_text("identity,split\nAnn,train\nAnn,valid\n")
    with pytest.raises(DataError, match="row 2: Ann is in train and in valid"):
        catalogue.read_splits(str(path))
    path.write_bytes("identity,split\nZoë,train\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"s\.csv is not in UTF-8"):
        catalogue.read_splits(str(path))
    path.write_text("who,where\n")
    with pytest.raises(DataError, match="expected identity,split"):
        catalogue.read_splits(str(path))
