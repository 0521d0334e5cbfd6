"""Reading some of a Parquet file fetches little else, and damage is an error that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_core import storage
from metric_core.artefacts import partial
from metric_core.errors import Corrupt, Missing


class Counted:
    """A file that counts the bytes read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.bytes, self.closed = file, 0, False

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.bytes += len(data)
        return data

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """Every file that is opened."""
    opened: list[Counted] = []
    read = storage.open_read

    @contextmanager
    def counting(uri: str, *, ahead: bool) -> Iterator[Counted]:
        with read(uri, ahead=ahead) as file:
            opened.append(Counted(file))
            yield opened[-1]

    monkeypatch.setattr(storage, "open_read", counting)
    return opened


def written(path: Path, columns: int = 2) -> str:
    """Four row groups of 5,000 random numbers per column, which take 40,000 bytes each."""
    number_N = np.random.default_rng(0).integers(0, 1 << 62, 20_000)
    table = pa.table({f"column {n}": number_N + n for n in range(columns)})
    pq.write_table(table, path, row_group_size=5000, use_dictionary=False, compression="none")
    return str(path)


def test_a_footer_is_read_without_the_rows(tmp_path: Path, counted: list[Counted]) -> None:
    with partial.opened(written(tmp_path / "a.parquet"), "") as file:
        assert file.metadata.num_rows == 20_000
    assert counted[0].bytes == partial.TAIL


def test_a_long_footer_is_read_whole(tmp_path: Path, counted: list[Counted]) -> None:
    with partial.opened(written(tmp_path / "a.parquet", columns=40), "") as file:
        assert file.metadata.num_columns == 40
        assert file.metadata.serialized_size > partial.TAIL
    assert counted[0].bytes == partial.TAIL + file.metadata.serialized_size + 8


def test_only_the_wanted_columns_and_groups_are_read(tmp_path: Path, counted: list[Counted]) -> None:
    address = written(tmp_path / "a.parquet")
    whole = pq.read_table(address)
    with partial.opened(address, "") as file:
        footer = file.metadata
        assert file.read(columns=["column 1"]).equals(whole.select(["column 1"]))
    assert counted[0].bytes < partial.TAIL + 4 * 40_000 * 1.01
    with partial.opened(address, "", footer=footer) as file:
        assert file.read_row_groups([1, 3]).equals(pa.concat_tables([whole.slice(5000, 5000), whole.slice(15000)]))
    assert counted[1].bytes < 4 * 40_000 * 1.01


def test_strings_are_read_as_dictionaries_if_wanted(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name": ["a", "b", "a"]}), tmp_path / "a.parquet")
    with partial.opened(str(tmp_path / "a.parquet"), "", coded=["name"]) as file:
        assert file.read()["name"].type == pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize("data", [b"", b"short", b"x" * 9000, b"PAR1" + b"\xff" * 5000 + b"PAR1"])
def test_damage_names_the_file_and_the_remedy(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(data)
    with (
        pytest.raises(Corrupt, match=r"a.parquet: .*; make it again"),
        partial.opened(str(tmp_path / "a.parquet"), "make it again"),
    ):
        pass


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="there is no such file"), partial.opened(str(tmp_path / "a.parquet"), ""):
        pass


def test_files_are_read_ahead_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "AHEAD", 3)
    begun: list[int] = []

    def read(number: int) -> int:
        begun.append(number)
        return number * number

    for number, result in enumerate(partial.ahead(read, range(20))):
        assert result == number * number
        assert len(begun) <= number + 4
    assert sorted(begun) == list(range(20))
