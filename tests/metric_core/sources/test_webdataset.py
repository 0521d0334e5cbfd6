import bz2
import dataclasses
import gzip
import itertools
import lzma
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.packed import PICTURES, contents, scan, written
from support.shard_writers import Picture, webdataset, write_tar

from metric_core import storage
from metric_core.errors import DataError, Missing
from metric_core.sources import catalogue
from metric_core.sources.fetching import fetch
from metric_core.storage import addresses


def test_a_folder_a_tar_and_patterns(tmp_path: Path) -> None:
    for shard in range(4):
        write_tar(tmp_path / f"set-{shard:03d}.tar", webdataset(PICTURES[shard * 3 : shard * 3 + 3]))
    (tmp_path / "sizes.json").write_text("{}")
    expected = written(PICTURES)
    for address, first, last in (
        ("", 0, 12),
        ("set-001.tar", 3, 6),
        ("set-00[12].tar", 3, 9),
        ("set-*.tar", 0, 12),
        ("set-{000..002}.tar", 0, 9),
        ("set-00{1,2}.tar", 3, 9),
        ("set-{00{1,2},003}.tar", 3, 12),
    ):
        source = catalogue.scan(str(tmp_path / address))
        assert contents(source) == expected[first:last], address
        assert (source.name, source.root) == (tmp_path.name, str(tmp_path)), "ids do not depend on how it was named"
    with pytest.raises(Missing, match="no file matches"):
        catalogue.scan(str(tmp_path / "set-9*.tar"))
    with pytest.raises(Missing, match=r"set-004\.tar: there is no such file"):
        scan(tmp_path / "set-{003..004}.tar")


def test_who_it_is(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "x.tar",
        {
            "1.cls": b"17\n",
            "1.jpg": b"1",
            "2.jpg": b"2",
            "2.json": b'{"label": 18, "width": 9}',
            "2.txt": b"a caption",
            "3.jpg": b"3",
            "3.json": b'{"label": 19, "identity": "Ann Lee"}',
            "4.jpg": b"4",
            "4.json": b'{"width": 9}',
            "4.txt": "Zoë\n".encode(),
            "./deep/Bob/5.png": b"5",
            "deep/Bob/5.cls": b"",
            "6.cls": b"20",
            "6.jpg": b"6",
            "6.json": b'{"label": null}',
        },
    )
    faces = [(f.identity, f.key) for f in scan(tmp_path / "x.tar")]
    assert faces == [("17", "1"), ("18", "2"), ("Ann Lee", "3"), ("Zoë", "4"), ("Bob", "deep/Bob/5"), ("20", "6")]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.jpg": b""}, r"1 has no identity; expected 1\.cls"),
        ({"1.jpg": b"", "1.json": b"[1]"}, r"1\.json holds \[1\]; expected an object"),
        ({"1.jpg": b"", "1.json": b"{"}, "a sidecar of 1 is not text"),
        ({"1.jpg": b"", "1.cls": b"\xff"}, "a sidecar of 1 is not text"),
        ({"1.jpg": b"", "1.json": b'{"label": [1, 2]}'}, r"1\.json has the identity \[1, 2\]"),
        (
            {"A/Ann.1.jpg": b"", "A/Ann.2.jpg": b"", "A/Ann.cls": b"1"},
            r"A/Ann has the pictures \.1\.jpg, \.2\.jpg: which is the face",
        ),
    ],
)
def test_samples_that_cannot_be_read(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match=message):
        scan(tmp_path / "x.tar")


def test_what_else_a_sample_may_hold(tmp_path: Path) -> None:
    """Names are cut at the first dot: a mask is no face, and one odd name is a name."""
    members = {"A/1.jpg": b"one", "A/1.mask.png": b"m", "A/1.npy": b"n"}
    members |= {"A/3.v2.JPG": b"three", "A/._3.jpg": b"apple", "A/.x": b"", "README": b""}
    write_tar(tmp_path / "x.tar", members)
    source = catalogue.scan(str(tmp_path / "x.tar"))
    assert contents(source) == [("A", "A/1", b"one"), ("A", "A/3", b"three")]
    assert source.ignored == {".mask.png": 1, ".npy": 1, "(none)": 1}


def test_names_of_any_length_in_any_header(tmp_path: Path) -> None:
    long = "ä" * 90 + "/" + "b" * 200 + "/Zoë/1.jpg"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        write_tar(tmp_path / "x.tar", {long: b"data"}, form)
        source = catalogue.scan(str(tmp_path / "x.tar"))
        assert contents(source) == [("Zoë", long[:-4], b"data")]
    with tarfile.open(tmp_path / "x.tar", "w:", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("Zoë/1.jpg"))
    assert scan(tmp_path / "x.tar")[0].identity == r"Zo\xeb", "no UTF-8: shown, and never lost"


def test_hard_links_are_pictures_and_holes_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "A").mkdir(parents=True)
    picture = tmp_path / "in" / "A" / "1.jpg"
    picture.write_bytes(b"x" * 5000)
    (tmp_path / "in" / "A" / "2.jpg").hardlink_to(picture)
    (tmp_path / "in" / "A" / "3.jpg").symlink_to("1.jpg")
    pack = ["tar", "--sparse", "--sort=name", "-C", str(tmp_path / "in"), "-cf", str(tmp_path / "x.tar"), "A"]
    subprocess.run(pack, check=True)
    source = catalogue.scan(str(tmp_path / "x.tar"))
    assert contents(source) == [("A", "A/1", b"x" * 5000), ("A", "A/2", b"x" * 5000)]
    assert source.ignored == {"(link)": 1}
    with picture.open("wb") as f:
        f.seek(1 << 20)
        f.write(b"x" * 5000)
    subprocess.run(pack, check=True)
    with pytest.raises(DataError, match=r"A/1\.jpg is a sparse file"):
        scan(tmp_path / "x.tar")


def test_compressed_tars_are_refused_by_name_and_by_content(tmp_path: Path) -> None:
    write_tar(tmp_path / "plain.tar", webdataset(PICTURES))
    data = (tmp_path / "plain.tar").read_bytes()
    zstandard = bytes.fromhex("28b52ffd") + data[:100]
    for how, packed in (
        ("gzip", gzip.compress(data)),
        ("bzip2", bz2.compress(data)),
        ("xz", lzma.compress(data)),
        ("zstandard", zstandard),
    ):
        (tmp_path / "plain.tar").write_bytes(packed)
        with pytest.raises(DataError, match=rf"plain\.tar is compressed \({how}\).*unpack it"):
            scan(tmp_path / "plain.tar")
    for name in ("a.tar.gz", "a.tgz", "a.tar.zst"):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=r"is compressed \(\.\w+\).*unpack it"):
            catalogue.scan(str(tmp_path / name))
        with pytest.raises(DataError, match="is compressed"):
            catalogue.scan(str(tmp_path))
        (tmp_path / name).unlink()


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """tarfile by itself takes a broken header for the end of the tar, and faces would be lost without a word."""
    write_tar(tmp_path / "x.tar", webdataset(PICTURES[:3]))
    data = (tmp_path / "x.tar").read_bytes()
    with tarfile.open(tmp_path / "x.tar") as tar:
        end = tar.getmembers()[-1].offset_data + 512
    for length in range(0, end, 256):
        (tmp_path / "x.tar").write_bytes(data[:length])
        with pytest.raises(DataError, match="damaged or was cut short"):
            scan(tmp_path / "x.tar")
    (tmp_path / "x.tar").write_bytes(data[:512] + b"?" * 512 + data[1024:])
    with pytest.raises(DataError, match="at byte 512"):
        scan(tmp_path / "x.tar")


def test_keys_that_repeat_from_shard_to_shard(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", webdataset(PICTURES[:1]))
    table = catalogue.to_table(scan(tmp_path), "n")
    with pytest.raises(DataError, match=r"'0000' and 0 more occur twice; .* --namespace"):
        catalogue.write(str(tmp_path / "faces"), [table], "n")


def test_formats_are_not_mixed(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {})
    (tmp_path / "b.rec").touch()
    with pytest.raises(DataError, match=r"holds \.rec and \.tar files: which"):
        catalogue.scan(str(tmp_path))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"notes\.txt is none of"):
        catalogue.scan(str(tmp_path / "*.txt"))


def test_a_tar_in_an_object_store_is_read_once(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs.core import S3File

    pictures = [Picture("A", f"{n:04d}", bytes(20_000)) for n in range(50)]
    write_tar(tmp_path / "x.tar", webdataset(pictures))
    data = (tmp_path / "x.tar").read_bytes()
    storage.write_bytes(f"{bucket}/set/x-0.tar", data)
    spans: list[tuple[int, int]] = []
    honest = S3File._fetch_range

    def counted(self: S3File, start: int, end: int) -> bytes:
        spans.append((start, end))
        return honest(self, start, end)

    monkeypatch.setattr(S3File, "_fetch_range", counted)
    monkeypatch.setattr(addresses.file_system(bucket)[0], "default_block_size", 1 << 16)
    source = catalogue.scan(f"{bucket}/set/x-{{0..0}}.tar")
    found = list(source.faces)
    assert [f.key for f in found] == [p.key for p in pictures]
    assert len(spans) > 5
    assert sum(end - start for start, end in spans) <= len(data)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans)), "forwards only"
    assert fetch(source.root, dataclasses.asdict(found[-1])) == bytes(20_000)
    assert [f.uri for f in catalogue.scan(f"{bucket}/set/*.tar").faces] == ["x-0.tar"] * 50
