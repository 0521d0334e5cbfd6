import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.packed import PICTURES, as_is, contents, scan, written
from support.shard_writers import Picture, write_parquet

from metric_core import storage
from metric_core.errors import DataError, ImageUnreadable, Missing
from metric_core.sources import catalogue, parquet
from metric_core.sources.fetching import fetch


@pytest.mark.parametrize("names", [None, [f"person {n}" for n in range(4)]], ids=["texts", "class labels"])
def test_a_file_and_a_folder(tmp_path: Path, names: list[str] | None) -> None:
    write_parquet(tmp_path / "train-0.parquet", PICTURES[:7], names=names)
    write_parquet(tmp_path / "train-1.parquet", PICTURES[7:], names=names)
    assert contents(catalogue.scan(str(tmp_path / "train-0.parquet"))) == written(PICTURES[:7])
    assert contents(catalogue.scan(str(tmp_path))) == written(PICTURES)
    assert [(f.row_group, f.row) for f in scan(tmp_path)][5:8] == [(1, 0), (1, 1), (0, 0)]


def test_columns_of_any_of_the_kinds(tmp_path: Path) -> None:
    """Plain bytes under any name, numbers without names, dictionaries; a key from file and row; view and split."""
    columns = {"id": [1, 2], "photo": pa.array([b"one", None], pa.large_binary()), "label": [7, 8]}
    columns |= {"view": pa.array(["a", "b"]).dictionary_encode(), "split": ["train", "valid"]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    source = catalogue.scan(str(tmp_path / "x.parquet"))
    assert contents(source) == [("7", "x/0", b"one"), ("8", "x/1", b"")]
    assert [(f.view, f.split) for f in source.faces] == [("a", "train"), ("b", "valid")]
    both = {"image": [b"x"], "thumbnail": [b"y"], "label": [1], "identity": ["Ann"]}
    pq.write_table(pa.table(both), tmp_path / "x.parquet")
    assert contents(catalogue.scan(str(tmp_path / "x.parquet"))) == [("Ann", "x/0", b"x")]


def test_lists_and_images_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    pq.write_table(pa.table({"path": ["1.jpg"], "identity": ["Ann"]}), tmp_path / "x.parquet")
    assert [f.kind for f in scan(tmp_path / "x.parquet")] == ["file"]
    with pytest.raises(DataError, match="a list of files with columns path,identity is given to --source by itself"):
        scan(tmp_path)
    pq.write_table(pa.table({"picture": ["1.jpg"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"expected path, identity .* or, in Parquet, image with the pictures' bytes"):
        scan(tmp_path / "x.parquet")
    pq.write_table(pa.table({"image": [b"x"], "name": ["Ann"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"has columns image, name; expected image, .* and identity or label"):
        scan(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x", b"y"], "label": ["A", None]}, "row 1 has no label"),
        ({"image": [b"x"], "label": ["A"], "key": [""]}, "row 0 has no key"),
        ({"image": [b"x"], "label": [0.5]}, "the column label is double; expected names or whole numbers"),
        ({"image": [b"x", b"y"], "identity": [0, 2]}, "row 1 has the identity 2, but only 2 have names"),
    ],
)
def test_cells_that_do_not_fit(tmp_path: Path, columns: dict, message: str) -> None:
    features = {"identity": {"names": ["Ann", "Bob"], "_type": "ClassLabel"}}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        scan(tmp_path / "x.parquet")


def test_too_large_row_groups_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "x.parquet", PICTURES, row_group=6)
    monkeypatch.setattr(parquet, "MAX_GROUP", 20_000)
    with pytest.raises(DataError, match=r"row group 1 has .* write the file again with a row_group_size"):
        scan(tmp_path / "x.parquet")


def test_a_store_that_fails_is_not_a_damaged_file(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out of a file through Arrow is still the store's error, which is worth another attempt."""
    from metric_core.storage.s3 import S3

    write_parquet(tmp_path / "x.parquet", PICTURES)
    storage.write_bytes(f"{bucket}/x.parquet", (tmp_path / "x.parquet").read_bytes())
    source = catalogue.scan(f"{bucket}/x.parquet")
    row = dataclasses.asdict(next(iter(source.faces)))
    whole = S3._call_s3

    async def fails(self: S3, method: str, *args: Any, **more: Any) -> Any:
        if method == "get_object":
            raise ConnectionError("the object store does not answer")
        return await whole(self, method, *args, **more)

    monkeypatch.setattr(S3, "_call_s3", fails)
    with pytest.raises(ConnectionError, match="does not answer"):
        fetch(source.root, row)


def test_damaged_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", PICTURES)
    data = (tmp_path / "x.parquet").read_bytes()
    source = catalogue.scan(str(tmp_path / "x.parquet"))
    rows = list(source.faces)
    (tmp_path / "x.parquet").write_bytes(data[:-1])
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as Parquet: .* cut short"):
        scan(tmp_path / "x.parquet")
    with pytest.raises(ImageUnreadable, match=r"^corrupt: .* row group 2, row 0: .* cut short"):
        fetch(source.root, as_is(source.root, rows[10]))
    (tmp_path / "x.parquet").write_bytes(data[:4] + b"\xff" * 60 + data[64:])
    with pytest.raises(ImageUnreadable, match=r"^corrupt: .* row group 0, row 1: .* damaged"):
        fetch(source.root, as_is(source.root, rows[1]))
    write_parquet(tmp_path / "x.parquet", PICTURES[:6])
    for gone in (rows[6], rows[11]):
        with pytest.raises(ImageUnreadable, match=r"^corrupt: .* catalogue again to another --out"):
            fetch(source.root, as_is(source.root, gone))
    (tmp_path / "x.parquet").unlink()
    parquet._groups = parquet._Groups()
    with pytest.raises(Missing, match=r"x\.parquet"):
        fetch(source.root, dataclasses.asdict(rows[0]))


def test_a_row_group_is_read_once_by_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "x.parquet", PICTURES, row_group=3)
    source = catalogue.scan(str(tmp_path / "x.parquet"))
    rows = [dataclasses.asdict(f) for f in source.faces]
    reads: list[int] = []
    honest = parquet._read

    def counted(address: str, row_group: int, column: str) -> pa.ChunkedArray:
        reads.append(row_group)
        return honest(address, row_group, column)

    monkeypatch.setattr(parquet, "_read", counted)
    monkeypatch.setattr(parquet, "_groups", parquet._Groups())
    with ThreadPoolExecutor(8) as pool:
        datas = list(pool.map(lambda row: fetch(source.root, row), rows * 20))
    assert datas == [p.data for p in PICTURES] * 20
    assert sorted(reads) == [0, 1, 2, 3]
    # With room for hardly more than one group (the last has 3 x 7 kB), only the latest stays.
    monkeypatch.setattr(parquet, "_groups", parquet._Groups())
    monkeypatch.setattr(parquet, "CACHE", 22_000)
    reads.clear()
    for row in (rows[0], rows[11], rows[10], rows[0], rows[1]):
        fetch(source.root, row)
    assert reads == [0, 3, 0]


def test_scanning_in_an_object_store_leaves_the_images_there(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s3fs.core import S3File

    pictures = [Picture("A", f"{n:04d}", bytes([n]) * 400_000) for n in range(20)]
    write_parquet(tmp_path / "x.parquet", pictures, row_group=2)
    table = pq.read_table(tmp_path / "x.parquet")
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2, compression="none", use_dictionary=False)
    storage.write_bytes(f"{bucket}/x.parquet", (tmp_path / "x.parquet").read_bytes())
    spans: list[int] = []
    honest = S3File._fetch_range

    def counted(self: S3File, start: int, end: int) -> bytes:
        spans.append(end - start)
        return honest(self, start, end)

    monkeypatch.setattr(S3File, "_fetch_range", counted)
    source = catalogue.scan(f"{bucket}/x.parquet")
    found = list(source.faces)
    assert len(found) == 20
    assert sum(spans) < 400_000 < storage.size(f"{bucket}/x.parquet") / 10
    assert fetch(source.root, dataclasses.asdict(found[7])) == pictures[7].data


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"], "label": [1.5]}, "the column label is double; expected names or whole numbers"),
        ({"image": [b"x"], "label": [float("nan")]}, "row 0 has no label"),
        ({"image": [b"x"], "label": [""]}, "row 0 has no label"),
        ({"image": [b"x"], "label": [" "]}, "row 0 has no label"),
        ({"image": [b"x"], "label": [[1]]}, r"the column label is list<.*>; expected"),
        ({"image": [b"x"], "identity": [{"a": 1}]}, r"the column identity is struct<a: int64>; expected"),
        ({"image": [b"x"], "identity": [b"\xff"]}, r"the column identity \(binary\) is not text in UTF-8"),
        ({"image": [b"x"], "identity": ["a\0"]}, r"row 0 has the identity 'a\\x00', which holds a NUL byte"),
    ],
)
def test_names_are_names(columns: dict, message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        scan(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Ann", ""], r"names of the labels are empty or no texts: \['Ann', ''\]"),
        (["Ann", None], "names of the labels are empty or no texts"),
        ("Ann", "names of the labels are empty or no texts"),
        (["Ann", "\ud800"], "names of the labels are empty or no texts"),
        (["Ann", "Ann"], "several labels have the name Ann; expected a name for each"),
    ],
)
def test_names_of_labels_are_checked(names: object, message: str, tmp_path: Path) -> None:
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    table = pa.table({"image": [b"x"], "label": [0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        scan(tmp_path / "x.parquet")


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), "dictionary"], ids=str)
def test_bytes_of_any_type(kind: Any, tmp_path: Path) -> None:
    images = pa.array([b"one", b"two"])
    images = images.dictionary_encode() if kind == "dictionary" else images.cast(kind)
    pq.write_table(pa.table({"picture": images, "label": pa.array([b"7", b"8"])}), tmp_path / "x.parquet")
    assert contents(catalogue.scan(str(tmp_path / "x.parquet"))) == [("7", "x/0", b"one"), ("8", "x/1", b"two")]


def test_paths_instead_of_bytes(tmp_path: Path) -> None:
    """Row by row; relative to the file's folder, whatever the pattern."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    (tmp_path / "data").mkdir()
    images = [{"bytes": None, "path": "1.jpg"}, {"bytes": b"two", "path": "2.jpg"}, {"bytes": None, "path": None}]
    table = pa.table({"image": pa.array(images, kind), "label": [1, 2, 3], "key": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "data" / "x.parquet")
    with pytest.raises(
        DataError, match=r"stores paths instead of pictures in 1 rows .* 1 of these .*: data/1\.jpg; put"
    ):
        scan(tmp_path / "*" / "x.parquet")
    (tmp_path / "data" / "1.jpg").write_bytes(b"one")
    for address in (tmp_path / "*" / "x.parquet", tmp_path / "data" / "x.parquet"):
        source = catalogue.scan(str(address))
        assert contents(source) == [("1", "a", b"one"), ("2", "b", b"two"), ("3", "c", b"")]
