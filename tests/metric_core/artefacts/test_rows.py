"""Catalogue rows in parts: written as a stream, read by range, digested by value, counted, and ids made unique."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_core.artefacts import faces, manifest, rows, schema
from metric_core.artefacts.faces import Faces
from metric_core.errors import ConfigError, Corrupt, DataError, SchemaMismatch
from metric_core.sources import catalogue
from metric_core.sources.found import Found


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of 4 rows and parts of 12."""
    monkeypatch.setattr(rows, "ROW_GROUP", 4)
    monkeypatch.setattr(rows, "ROWS_PER_PART", 12)


def found(count: int, start: int = 0) -> list[Found]:
    """Faces of people with three pictures each; every seventh has a view."""
    return [
        Found(f"p{n // 3}", f"p{n // 3}/{n}", f"p{n // 3}/{n}.jpg", f"{n}-é", view="id" if n % 7 == 0 else None)
        for n in range(start, start + count)
    ]


def tables(count: int, cut: int) -> Iterator[pa.Table]:
    for start in range(0, count, cut):
        table = catalogue.to_table(found(min(cut, count - start), start), "n")
        yield catalogue.with_splits(table, {"p0": "valid", "p1": "train"})


def written(tmp_path: Path, count: int, cut: int) -> Faces:
    content = catalogue.write(str(tmp_path), tables(count, cut), "n")
    pieces = rows.pieces(str(tmp_path), [rows.Part(**part) for part in content["parts"]])
    manifest.write(str(tmp_path), "faces", {"root": "r", "namespace": "n", **content}, {}, pieces)
    return Faces.open(str(tmp_path))


@pytest.mark.parametrize("cut", [1, 5, 12, 100])
@pytest.mark.parametrize("count", [1, 4, 12, 13, 31])
def test_parts_do_not_depend_on_how_the_stream_is_cut(small_parts: None, tmp_path: Path, count: int, cut: int) -> None:
    one, other = written(tmp_path / "one", count, cut), written(tmp_path / "other", count, 7)
    assert one.manifest.digest == other.manifest.digest
    assert [part.rows for part in one.parts] == [12] * (count // 12) + ([count % 12] if count % 12 else [])
    assert [part.name for part in one.parts] == [f"faces-{n:06d}.parquet" for n in range(-(-count // 12))]
    assert one.table.equals(pa.concat_tables(tables(count, count)))
    for part in one.parts:
        footer = pq.ParquetFile(tmp_path / "one" / part.name).metadata
        assert all(footer.row_group(n).num_rows == 4 for n in range(footer.num_row_groups - 1))


def test_a_range_is_a_slice_and_only_its_row_groups_are_read(small_parts: None, tmp_path: Path) -> None:
    source = written(tmp_path, 31, 31)
    part, whole = source.parts[1], source.table.slice(12, 12)
    columns = source.columns(["face_id", "uri"])
    for first in range(12):
        for last in range(first + 1, 13):
            got = rows.read_range(source.uri, part, first, last, columns)
            assert got.equals(whole.select(columns.names).slice(first, last - first))
    path = tmp_path / part.name
    metadata = pq.ParquetFile(path).metadata
    chunk = metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 0xFF  # face_ids of rows 4 to 8
    path.write_bytes(data)
    assert rows.read_range(source.uri, part, 0, 4, columns).num_rows == 4, "the damaged row group is not read"
    with pytest.raises(Corrupt, match=part.name):
        rows.read_range(source.uri, part, 0, 5, columns)
    with pytest.raises(Corrupt, match="sha256 is not the manifest's"):
        rows.read(source.uri, part)


def test_a_range_of_a_part_whose_writer_was_wrong(tmp_path: Path) -> None:
    """Its digests are right, so that it is what was written."""
    source = written(tmp_path, 31, 31)
    whole = source.table
    others = {
        "uri is missing": whole.drop_columns(["uri"]),
        "uri is large_string, not string": whole.set_column(
            whole.column_names.index("uri"), "uri", whole["uri"].cast(pa.large_string())
        ),
    }
    for problem, table in others.items():
        pq.write_table(table, tmp_path / "faces-000007.parquet", row_group_size=4, **rows.LAYOUT)
        digest = hashlib.sha256((tmp_path / "faces-000007.parquet").read_bytes()).hexdigest()
        part = rows.Part("faces-000007.parquet", 31, digest)
        with pytest.raises(SchemaMismatch, match=f"faces-000007.parquet: {problem}; expected columns face_id, uri"):
            rows.read_range(source.uri, part, 0, 5, source.columns(["face_id", "uri"]))


def without_pieces(source: Faces) -> Faces:
    """As older versions of Likeness wrote it."""
    path = Path(source.uri, manifest.NAME)
    body = json.loads(path.read_text())
    assert body.pop("files")
    path.write_text(json.dumps(body))
    found = Faces.open(source.uri)
    assert found.manifest.digest == source.manifest.digest
    assert not any(part.pieces for part in found.parts)
    return found


@pytest.mark.parametrize("older", [False, True])
def test_a_range_of_a_part_that_was_edited_is_not_used(small_parts: None, tmp_path: Path, older: bool) -> None:
    """Well-formed Parquet, with checksums of its own: in some rows another person, or fewer rows."""
    source = written(tmp_path, 31, 31)
    source = without_pieces(source) if older else source
    part = source.parts[0]
    whole, data = rows.read(source.uri, part), (tmp_path / part.name).read_bytes()
    place = whole.schema.get_field_index("identity")
    names = pa.array(["zoe", *whole["identity"].to_pylist()[1:]])
    for edited in (whole.set_column(place, schema.FACES.field(place), names), whole.slice(0, 9)):
        pq.write_table(edited, tmp_path / part.name, row_group_size=4, **rows.LAYOUT)
        for columns in (["identity"], ["face_id"]):
            with pytest.raises(Corrupt, match=part.name):
                rows.read_range(source.uri, part, 0, 1, source.columns(columns))
    (tmp_path / part.name).write_bytes(data)
    assert rows.read_range(source.uri, part, 2, 7, source.columns(["key"])).equals(whole.select(["key"]).slice(2, 5))


@pytest.mark.parametrize("found", [None, {}, [], {"sha256": "other"}, {"pieces": [[4, "x"], [2, "y"]]}, {"pieces": 7}])
def test_pieces_that_are_damaged_or_of_other_bytes_are_none(found: Any) -> None:
    part = rows.Part("faces-000000.parquet", 3, "abc")
    found = {"sha256": "abc"} | found if isinstance(found, dict) else found
    assert rows.with_pieces(part, found).pieces == ()
    sound = {"sha256": "abc", "pieces": [[4, "x"], [6, "y"]]}
    assert rows.with_pieces(part, sound).pieces == ((4, "x"), (6, "y"))
    assert rows.with_pieces(part, sound) == part, "it is the same part"


def test_a_manifest_that_says_another_number_of_rows(tmp_path: Path) -> None:
    source = written(tmp_path, 31, 31)
    part = dataclasses.replace(source.parts[0], rows=30)
    with pytest.raises(Corrupt, match="31 rows, the manifest says 30"):
        rows.read_range(source.uri, part, 0, 5, source.columns(["face_id"]))


def test_splits_are_counted_and_found(small_parts: None, tmp_path: Path) -> None:
    source = written(tmp_path, 31, 5)
    assert source.manifest.content["splits"] == {
        "train": {"rows": 3, "identities": 1},
        "valid": {"rows": 3, "identities": 1},
    }
    assert (source.count(None), source.count("valid"), source.manifest.content["identities"]) == (31, 3, 11)
    assert source.select("valid")["key"].to_pylist() == ["p0/0", "p0/1", "p0/2"]
    with pytest.raises(ConfigError, match="has no split 'test'; it has: train, valid"):
        source.count("test")


@pytest.mark.parametrize("change", ["null", "text", "order", "moved"])
def test_the_digest_sees_every_value(change: str) -> None:
    table = next(tables(31, 31))
    column = table["view"].to_pylist()
    if change == "null":
        column[0], column[1] = None, ""
    elif change == "text":
        column[7] = "di"
    elif change == "order":
        column = column[::-1]
    else:  # the same values in other rows
        column[1], column[7] = "i", "d"
    place = table.schema.get_field_index("view")
    assert digest(table) != digest(table.set_column(place, schema.FACES.field(place), pa.array(column, pa.string())))
    assert digest(table) == digest(pa.concat_tables([table.slice(0, 3), table.slice(3)]))


def digest(table: pa.Table) -> str:
    computed = rows.Digest()
    assert sum(t.num_rows for t in computed.over([table])) == table.num_rows
    return computed.hexdigest()


def test_ids_that_collide_are_settled_across_parts(
    small_parts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = faces.face_id
    clash = {("p1/3", 0): 7, ("p9/29", 0): 7}
    monkeypatch.setattr(faces, "face_id", lambda space, key, salt=0: clash.get((key, salt), original(space, key, salt)))
    source = written(tmp_path, 31, 5)
    ids = dict(zip(source.table["key"].to_pylist(), source.table["face_id"].to_pylist()))
    assert source.manifest.content["salts"] == {"p9/29": 1}
    assert (ids["p1/3"], ids["p9/29"]) == (7, original("n", "p9/29", 1))
    assert len(set(ids.values())) == 31


def test_a_person_in_two_splits_and_a_key_twice_are_refused(small_parts: None, tmp_path: Path) -> None:
    def stream(last: Found) -> Iterator[pa.Table]:
        yield from tables(31, 5)
        yield catalogue.to_table([last], "n")

    with pytest.raises(DataError, match="p0 is in split valid and in train; a person must be in one split"):
        catalogue.write(str(tmp_path / "1"), stream(Found("p0", "new", "x", "t", split="train")), "n")
    with pytest.raises(DataError, match="the key 'p2/6' and 0 more occur twice"):
        catalogue.write(str(tmp_path / "2"), stream(Found("p2", "p2/6", "x", "t")), "n")


def test_parts_of_an_earlier_attempt_are_deleted(small_parts: None, tmp_path: Path) -> None:
    catalogue.write(str(tmp_path), tables(40, 40), "n")
    source = written(tmp_path, 13, 13)
    assert sorted(p.name for p in tmp_path.glob("*.parquet")) == [part.name for part in source.parts]


def test_ids_of_many_rows_are_settled_quickly() -> None:
    id_N = np.random.default_rng(0).integers(0, 2**62, 2_000_000)
    id_N[77] = id_N[1_999_999]
    asked: list[int] = []

    def keys_of(row_M: np.ndarray) -> list[str]:
        asked.extend(row_M.tolist())
        return ["b", "a"]

    assert catalogue.resolve_collisions(id_N, keys_of, "n") == ({77: faces.face_id("n", "b", 1)}, {"b": 1})
    assert asked == [77, 1_999_999], "no other key is looked at"
