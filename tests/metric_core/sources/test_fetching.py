"""Many images at once: the same bytes as one at a time, in few reads."""

import dataclasses
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pytest
from support.packed import as_is, scan
from support.shard_writers import MAGIC, Picture, webdataset, write_parquet, write_recordio, write_tar

from metric_core import storage
from metric_core.errors import ImageUnreadable, Missing
from metric_core.sources import catalogue, fetching, parquet
from metric_core.sources.fetching import fetch, fetch_many
from metric_core.storage import reading

PICTURES = [Picture(str(n // 3), str(n), (MAGIC if n % 5 == 0 else b"") + bytes([n]) * (211 * n)) for n in range(30)]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[storage.Range]:
    """Every range that storage is asked for."""
    asked: list[storage.Range] = []
    honest = storage.read_many

    def counted(wanted: Sequence[storage.Range], most: int) -> list[storage.ReadResult]:
        asked.extend(wanted)
        return honest(wanted, most)

    monkeypatch.setattr(storage, "read_many", counted)
    return asked


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "there") if request.param == "local" else request.getfixturevalue("bucket")


def test_all_formats_in_one_call(place: str, tmp_path: Path) -> None:
    """Rows in any order, of any format, with what is gone between them."""
    (tmp_path / "made" / "tree").mkdir(parents=True)
    for p in PICTURES[:6]:
        (tmp_path / "made" / "tree" / f"{p.key}.jpg").write_bytes(p.data)
    write_recordio(tmp_path / "made" / "x.rec", PICTURES)
    write_tar(tmp_path / "made" / "x.tar", webdataset(PICTURES))
    write_parquet(tmp_path / "made" / "x.parquet", PICTURES, row_group=7)
    rows: list[tuple[dict, bytes]] = [({"uri": f"tree/{p.key}.jpg"}, p.data) for p in PICTURES[:6]]
    for file in (path.relative_to(tmp_path / "made") for path in (tmp_path / "made").rglob("*") if path.is_file()):
        storage.write_bytes(storage.join(place, str(file)), (tmp_path / "made" / file).read_bytes())
    for form in ("rec", "tar", "parquet"):
        source = catalogue.scan(storage.join(place, f"x.{form}"))
        rows += [(dataclasses.asdict(f), p.data) for f, p in zip(source.faces, PICTURES, strict=True)]
    locators = [dict.fromkeys(fetching.LOCATOR) | {"kind": "file"} | row for row, _ in rows]
    gone = [dict(locators[0], uri=uri) for uri in ("no.jpg", "tree/no.jpg")] + [dict(locators[40], uri="no.tar")]
    order = random.Random(0).sample(range(len(locators)), len(locators))
    answers = fetch_many(place, [locators[at] for at in order] + gone)
    assert answers[: len(rows)] == [rows[at][1] for at in order]
    assert all(isinstance(answer, Missing) for answer in answers[len(rows) :])
    assert [str(answer) for answer in answers[-3:]] == [
        f"{place}/{uri}: there is no such file" for uri in ("no.jpg", "tree/no.jpg", "no.tar")
    ]
    assert [fetch(place, locator) for locator in locators] == [data for _, data in rows]
    with pytest.raises(Missing, match=r"no\.tar"):
        fetch(place, gone[2])


def test_a_shard_is_read_at_once(tmp_path: Path, reads: list[storage.Range]) -> None:
    write_tar(tmp_path / "x.tar", webdataset(PICTURES[1:]))
    rows = [dataclasses.asdict(f) for f in catalogue.scan(str(tmp_path / "x.tar")).faces]
    assert fetch_many(str(tmp_path), rows) == [p.data for p in PICTURES[1:]]
    first, last = rows[0]["offset"], rows[-1]["offset"] + rows[-1]["length"]
    assert reads == [(str(tmp_path / "x.tar"), first, last - first)]


def test_gaps_and_lengths_bound_what_is_read_together(
    tmp_path: Path, reads: list[storage.Range], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "GAP", 10)
    monkeypatch.setattr(fetching, "SPAN", 50)
    (tmp_path / "x").write_bytes(bytes(range(256)))

    def spans(*ranges: tuple[int, int]) -> list[tuple[int, int | None]]:
        here = {"kind": "tar", "uri": "x", "content_tag": storage.content_tag(str(tmp_path / "x"))}
        rows = [here | {"offset": offset, "length": length} for offset, length in ranges]
        reads.clear()
        assert fetch_many(str(tmp_path), rows) == [bytes(range(o, o + n)) for o, n in ranges]
        return [(offset, length) for _, offset, length in reads]

    assert spans((0, 5), (15, 5)) == [(0, 20)], "a gap of 10"
    assert spans((0, 5), (16, 5)) == [(0, 5), (16, 5)], "a gap of 11"
    assert spans((40, 10), (0, 20), (20, 20)) == [(0, 50)], "in any order, as long as may be"
    assert spans((0, 20), (20, 31)) == [(0, 20), (20, 31)], "one byte more"
    assert spans((0, 200), (200, 5)) == [(0, 200), (200, 5)], "a large image by itself"
    assert spans((0, 30), (5, 5), (30, 5)) == [(0, 35)], "one within another, as two rows may share an image"
    assert spans((7, 0), (9, 3)) == [(9, 3)], "no bytes, no read"
    assert spans() == []


def test_a_row_group_is_read_once_in_whatever_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "x.parquet", PICTURES, row_group=4)
    rows = [dataclasses.asdict(f) for f in catalogue.scan(str(tmp_path / "x.parquet")).faces]
    read: list[int] = []
    honest = parquet._read
    monkeypatch.setattr(parquet, "CACHE", 1)
    monkeypatch.setattr(parquet, "_groups", parquet._Groups())
    monkeypatch.setattr(
        parquet, "_read", lambda address, group, column: read.append(group) or honest(address, group, column)
    )
    order = random.Random(0).sample(range(30), 30)
    assert fetch_many(str(tmp_path), [rows[at] for at in order]) == [PICTURES[at].data for at in order]
    assert read == list(range(8))


def test_a_shard_that_changed_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows may be other people's now, which nothing else would show."""
    for form in ("rec", "tar", "parquet"):
        path = tmp_path / f"x.{form}"
        write = {"rec": write_recordio, "parquet": write_parquet, "tar": lambda p, q: write_tar(p, webdataset(q))}[form]
        write(path, PICTURES)
        rows = [dataclasses.asdict(f) for f in catalogue.scan(str(path)).faces]
        write(path, PICTURES[::-1])
        os.utime(path, ns=(0, 0))
        (tmp_path / "whole.jpg").write_bytes(b"whole")
        of_its_own = dict(rows[0], kind="file", uri="whole.jpg", offset=None, length=None, row_group=None)
        *answers, alone = fetch_many(str(tmp_path), [*rows, of_its_own])
        assert all(isinstance(answer, ImageUnreadable) for answer in answers)
        assert re.match(r"changed: .*/x\..* is \d+-0 and was .* catalogue again to another --out", str(answers[0]))
        assert alone == b"whole"
    rows[0]["content_tag"] = storage.content_tag(str(path))
    assert fetch(str(tmp_path), rows[0]) == PICTURES[-1].data
    os.utime(path, ns=(1, 1))
    assert fetch(str(tmp_path), rows[0]) == PICTURES[-1].data, "it was looked at a moment ago"
    monkeypatch.setattr(fetching, "FRESH_S", 0.0)
    with pytest.raises(ImageUnreadable, match="changed: "):
        fetch(str(tmp_path), rows[0])


def test_what_cannot_be_opened_costs_only_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.jpg").mkdir()
    for name in ("whole.jpg", "locked.jpg"):
        (tmp_path / name).write_bytes(b"whole")
    honest = reading.open_read

    def locked(uri: str, **how: bool) -> BinaryIO:
        if "locked" in uri:  # whoever runs the tests may be allowed everything
            raise PermissionError(13, "Permission denied", uri)
        return honest(uri, **how)

    monkeypatch.setattr(reading, "open_read", locked)
    names = ("folder.jpg", "whole.jpg", "locked.jpg", "whole.jpg/x.jpg", f"{'x' * 300}.jpg")
    rows = [dict.fromkeys(fetching.LOCATOR) | {"kind": "file", "uri": name} for name in names]
    for order in (rows, rows * 5):  # the first ones are read in another way than those that follow
        answers = fetch_many(str(tmp_path), order)[-len(rows) :]
        assert answers[1] == b"whole"
        for answer in (*answers[:1], *answers[2:]):
            assert isinstance(answer, ImageUnreadable)
            assert str(answer).startswith(f"unreadable: {tmp_path}/")

    def broken(uri: str, **how: bool) -> BinaryIO:
        raise OSError(5, "Input/output error", uri)

    monkeypatch.setattr(reading, "open_read", broken)
    with pytest.raises(OSError, match="Input/output error"):  # it may pass, so it is asked again
        fetch_many(str(tmp_path), rows)


def test_a_damaged_shard_costs_only_its_rows(tmp_path: Path) -> None:
    write_recordio(tmp_path / "x.rec", PICTURES)
    found = scan(tmp_path / "x.rec")
    data = (tmp_path / "x.rec").read_bytes()
    record = found[25].offset
    (tmp_path / "x.rec").write_bytes(data[:record] + b"oops" + data[record + 4 : found[28].offset + 5])
    answers = fetch_many(str(tmp_path), [as_is(tmp_path, face) for face in found])
    assert answers[:25] == [p.data for p in PICTURES[:25]]
    assert isinstance(answers[25], ImageUnreadable)
    assert str(answers[25]).startswith("corrupt: ")
    assert answers[26:28] == [p.data for p in PICTURES[26:28]]
    assert all("changed since" in str(answer) and isinstance(answer, Missing) for answer in answers[28:])
