import dataclasses
import struct
from pathlib import Path

import pytest
from support.packed import as_is, contents, scan, written
from support.shard_writers import MAGIC, Picture, image_record, write_recordio

from metric_core.errors import DataError, Missing
from metric_core.sources import catalogue, folder
from metric_core.sources.fetching import fetch

# Identity and bytes by key; four people, lengths with every remainder by 4.
PICTURES = [Picture(str(n // 3), str(n + 1), bytes([n]) * (n + 1)) for n in range(12)]


WRITTEN = written(PICTURES)


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("index", [False, True])
def test_header_or_not_index_or_not(tmp_path: Path, header: bool, index: bool) -> None:
    write_recordio(tmp_path / "train.rec", PICTURES, header=header, index=index)
    (tmp_path / "property").write_text("4,112,112")
    for address in (tmp_path / "train.rec", tmp_path):  # the file, and the folder it lies in
        source = catalogue.scan(str(address))
        assert contents(source) == WRITTEN
        assert source.name == tmp_path.name


def test_the_index_says_what_a_record_is_called_and_which_count(tmp_path: Path) -> None:
    write_recordio(tmp_path / "train.rec", PICTURES)
    lines = (tmp_path / "train.idx").read_text().splitlines()
    named = [f"{100 + n}\t{line.split()[1]}\n" for n, line in enumerate(lines)]
    (tmp_path / "train.idx").write_text("".join(reversed(named[:5])))
    expected = [(p.identity, str(100 + n), p.data) for n, p in enumerate(PICTURES[:5])]
    assert contents(catalogue.scan(str(tmp_path))) == expected, "in the order of the bytes, whatever the index's own"


def test_a_payload_that_holds_the_magic_number(tmp_path: Path) -> None:
    """The writer leaves an aligned magic number out and starts a new part there; the reader puts it back."""
    datas = [
        b"abcd" + MAGIC + b"efg",
        MAGIC,
        MAGIC * 3 + b"x",
        b"a" + MAGIC + b"bcd",  # not at a multiple of 4: an ordinary record
        b"plain",
        b"abcd" + MAGIC,
    ]
    write_recordio(tmp_path / "train.rec", [Picture("7", str(n), data) for n, data in enumerate(datas)])
    assert contents(catalogue.scan(str(tmp_path))) == [("7", str(n), data) for n, data in enumerate(datas)]
    kinds = [f.kind for f in scan(tmp_path)]
    assert kinds == ["recordio-parts"] * 3 + ["recordio"] * 2 + ["recordio-parts"]


def test_a_single_part_needs_no_parser_to_be_read(tmp_path: Path) -> None:
    write_recordio(tmp_path / "train.rec", PICTURES, header=True)
    data = (tmp_path / "train.rec").read_bytes()
    for face, picture in zip(scan(tmp_path), PICTURES):
        assert face.offset is not None
        assert face.length is not None
        assert data[face.offset : face.offset + face.length] == picture.data


def test_labels_may_be_many_and_the_first_is_the_person(tmp_path: Path) -> None:
    boxes = [image_record(n, [3.0, 0.5, 0.25], b"image") for n in range(2)]
    (tmp_path / "train.rec").write_bytes(b"".join(boxes))
    assert contents(catalogue.scan(str(tmp_path))) == [("3", "0", b"image"), ("3", "1", b"image")]


def test_several_files_have_keys_of_their_own(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_recordio(tmp_path / f"{name}.rec", PICTURES[:2])
    assert [(f.key, f.uri) for f in scan(tmp_path)] == [
        ("a/1", "a.rec"),
        ("a/2", "a.rec"),
        ("b/1", "b.rec"),
        ("b/2", "b.rec"),
    ]


def test_a_real_file_holds_the_pictures_beside_it(data_root: Path) -> None:
    """Written by MXNet's im2rec; its index is shuffled."""
    where = data_root / "recordio_sample"
    listed = [line.split("\t") for line in (where / "train.lst").read_text().splitlines()]
    expected = {number: (label, (where / path).read_bytes()) for number, label, path in listed}
    found = contents(catalogue.scan(str(where / "train.rec")))
    assert {key: (identity, data) for identity, key, data in found} == expected
    with pytest.raises(DataError, match=r"holds train\.rec and the folder man: which is the source"):
        catalogue.scan(str(where))
    assert len(list(folder.scan(str(where)).faces)) == 8


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "train.rec"
    write_recordio(path, PICTURES, index=False)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"train\.rec, byte \d+: 36 bytes follow but the file ends at \d+; it was cut"):
        scan(path)
    path.write_bytes(whole + MAGIC)
    with pytest.raises(DataError, match=f"byte {len(whole)}: a record starts but the file ends at {len(whole) + 4}"):
        scan(path)
    path.write_bytes(whole[:36] + b"XXXX" + whole[40:])
    with pytest.raises(DataError, match=r"byte 36: 58585858\w+ is not a part of a record, which starts with 0a23d7ce"):
        scan(path)
    path.write_bytes(MAGIC + struct.pack("<I", 2 << 29 | 4) + b"abcd" + whole)
    with pytest.raises(DataError, match=r"byte 0: .* is not a part of a record"):  # a middle without a beginning
        scan(path)
    path.write_bytes(MAGIC + struct.pack("<I", 8) + b"abcdefgh")
    with pytest.raises(DataError, match="8 bytes have no room for a header"):
        scan(path)
    path.write_bytes(MAGIC + struct.pack("<I", 24) + struct.pack("<IfQQ", 1 << 30, 0, 0, 0))
    with pytest.raises(DataError, match="24 bytes have no room for a header and 1073741824 labels"):
        scan(path)


def test_numbers_and_labels_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "train.rec"
    path.write_bytes(b"".join(image_record(0, [1.0], b"x") for _ in range(3)))
    with pytest.raises(DataError, match=r"1 record numbers occur more than once \(0, …\); put the file's own \.idx"):
        scan(path)
    for label in (0.5, float("nan")):
        path.write_bytes(image_record(0, [label], b"x"))
        with pytest.raises(DataError, match=f"record 0 has the label {label}; expected a whole number"):
            scan(path)
    write_recordio(path, [dataclasses.replace(p, identity="0") for p in PICTURES[:2]], header=True)
    (tmp_path / "train.idx").unlink()
    unlabelled = path.read_bytes().replace(image_record(2, [0.0], b"\1\1"), image_record(2, [9.0], b"\1\1"))
    path.write_bytes(unlabelled)
    with pytest.raises(DataError, match=r"record 2 has the label 9, but others in its person's range \(1.0, 3.0\)"):
        scan(path)
    (tmp_path / "train.idx").write_text("0\tzero\n")
    with pytest.raises(DataError, match=r"train\.idx: .* expected lines number<TAB>offset"):
        scan(path)


def test_a_file_that_shrank_after_it_was_catalogued(tmp_path: Path) -> None:
    write_recordio(tmp_path / "train.rec", PICTURES)
    last = scan(tmp_path)[-1]
    (tmp_path / "train.rec").write_bytes((tmp_path / "train.rec").read_bytes()[:-8])
    with pytest.raises(Missing, match="changed since"):
        fetch(str(tmp_path), as_is(tmp_path, last))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1\t0\n2\t-8\n", r"train\.idx: line 2 has the negative -8 as offset"),
        ("1\t0\n-2\t52\n", r"train\.idx: line 2 has the negative -2 as number"),
        ("1\t0\n2\t\n", r"train\.idx: line 2 has no offset; it was cut short"),
        ("1\t0\n2", r"train\.idx: CSV parse error: Expected 2 columns"),
        ("1\t0\n2\t0\n", r"train\.idx: lines 1 and 2 give the same offset 0 to the numbers 1 and 2"),
        ("3\t0\n2\t80\n3\t52\n", r"train\.idx: lines 1 and 3 give the same number 3 to the offsets 0 and 52"),
        ("1\t0\n2\t5\n", "byte 5: .* is not a part of a record"),
        ("1\t0\n2\t99999\n", "byte 99999: a record starts but the file ends"),
        ("", r"train\.idx: Empty CSV file"),
    ],
)
def test_an_index_is_checked(lines: str, message: str, tmp_path: Path) -> None:
    write_recordio(tmp_path / "train.rec", PICTURES)
    (tmp_path / "train.idx").write_text(lines)
    with pytest.raises(DataError, match=message) as refusal:
        scan(tmp_path / "train.rec")
    assert "\n" not in str(refusal.value)


def test_records_that_an_index_leaves_out_are_noted(tmp_path: Path) -> None:
    write_recordio(tmp_path / "TRAIN.REC", PICTURES)
    lines = (tmp_path / "TRAIN.idx").read_text().splitlines(keepends=True)
    (tmp_path / "TRAIN.idx").write_text("".join(lines[:5]))
    source = catalogue.scan(str(tmp_path / "TRAIN.REC"))
    assert len(list(source.faces)) == 5
    left_out = (tmp_path / "TRAIN.REC").stat().st_size - int(lines[5].split()[1])
    assert source.ignored == {"(unlisted)": left_out}


@pytest.mark.parametrize(
    ("number", "labels", "message"),
    [
        (0, [1.0, float("nan")], "record 0 has the labels 1 and nan; expected the range of people"),
        (0, [float("-inf"), 3.0], "record 0 has the labels -inf and 3"),
        (0, [18.0, 13.0], "record 0 has the labels 18 and 13"),
        (0, [13.0, 18.0], "record 0 promises 5 records of people from 13 on, but 4 are there"),
        (0, [13.0, 1e12], "record 0 promises 9.* records of people from 13 on, but 4 are there"),
        (13, [1.0, float("inf")], "record 13 has no image and the labels 1 and inf; expected the range"),
        (13, [float("nan"), 4.0], "record 13 has no image and the labels nan and 4"),
        (13, [4.0, 1.0], "record 13 has no image and the labels 4 and 1"),
    ],
)
@pytest.mark.timeout(20)
def test_records_of_people_are_checked(number: int, labels: list[float], message: str, tmp_path: Path) -> None:
    write_recordio(tmp_path / "train.rec", PICTURES, header=True, index=False)
    data = (tmp_path / "train.rec").read_bytes()
    at = next(
        at
        for at in range(0, len(data), 4)
        if data[at : at + 4] == MAGIC
        and struct.unpack_from("<I", data, at + 8)[0] == 2
        and struct.unpack_from("<Q", data, at + 16)[0] == number
    )
    at += 8 + struct.calcsize("<IfQQ")
    (tmp_path / "train.rec").write_bytes(data[:at] + struct.pack("<2f", *labels) + data[at + 8 :])
    with pytest.raises(DataError, match=message):
        scan(tmp_path / "train.rec")


def test_a_number_beyond_all_records(tmp_path: Path) -> None:
    (tmp_path / "train.rec").write_bytes(image_record(2**64 - 1, [1.0], b"x"))
    with pytest.raises(DataError, match="the record's number 18446744073709551615 is larger than"):
        scan(tmp_path / "train.rec")
