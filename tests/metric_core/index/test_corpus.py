"""What an index build reads of its inputs: every part once, checked, and without a string per row."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import minted

from metric_core import storage
from metric_core.artefacts import ids, layout, manifest
from metric_core.artefacts.collection import Collection, Layer
from metric_core.artefacts.embeddings import Embeddings, to_table
from metric_core.errors import Corrupt, SchemaMismatch
from metric_core.index import corpus
from metric_core.index.corpus import Corpus, Part, Rows


def opened(*uris: str) -> Corpus:
    return Corpus.of(Collection.open(",".join(uris)))


def replaced(uri: str, table: pa.Table, number: int = 0) -> Corpus:
    """The artefact with other rows in a part, in the manifest, too: as a job with a fault would write it."""
    found = manifest.read(uri, "embeddings")
    data = layout.to_parquet(table)
    entry = found.content["parts"][number]
    Path(uri, entry["name"]).write_bytes(data)
    entry |= {"rows": table.num_rows, "sha256": hashlib.sha256(data).hexdigest()}
    return Corpus.of(Collection([Layer(Embeddings(found), ids.NONE)]))


def table_of(numbers: list[int], views: list[str | None] | None = None, scale: float = 1.0) -> pa.Table:
    vector_ND = minted.unit_vectors(len(numbers))
    names = [f"p{number}" for number in numbers]
    table = to_table(
        np.array(numbers, np.int64), names, views or [None] * len(numbers), vector_ND, np.ones(len(numbers))
    )
    flat = pa.array((vector_ND * scale).reshape(-1))
    return table.set_column(3, table.schema.field(3), pa.FixedSizeListArray.from_arrays(flat, 8))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_part_is_read_as_it_was_written(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layout.LAYOUT, "row_group_size", 3)
    vector_ND = minted.unit_vectors(12).astype(dtype)
    source = opened(minted.embeddings(tmp_path / "e", range(12), vector_ND, unit=7))
    assert [(part.layer, part.name, part.rows) for part in source.parts] == [
        (0, "part-000000.parquet", 7),
        (0, "part-000001.parquet", 5),
    ]
    assert (source.rows, source.dim) == (12, 8)
    rows = [source.read(part) for part in source.parts]
    assert [row.face_id_N.tolist() for row in rows] == [list(range(7)), list(range(7, 12))]
    assert [row.identity.to_pylist() for row in rows] == [["p0"] * 3 + ["p1"] * 3 + ["p2"], ["p2"] * 2 + ["p3"] * 3]
    assert rows[0].code_N.dtype == np.int32
    assert rows[0].identity.type == pa.dictionary(pa.int32(), pa.string())
    assert [row.view for row in rows] == [None, None]
    assert rows[0].embedding_ND.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(np.concatenate([row.embedding_ND for row in rows]), vector_ND)


def test_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(minted.embeddings(tmp_path / "e", range(12), minted.unit_vectors(12), unit=5))
    read, fetched = storage.read_bytes, []

    def reading(uri: str) -> bytes:
        fetched.append(uri.rsplit("/", 1)[1])
        return read(uri)

    monkeypatch.setattr(storage, "read_bytes", reading)
    monkeypatch.setattr(storage, "open_read", None)
    for part in source.parts:
        source.read(part)
    assert fetched == [part.name for part in source.parts]


def test_views_are_kept_where_there_are_any(tmp_path: Path) -> None:
    uri = minted.embeddings(tmp_path / "e", range(3), minted.unit_vectors(3))
    source = replaced(uri, table_of([3, 4, 5], ["front", None, "side"]))
    rows = source.read(source.parts[0])
    assert rows.view is not None
    assert rows.view.to_pylist() == ["front", None, "side"]
    assert rows.take(np.array([1])).view is None
    assert rows.take(np.array([2, 1])).view.to_pylist() == ["side", None]  # type: ignore[union-attr]


def test_hidden_faces_are_left_out_with_their_names(tmp_path: Path) -> None:
    a = minted.embeddings(tmp_path / "a", range(6), minted.unit_vectors(6), unit=6)
    bases = [{"plan_id": "a", "digest": "x"}]
    b = minted.embeddings(tmp_path / "b", [9], minted.unit_vectors(1), gone=[0, 1, 2, 4], since=bases)
    source = opened(a, b)
    rows = [source.read(part) for part in source.parts]
    assert [row.face_id_N.tolist() for row in rows] == [[3, 5], [9]]
    assert [row.identity.dictionary.to_pylist() for row in rows] == [["p1"], ["p3"]]
    np.testing.assert_array_equal(rows[0].embedding_ND, minted.unit_vectors(6)[[3, 5]])
    assert source.rows == 3


def test_a_changed_part_is_refused(tmp_path: Path) -> None:
    uri = minted.embeddings(tmp_path / "e", range(12), minted.unit_vectors(12), unit=5)
    source = opened(uri)
    Path(uri, "part-000001.parquet").write_bytes(Path(uri, "part-000000.parquet").read_bytes())
    source.read(source.parts[0])
    with pytest.raises(Corrupt, match=r"part-000001.parquet: its sha256 is not the manifest's; embed again"):
        source.read(source.parts[1])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (table_of([3, -7, 5]), "face_id -7 is negative; embed again"),
        (table_of([3, 5, 3]), "face_id 3 is in it twice; embed again"),
        (table_of([3, 5, 7], scale=1.1), "3 of 3 vectors are not unit length"),
        (table_of([3, 5, 7], scale=np.nan), "3 of 3 vectors are not unit length"),
    ],
)
def test_rows_that_no_index_can_hold_are_refused(tmp_path: Path, table: pa.Table, message: str) -> None:
    source = replaced(minted.embeddings(tmp_path / "e", range(3), minted.unit_vectors(3)), table)
    with pytest.raises(Corrupt, match=rf"part-000000.parquet: .*{message}"):
        source.read(source.parts[0])


def test_other_columns_are_refused_by_their_own_types(tmp_path: Path) -> None:
    table = table_of([3, 4, 5]).drop_columns("view")
    table = table.set_column(1, "identity", pa.array([1, 2, 3]))
    source = replaced(minted.embeddings(tmp_path / "e", range(3), minted.unit_vectors(3)), table)
    with pytest.raises(SchemaMismatch, match="identity is int64, not string; view is missing"):
        source.read(source.parts[0])


def test_a_part_without_a_name_is_refused(tmp_path: Path) -> None:
    table = table_of([3, 4, 5]).set_column(1, "identity", pa.array(["a", None, "b"]))
    source = replaced(minted.embeddings(tmp_path / "e", range(3), minted.unit_vectors(3)), table)
    with pytest.raises(SchemaMismatch, match="identity has 1 nulls"):
        source.read(source.parts[0])


def parts(*rows: int) -> list[Part]:
    return [Part(0, f"{number}", count, "") for number, count in enumerate(rows)]


def test_runs_are_the_most_even_ones(tmp_path: Path) -> None:
    collection = Collection.open(minted.embeddings(tmp_path / "e", range(3), minted.unit_vectors(3)))
    generator = np.random.default_rng(3)
    for trial in range(60):
        listed = parts(*generator.integers(1, 30, size=1 + trial % 8).tolist())
        for shards in range(1, 10):
            runs = Corpus(collection, listed).runs(shards)
            assert [part for run in runs for part in run] == listed
            assert len(runs) == min(shards, len(listed))
            cuts = itertools.combinations(range(1, len(listed)), len(runs) - 1)
            bounds = ([0, *cut, len(listed)] for cut in cuts)
            best = min(max(sum(p.rows for p in listed[i:j]) for i, j in itertools.pairwise(b)) for b in bounds)
            assert max(sum(part.rows for part in run) for run in runs) == best


def test_runs_leave_out_empty_parts_and_refuse_no_shards(tmp_path: Path) -> None:
    uri = minted.embeddings(tmp_path / "e", range(3), minted.unit_vectors(3))
    assert replaced(uri, table_of([])).runs(4) == []
    with pytest.raises(ValueError, match="shards must be at least 1, got 0"):
        opened(uri).runs(0)


@pytest.mark.parametrize("at_once", [1_000, 4])
def test_a_face_in_two_parts_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(corpus, "IDS_AT_ONCE", at_once)
    numbers = [*range(20), 12, *range(40, 50)]
    opened(minted.embeddings(tmp_path / "good", range(31), minted.unit_vectors(31))).require_distinct()
    source = opened(minted.embeddings(tmp_path / "bad", numbers, minted.unit_vectors(31)))
    with pytest.raises(Corrupt, match=r"face_id 12 is in two rows, in .*part-000002.parquet and in .*part-000004.parq"):
        source.require_distinct()


def test_a_face_that_is_hidden_once_is_not_there_twice(tmp_path: Path) -> None:
    a = minted.embeddings(tmp_path / "a", range(6), minted.unit_vectors(6))
    bases = [{"plan_id": "a", "digest": "x"}]
    b = minted.embeddings(tmp_path / "b", [3, 9], minted.unit_vectors(2), since=bases)
    opened(a, b).require_distinct()


def test_only_ids_are_read_to_compare_them(tmp_path: Path) -> None:
    """The vectors are damaged, and nobody notices."""
    uri = minted.embeddings(tmp_path / "e", range(300), minted.unit_vectors(300, dim=64), unit=300)
    path = Path(uri, "part-000000.parquet")
    column = pq.read_metadata(path).row_group(0).column(3)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = b"x" * (
        column.total_compressed_size
    )
    path.write_bytes(data)
    opened(uri).require_distinct()
    with pytest.raises(Corrupt):
        opened(uri).read(opened(uri).parts[0])


def test_blocks_become_one(tmp_path: Path) -> None:
    uri = minted.embeddings(tmp_path / "e", range(8), minted.unit_vectors(8), unit=4)
    source = replaced(uri, table_of([20, 21], ["front", None]))
    blocks = [source.read(part) for part in source.parts]
    whole = corpus.concatenate(iter(blocks), 10, 8, "float32")
    assert whole.face_id_N.tolist() == [20, 21, 4, 5, 6, 7]
    assert whole.identity.to_pylist() == ["p20", "p21", "p1", "p1", "p2", "p2"]
    assert whole.view is not None
    assert whole.view.to_pylist() == ["front", *[None] * 5]
    np.testing.assert_array_equal(whole.embedding_ND, np.concatenate([block.embedding_ND for block in blocks]))
    none: Rows = corpus.concatenate([], 0, 8, "float16")
    assert (len(none), none.embedding_ND.shape, none.embedding_ND.dtype) == (0, (0, 8), np.float16)
    assert (none.identity.to_pylist(), none.view) == ([], None)


def test_parts_are_read_from_an_object_store(bucket: str, tmp_path: Path) -> None:
    local = minted.embeddings(tmp_path / "e", range(12), minted.unit_vectors(12))
    for path in Path(local).rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{bucket}/e/{path.relative_to(local)}", path.read_bytes())
    there, here = opened(f"{bucket}/e"), opened(local)
    there.require_distinct()
    for part in here.parts:
        np.testing.assert_array_equal(there.read(part).embedding_ND, here.read(part).embedding_ND)
