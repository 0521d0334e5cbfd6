"""Corpora without names, in every format: no identity, the same keys as with names, and no row lost."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.shard_writers import write_tar

from metric_core.errors import ConfigError, DataError
from metric_core.sources import catalogue
from metric_core.sources.found import Notes

PICTURES = {"a.jpg": b"1", "b.png": b"2", "2024/c.jpg": b"3", "x/2024/d.jpg": b"4"}
KEYS = {"a", "b", "2024/c", "x/2024/d"}


def laid(root: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def scanned(address: Path) -> dict[str, str | None]:
    """{key: identity}"""
    source = catalogue.scan(str(address), unlabelled=True)
    assert source.unlabelled
    found = [face for shard in source.shards for face in shard(Notes())]
    assert len({face.key for face in found}) == len(found)
    return {face.key: face.identity for face in found}


@pytest.mark.parametrize("form", ["folder", "tar", "csv", "parquet list"])
def test_pictures_without_a_name(form: str, tmp_path: Path) -> None:
    root = laid(tmp_path / "source", PICTURES)
    source = root
    if form == "tar":
        source = tmp_path / "a.tar"
        write_tar(source, PICTURES)
    elif form == "csv":
        source = root / "list.csv"
        source.write_text("path\n" + "\n".join(PICTURES) + "\n")
    elif form == "parquet list":
        source = root / "list.parquet"
        pq.write_table(pa.table({"path": list(PICTURES)}), source)
    assert scanned(source) == dict.fromkeys(KEYS)
    if form not in ("folder", "tar"):
        with pytest.raises(DataError, match="or pass --unlabelled if nobody is named"):
            catalogue.scan(str(source))


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_a_flat_source_says_what_to_do(form: str, tmp_path: Path) -> None:
    source = laid(tmp_path / "source", {"a.jpg": b"1"}) if form == "folder" else tmp_path / "a.tar"
    if form == "tar":
        write_tar(source, {"a.jpg": b"1"})
    with pytest.raises(DataError, match=r"a has no identity; .* or pass --unlabelled if nobody is named") as refusal:
        list(catalogue.scan(str(source)).faces)
    assert "\n" not in str(refusal.value)


SIDECARS = {
    "a.jpg": b"1",
    "a.cls": b"ann",
    "b.jpg": b"2",
    "b.json": b'{"identity": null, "landmarks": [1,2,3,4,5,6,7,8,9,10]}',
    "c/c.jpg": b"3",
    "c/c.json": b'{"label": 7}',
    "c/d.jpg": b"4",
    "e.jpg": b"5",
    "e.txt": b"word",
    "f.jpg": b"6",
    "f.cls": b" ",
}


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_a_sidecar_names_its_picture_and_a_folder_or_caption_nobody(form: str, tmp_path: Path) -> None:
    source = laid(tmp_path / "source", SIDECARS) if form == "folder" else tmp_path / "a.tar"
    if form == "tar":
        write_tar(source, SIDECARS)
    assert scanned(source) == {"a": "ann", "b": None, "c/c": "7", "c/d": None, "e": None, "f": None}


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_empty_cells_of_a_list_are_nobody(form: str, tmp_path: Path) -> None:
    laid(tmp_path, {f"{name}.jpg": b"1" for name in "abcd"})
    names = ["ann", "", "  ", "None"]
    source = tmp_path / f"list.{form}"
    if form == "csv":
        source.write_text("path,identity\n" + "".join(f"{k}.jpg,{name}\n" for k, name in zip("abcd", names)))
    else:
        pq.write_table(
            pa.table({"path": [f"{k}.jpg" for k in "abcd"], "identity": ["ann", None, "  ", "None"]}), source
        )
    assert scanned(source) == {"a": "ann", "b": None, "c": None, "d": "None"}
    with pytest.raises(DataError, match="2 rows have no identity, the first is row 2"):
        catalogue.scan(str(source))


@pytest.mark.parametrize(
    ("columns", "right"),
    [
        ({}, {"faces/0": None, "faces/1": None, "faces/2": None}),
        ({"key": ["x", "y", "z"]}, {"x": None, "y": None, "z": None}),
        ({"label": ["ann", None, ""]}, {"faces/0": "ann", "faces/1": None, "faces/2": None}),
    ],
    ids=["no text", "keys", "some names"],
)
def test_pictures_in_parquet(columns: dict[str, list[str]], right: dict[str, str | None], tmp_path: Path) -> None:
    source = tmp_path / "faces.parquet"
    pq.write_table(pa.table({"image": [b"1", b"2", b"3"], **columns}), source, row_group_size=2)
    assert scanned(source) == right
    with pytest.raises(DataError):
        list(catalogue.scan(str(source)).faces)


def test_a_picture_of_nobody_may_be_listed_twice(tmp_path: Path) -> None:
    laid(tmp_path, {"1.jpg": b"1"})
    (tmp_path / "list.csv").write_text("path,key\n1.jpg,a\n1.jpg,b\n")
    assert scanned(tmp_path / "list.csv") == {"a": None, "b": None}


def test_a_class_label_that_was_not_given_is_nobody(tmp_path: Path) -> None:
    features = {"label": {"names": ["ann", "bob"], "_type": "ClassLabel"}}
    table = pa.table({"image": [b"1", b"2"], "label": [1, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "faces.parquet")
    assert scanned(tmp_path / "faces.parquet") == {"faces/0": "bob", "faces/1": None}


@pytest.mark.parametrize("name", ["train.rec", "lfw.bin"])
def test_formats_that_name_everybody_refuse(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"unlabelled is set, but .*{name} names everybody; leave the option out"):
        catalogue.scan(str(tmp_path / name), unlabelled=True)


def test_a_broken_sidecar_is_still_refused(tmp_path: Path) -> None:
    laid(tmp_path, {"a.jpg": b"1", "a.json": json.dumps([1]).encode()})
    with pytest.raises(DataError, match=r"a\.json holds"):
        list(catalogue.scan(str(tmp_path), unlabelled=True).faces)
