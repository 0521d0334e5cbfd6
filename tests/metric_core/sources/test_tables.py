"""Lists in all the ways in which they are written."""

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.packed import scan

from metric_core.errors import DataError
from metric_core.sources import catalogue, tables

ROWS = [("1.jpg", "A", "k\r\n1"), ("2.jpg", 'B "b", C', "k2"), ("3.jpg", "007", "k3")]


@pytest.fixture
def there(tmp_path: Path) -> Path:
    for path, _, _ in ROWS:
        (tmp_path / path).touch()
    return tmp_path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("block", [tables.BLOCK, 64], ids=["one block", "many"])
def test_line_endings_marks_and_quoted_newlines(
    end: str, mark: str, block: int, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BLOCK", block)
    quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in ROWS]
    text = mark + end.join(["path,identity,key", *quoted, ""])
    (there / "l.csv").write_bytes(text.encode())
    assert [(face.uri, face.identity, face.key) for face in scan(there / "l.csv")] == ROWS


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()],
    ids=str,
)
@pytest.mark.parametrize("dictionary", [False, True])
def test_text_of_any_type(kind: pa.DataType, dictionary: bool, there: Path) -> None:
    columns = {name: pa.array([row[at] for row in ROWS]) for at, name in enumerate(("path", "identity", "key"))}
    columns = {name: (column.dictionary_encode() if dictionary else column) for name, column in columns.items()}
    if not dictionary:
        columns = {name: column.cast(pa.binary()).cast(kind) for name, column in columns.items()}
    pq.write_table(pa.table(columns), there / "l.parquet")
    assert [(face.uri, face.identity, face.key) for face in scan(there / "l.parquet")] == ROWS


@pytest.mark.parametrize(
    ("cells", "right"),
    [
        (pa.array([1.0, 2.0, 1e15]), ["1", "2", "1000000000000000"]),
        (pa.array([7, 8, 2**63 - 1]), ["7", "8", "9223372036854775807"]),
        (pa.array([1.5, 2.0, 3.0]), "the column identity is double; expected names or whole numbers"),
        (pa.array([1.0, float("inf"), 3.0]), "the column identity is double; expected names or whole numbers"),
        (pa.array([1.0, float("nan"), None]), "2 rows have no identity, the first is row 2"),
        (pa.array(["A", " ", "B"]), r"1 rows have no identity, the first is row 2 \(' '\)"),
        (pa.array([None, None, None]), "3 rows have no identity"),
        (pa.array([True, False, True]), "the column identity is bool; expected"),
        (pa.array([[1], [2], [3]]), "the column identity is list<.*>; expected"),
        (pa.array([{"a": 1}] * 3), "the column identity is struct<a: int64>; expected"),
        (pa.array([datetime.date(2020, 1, 1)] * 3), r"the column identity is date32\[day\]; expected"),
        (pa.array([b"A", b"\xff", b"B"]), r"the column identity \(binary\) is not text in UTF-8"),
        (pa.array(["A", "B\0", "C"]), r"row 2 has the identity 'B\\x00', which holds a NUL byte"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_identities_in_parquet(cells: pa.Array, right: list[str] | str, there: Path) -> None:
    pq.write_table(pa.table({"path": [row[0] for row in ROWS], "identity": cells}), there / "l.parquet")
    if isinstance(right, str):
        with pytest.raises(DataError, match=right):
            scan(there / "l.parquet")
    else:
        assert [face.identity for face in scan(there / "l.parquet")] == right


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty; expected a line with the names of the columns"),
        (b"\n\n", "is empty"),
        ("path,identity\n1.jpg,Zoë\n".encode("latin-1"), "is not in UTF-8"),
        ("path,identity\n1.jpg,A\n".encode("utf-16"), "is not in UTF-8"),
        (b"path,identity,identity\n1.jpg,A,B\n", "has the column identity twice"),
        (b"path,identity\n\0,A\n", r"row 1 has the path '\\x00', which holds a NUL byte"),
        (b"path,identity\n1.jpg,A\n..,A\n", r"row 2 has the path '\.\.', which names no file"),
        (b"path,identity\nfile://,A\n", "row 1 has the path 'file://', which names no file"),
        (b"path,identity\n" + b"x" * 300 + b".jpg,A\n", "lists 1 of 1 files that are not there"),
        (b"path,identity\n1.jpg/x.jpg,A\n", "lists 1 of 1 files that are not there"),
        (b"path,identity,key\n1.jpg,A,a\n./1.jpg,B,b\n", r"occurs twice, in row 1 of .A. and in row 2"),
        (b'path,identity\n1.jpg,"A\n2.jpg,B\n', "a quote that is opened in the last row is not closed"),
    ],
)
def test_lists_that_cannot_be_read(text: bytes, message: str, there: Path) -> None:
    (there / "l.csv").write_bytes(text)
    with pytest.raises(DataError, match=message) as refusal:
        scan(there / "l.csv")
    assert "\n" not in str(refusal.value)


def test_several_faces_of_one_picture(there: Path) -> None:
    points = [" ".join(str(n + m) for m in range(10)) for n in range(2)]
    (there / "l.csv").write_text(f"path,identity,key,landmarks\n1.jpg,A,a,{points[0]}\n1.jpg,B,b,{points[1]}\n")
    assert [(face.identity, face.key) for face in scan(there / "l.csv")] == [("A", "a"), ("B", "b")]


def test_splits_are_read_as_lists_are(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"identity": pa.array([7, 8]), "split": pa.array(["train", "valid"]).dictionary_encode()}
    pq.write_table(pa.table(columns | {"more": [[1], [2]]}), tmp_path / "s.parquet")
    (tmp_path / "s.txt").write_bytes(b"\xef\xbb\xbfidentity,split\r7,train\r8,valid\r")
    for name in ("s.parquet", "s.txt"):
        assert catalogue.read_splits(str(tmp_path / name)) == {"7": "train", "8": "valid"}
    with pytest.raises(DataError, match="is a folder; a file was expected"):
        catalogue.read_splits(str(tmp_path))
    (tmp_path / "s.csv").write_text("identity,split\nAnn,train\nBob,\n")
    with pytest.raises(DataError, match=r"1 rows have no split, the first is row 2"):
        catalogue.read_splits(str(tmp_path / "s.csv"))
    (tmp_path / "s.csv").write_text("identity,split\nJosé,train\nJose\u0301,valid\n")
    with pytest.raises(DataError, match=r"row 2: .* is in train and in valid"):
        catalogue.read_splits(str(tmp_path / "s.csv"))
