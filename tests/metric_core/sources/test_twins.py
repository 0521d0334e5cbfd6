"""Pictures that differ in their ending only: all are taken, under the same ids in a folder, a tar and a list."""

import os
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from support.packed import scan
from support.shard_writers import write_tar

from metric_core.errors import DataError
from metric_core.sources import catalogue
from metric_core.sources.fetching import fetch
from metric_core.sources.found import TWINS, Source

TWINNED = {
    "Ann/1.bmp": "Ann/1.bmp",
    "Ann/1.jpg": "Ann/1",
    "Ann/1.webp": "Ann/1.webp",
    "Ann/2.jpg": "Ann/2",
    "Bob/2.JPG": "Bob/2",
    "Bob/2.jpg": "Bob/2.jpg",
    "Bob/3.PNG": "Bob/3.PNG",
    "Bob/3.jpeg": "Bob/3",
    "Bob/4.tif": "Bob/4",
}
"""Paths and their keys."""


def tree(root: Path, *paths: str) -> str:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return str(root)


def rows(source: Source) -> dict[str, tuple[str, int]]:
    """Key and id by what the picture's bytes say, which is its path."""
    table = catalogue.to_table(list(source.faces), "n").to_pylist()
    return {fetch(source.root, row).decode(): (row["key"], row["face_id"]) for row in table}


def test_a_folder_a_tar_and_a_list_agree(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", *TWINNED)
    write_tar(tmp_path / "x.tar", {path: path.encode() for path in TWINNED})
    paths = sorted(TWINNED, reverse=True)
    (tmp_path / "tree" / "list.csv").write_text("path,identity\n" + "".join(f"{path},{path[:3]}\n" for path in paths))
    sources = [catalogue.scan(address) for address in (root, f"{tmp_path}/x.tar", f"{root}/list.csv")]
    found = [rows(source) for source in sources]
    assert {path: key for path, (key, _) in found[0].items()} == TWINNED
    assert found[0] == found[1] == found[2]
    assert [source.ignored[TWINS] for source in sources] == [4, 4, 4]
    assert [f.uri for f in scan(root)] == sorted(TWINNED), "in byte order, as ever"
    assert [f.key for f in scan(tmp_path / "x.tar")] == list(TWINNED.values())
    assert [f.uri for f in scan(f"{root}/list.csv")] == paths
    pq.write_table(pyarrow.csv.read_csv(f"{root}/list.csv"), f"{root}/list.parquet")
    assert rows(catalogue.scan(f"{root}/list.parquet")) == found[0]


def test_ids_are_pinned(tmp_path: Path) -> None:
    """Of a picture without a twin, and of both twins: artefacts hold them for years."""
    root = Path(tree(tmp_path, "Ann/1.webp", "Ann/2.jpg"))
    before = rows(catalogue.scan(str(root)))
    assert before == {"Ann/1.webp": ("Ann/1", 4861908368418437567), "Ann/2.jpg": ("Ann/2", 7318432562096496746)}
    tree(root, "Ann/1.jpg", "Ann/1-a.jpg", "Ann/1.c.jpg")
    after = rows(catalogue.scan(str(root)))
    assert after["Ann/1.jpg"] == ("Ann/1", 4861908368418437567), "the twin whose ending comes first takes the id over"
    assert after["Ann/1.webp"] == ("Ann/1.webp", 8625283074788571501)
    assert after["Ann/2.jpg"] == before["Ann/2.jpg"]
    assert {after[path][0] for path in ("Ann/1-a.jpg", "Ann/1.c.jpg")} == {"Ann/1-a", "Ann/1.c"}


def test_a_picture_whose_plain_key_is_a_twins_path(tmp_path: Path) -> None:
    paths = ["A/1.JPG", "A/1.jpg", "A/1.jpg.png", "A/1.webp"]
    for folder, names, keys in (
        ("x", paths[1:], ["A/1", "A/1.jpg", "A/1.webp"]),
        ("y", paths, ["A/1", "A/1.jpg/", "A/1.jpg", "A/1.webp"]),
    ):
        root = tree(tmp_path / folder, *names)
        assert [f.key for f in scan(root)] == keys
        Path(root, "list.csv").write_text("path,identity\n" + "".join(f"{name},A\n" for name in names))
        assert [f.key for f in scan(f"{root}/list.csv")] == keys


def test_a_folder_may_sort_between_twins(tmp_path: Path) -> None:
    root = tree(tmp_path, "A/1.bmp", "A/1.c/2.jpg", "A/1.c/2.png", "A/1.c/3.jpg", "A/1.jpg", "A/1a.jpg", "A/1a.png")
    with pytest.raises(DataError, match=r"pictures lie in the folder A and in A/1\.c below it: .* --person-level 1 if"):
        scan(root)
    found = {f.uri: (f.identity, f.key) for f in catalogue.scan(root, level=1).faces}
    assert list(found) == sorted(found)
    assert found["A/1.bmp"] == ("A", "A/1.bmp")
    assert found["A/1.jpg"] == ("A", "A/1")
    assert [found[f"A/1.c/{name}"] for name in ("2.jpg", "2.png", "3.jpg")] == [
        ("A", "A/1.c/2"),
        ("A", "A/1.c/2.png"),
        ("A", "A/1.c/3"),
    ]
    assert found["A/1a.png"] == ("A", "A/1a.png")


def test_tags_of_twins_in_a_list_are_those_of_the_folder(tmp_path: Path) -> None:
    root = tree(tmp_path, *TWINNED)
    for path in TWINNED:
        os.utime(tmp_path / path, ns=(0, 7 if path != "Bob/3.PNG" else 8))
    (tmp_path / "list.csv").write_text("path,identity\n" + "".join(f"{path},{path[:3]}\n" for path in TWINNED))
    tags = {f.uri: f.content_tag for f in scan(root)}
    assert tags == {f.uri: f.content_tag for f in scan(f"{root}/list.csv")}
    assert tags["Ann/2.jpg"] == tags["Bob/4.tif"] == "9-7", "as ever"
    assert tags["Ann/1.jpg"] == "9-7.jpg", "Ann/1.bmp has the same size and time"
    assert tags["Bob/3.jpeg"] == "10-7", "no other one has"
    (tmp_path / "Bob/3.PNG").unlink()
    with pytest.raises(DataError, match=r"lists 1 of 9 files that are not there: Bob/3\.PNG"):
        scan(f"{root}/list.csv")


def test_keys_that_are_given_in_a_list_stay(tmp_path: Path) -> None:
    root = tree(tmp_path, "1.jpg", "1.png", "1.webp", "2.jpg", "2.png")
    text = "path,identity,key\n1.webp,A,\n1.png,A,mine\n1.jpg,A,\n2.jpg,A,2.png\n2.png,A,\n"
    (tmp_path / "list.csv").write_text(text)
    assert [f.key for f in scan(f"{root}/list.csv")] == ["1.webp", "mine", "1", "2.png", "2"]
    for text in ("path,identity,key\n1.jpg,A,\n1.png,A,1\n", "path,identity\n1.jpg,A\n./1.jpg,A\n"):
        (tmp_path / "list.csv").write_text(text)
        with pytest.raises(DataError, match="the key '1' occurs twice"):
            scan(f"{root}/list.csv")


def test_twins_in_a_tar_share_what_is_said_of_the_sample(tmp_path: Path) -> None:
    members = {"1.jpg": b"j", "1.face.jpg": b"", "1.JPG": b"J", "1.cls": b"17", "2.jpg": b"2", "2.cls": b"18"}
    write_tar(tmp_path / "x.tar", members)
    source = catalogue.scan(f"{tmp_path}/x.tar")
    assert [(f.identity, f.key) for f in source.faces] == [("17", "1.jpg"), ("17", "1"), ("18", "2")]
    assert source.ignored == {".face.jpg": 1, TWINS: 1}
