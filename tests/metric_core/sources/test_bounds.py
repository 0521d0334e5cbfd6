"""Sources that claim, or repeat, more than anybody can hold: refused soon, with little memory, in one line."""

import io
import os
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.hostile import scanned
from support.watched import cost

from metric_core import storage
from metric_core.errors import DataError, NotReadable
from metric_core.sources import bounds

MEMORY, CPU_S = 512 << 20, 20


def member(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(path: Path, size: int) -> None:
    with open(path, "wb") as f:
        f.truncate(size)


def tar_of(*pieces: bytes, size: int = 0) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "a.tar"
        path.write_bytes(b"".join(pieces))
        if size:
            os.truncate(path, size)
        return path

    return make


def parquet_of(table: pa.Table, **how: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pq.write_table(table, folder / "a.parquet", compression="zstd", **how)
        return folder / "a.parquet"

    return make


def big_csv(folder: Path) -> Path:
    (folder / "a.csv").write_text('path,identity\na.jpg,"' + "x" * (200 << 20) + '"\n')
    return folder / "a.csv"


LONG = member("././@LongLink", 100, tarfile.GNUTYPE_LONGNAME) + b"x" * 100 + bytes(412)
BIG_NAME = pa.table({"image": [b"x"] * 60, "identity": ["n" * 40_000_000] * 60})
CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a sidecar of 6 GB": (
        tar_of(member("p/1.jpg", 0), member("p/1.json", 6 << 30), size=(6 << 30) + 10752),
        "has over",
    ),
    "a long name of 6 GB": (
        tar_of(member("././@LongLink", 6 << 30, tarfile.GNUTYPE_LONGNAME), size=7 << 30),
        "headers in front of a member are longer",
    ),
    "a PAX header of 6 GB": (tar_of(member("x", 6 << 30, tarfile.XHDTYPE), size=7 << 30), "headers in front of a"),
    "a chain of long names": (tar_of(LONG * 100_000, member("p/1.jpg", 0)), "a.tar"),
    "digits without end": (
        tar_of(member("x", 200_000, tarfile.XHDTYPE) + b"1" * 200_704, member("p/1.jpg", 0)),
        "are not numbers",
    ),
    "a name of 40 MB, 60 times": (parquet_of(BIG_NAME), "identity has 40000000 bytes in row 0; at most 4096"),
    "a list with a name of 40 MB": (
        parquet_of(BIG_NAME.rename_columns(["path", "identity"]).set_column(0, "path", pa.array(["a.jpg"] * 60))),
        "identity has 40000000 bytes in row 0; at most 4096",
    ),
    "a cell of 200 MB": (big_csv, "a.csv"),
    "a device": (lambda _: Path("/dev/zero"), "/dev/zero is a device; a file was expected"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_source_costs_no_more_than_it_is_worth(name: str, tmp_path: Path) -> None:
    make, expected = CASES[name]
    found = cost("support.hostile:scanned", str(make(tmp_path)), timeout=100)
    assert expected in found.answer, found
    assert found.cpu < CPU_S
    assert found.peak < MEMORY


def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name, kind in {"pipe": "a named pipe", "link": "a device"}.items():
        with pytest.raises(NotReadable, match=f"{name} is {kind}; a file was expected"):
            storage.read_bytes(str(tmp_path / name))
        (answer,) = storage.read_many([(str(tmp_path / name), 0, None)])
        assert isinstance(answer, NotReadable)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    sparse(tmp_path / "large", 6 << 40)
    with pytest.raises(NotReadable, match="has 6597069766656 bytes; at most 4294967296 were expected"):
        storage.read_bytes(str(tmp_path / "large"))
    assert storage.read_bytes(str(tmp_path / "large"), 100, 3) == bytes(3), "a part of it is"


def test_headers_are_counted_for_each_member() -> None:
    headers = bounds.Headers(io.BytesIO(bytes(4 * bounds.HEADERS)), "x.tar")
    for _ in range(3):
        headers.read(bounds.HEADERS)
        headers.taken = 0
    headers.read(bounds.HEADERS)
    with pytest.raises(DataError, match="longer than"):
        headers.read(1)


def test_a_record_of_people_that_are_not_there(tmp_path: Path) -> None:
    data = struct.pack("<IfQQ", 2, 0, 0, 0) + struct.pack("<2f", 1, 1e12)
    (tmp_path / "a.rec").write_bytes(b"\x0a\x23\xd7\xce" + struct.pack("<I", len(data)) + data)
    assert "promises 999,999,995,903 records of people" in scanned(str(tmp_path / "a.rec"))
