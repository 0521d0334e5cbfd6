"""How a unit is committed: the part of one writer counts, and all other files of the unit follow from it."""

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_core import storage
from metric_core.artefacts import schema
from metric_core.artefacts.embeddings import from_table, to_table
from metric_core.artefacts.rows import Part
from metric_core.errors import StorageFull
from metric_core.storage import durable
from workflows.embed import units
from workflows.embed.done import DoneUnits
from workflows.embed.store import UnitStore
from workflows.embed.units import Reject, Unit, UnitRecord, UnitResult

UNIT = units.cut([Part("faces-000000.parquet", 6, "")], 6)[0]
SPENT = {"read": 1.0, "decode": 2.0, "forward": 3.0}


def vectors(ids: list[int]) -> pa.Table:
    unit_ND = np.eye(8, dtype=np.float32)[np.arange(len(ids)) % 8]
    return to_table(np.array(ids, np.int64), ["a"] * len(ids), [None] * len(ids), unit_ND, np.ones(len(ids)))


def bad(*ids: int) -> list[Reject]:
    return [Reject(number, f"{number}.jpg", "missing", "gone") for number in ids]


def tags(ids: list[int]) -> pa.Table:
    columns = [pa.array(ids, pa.int64()), pa.array([f"tag-{number}" for number in ids]), pa.array(ids, pa.int64())]
    return pa.Table.from_arrays(columns, schema=schema.TAGS)


def commit(out: str, unit: Unit, embedded: list[int], rejected: list[int]) -> UnitRecord:
    inputs = tags(sorted(embedded + rejected))
    return UnitStore(out).commit(unit, UnitResult(inputs, vectors(embedded), bad(*rejected), SPENT))


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_unit_in_its_four_files(tmp_path: Path) -> None:
    record = commit(str(tmp_path), UNIT, [1, 2, 4], [5, 3])
    assert set(files(tmp_path)) == {
        "tags/part-000000.parquet",
        "part-000000.parquet",
        "quarantine/part-000000.parquet",
        "done/000000.json",
    }
    inputs = schema.check(pq.read_table(tmp_path / "tags/part-000000.parquet"), schema.TAGS, "tags")
    assert inputs.to_pylist()[2] == {"face_id": 3, "content_tag": "tag-3", "row_hash": 3}, "also of rejects"
    assert inputs["face_id"].to_pylist() == [1, 2, 3, 4, 5]
    assert record.tags_sha256 == storage.sha256(str(tmp_path / "tags/part-000000.parquet"))
    assert from_table(pq.read_table(tmp_path / "part-000000.parquet")).face_id_N.tolist() == [1, 2, 4]
    rejects = schema.check(pq.read_table(tmp_path / "quarantine/part-000000.parquet"), schema.QUARANTINE, "q")
    assert [(r["face_id"], r["uri"], r["reason"]) for r in rejects.to_pylist()] == [
        (3, "3.jpg", "missing"),
        (5, "5.jpg", "missing"),
    ], "sorted by face_id"
    assert (record.rows, record.rejected, record.reasons) == (3, 2, {"missing": 2})
    assert record.sha256 == storage.sha256(str(tmp_path / "part-000000.parquet"))
    assert record.quarantine_sha256 == storage.sha256(str(tmp_path / "quarantine/part-000000.parquet"))
    assert set(record.seconds) == {"read", "decode", "forward", "write"}
    assert UnitStore(str(tmp_path)).finished(UNIT) == record
    assert UnitStore(str(tmp_path)).rejects(UNIT).tolist() == [3, 5]


def test_a_second_writer_changes_nothing_and_returns_what_is_there(tmp_path: Path) -> None:
    """A writer that was taken for dead has read the source in another state: one picture less, another one more."""
    first = commit(str(tmp_path), UNIT, [1, 2, 4], [3])
    before = files(tmp_path)
    second = commit(str(tmp_path), UNIT, [1, 3], [2, 4])
    assert files(tmp_path) == before
    assert (second.rows, second.sha256, second.reasons) == (first.rows, first.sha256, first.reasons)


@pytest.mark.parametrize("lost", [["done/000000.json"], ["done/000000.json", "quarantine/part-000000.parquet"]])
def test_a_writer_that_died_after_the_part(tmp_path: Path, lost: list[str]) -> None:
    whole = commit(str(tmp_path), UNIT, [1, 2], [3])
    before = files(tmp_path)
    for name in lost:
        (tmp_path / name).unlink()
    assert not any(DoneUnits(UnitStore(str(tmp_path)), [UNIT]).runs()), "without a record it is not done"
    found = UnitStore(str(tmp_path)).finished(UNIT)
    assert found is not None
    assert (found.rows, found.sha256, found.reasons) == (whole.rows, whole.sha256, whole.reasons)
    now = files(tmp_path)
    assert {k: v for k, v in now.items() if "done" not in k} == {k: v for k, v in before.items() if "done" not in k}
    assert json.loads(now["done/000000.json"])["sha256"] == whole.sha256


def test_units_with_nothing_in_them(tmp_path: Path) -> None:
    record = commit(str(tmp_path), UNIT, [], [])
    assert (record.rows, record.sha256) == (0, None)
    assert set(files(tmp_path)) == {"done/000000.json"}, "an empty unit, for example of another split, has no part"
    other = commit(str(tmp_path / "rejects"), UNIT, [], [1, 2])
    assert (other.rows, other.rejected) == (0, 2)
    assert pq.read_table(tmp_path / "rejects/part-000000.parquet").num_rows == 0


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets ``writes`` writes succeed; the disk is full in the middle of the next one."""

    def after(writes: int) -> None:
        honest, left = Path.write_bytes, [writes]

        def write_bytes(path: Path, data: bytes) -> int:
            left[0] -= 1
            if left[0] >= 0:
                return honest(path, data)
            honest(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", write_bytes)

    return after


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, fail: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    fail(writes)
    with pytest.raises(StorageFull, match=r"No space left on device while writing \S*000000\.\w+; .*free some space"):
        commit(str(tmp_path / "out"), UNIT, [1, 2], [3])
    left = files(tmp_path / "out")
    assert len(left) == writes, "all files are complete, and no temporary file stays"
    monkeypatch.undo()
    done = UnitStore(str(tmp_path / "out")).finished(UNIT)
    assert (done is None) == (writes <= 1), "with the part in place, the rest follows"
    commit(str(tmp_path / "out"), UNIT, [1, 2], [3])
    commit(str(tmp_path / "undisturbed"), UNIT, [1, 2], [3])
    ours, theirs = files(tmp_path / "out"), files(tmp_path / "undisturbed")
    assert ours.pop("done/000000.json") != b""
    assert theirs.pop("done/000000.json") != b""
    assert ours == theirs


def test_done_units_follow_retries(tmp_path: Path) -> None:
    out, todo = str(tmp_path), units.cut([Part("a", 4, ""), Part("b", 3, "")], 2)
    store = UnitStore(out)
    assert [unit.number for unit in DoneUnits(store, todo).todo(retry=False)] == [0, 1, 2, 3]
    commit(out, todo[0], [1, 2], [])
    commit(out, todo[1], [3], [4])
    commit(out, todo[2], [], [5, 6])
    done = DoneUnits(store, todo)
    assert done.todo(retry=False) == [todo[3]]
    again = done.todo(retry=True)
    assert [(unit.number, unit.retry) for unit in again] == [(1, 1), (2, 1), (3, 0)]
    assert [unit.name for unit in again] == ["part-000001-1.parquet", "part-000002-1.parquet", "part-000003.parquet"]
    done.add(again[0], commit(out, again[0], [4], []))
    done.add(again[1], commit(out, again[1], [5], [6]))
    done.add(again[2], commit(out, again[2], [7], []))
    content = done.content()
    assert content == DoneUnits(store, todo).content()
    assert [(part["name"], part["rows"]) for part in content["parts"]] == [
        ("part-000000.parquet", 2),
        ("part-000001.parquet", 1),
        ("part-000001-1.parquet", 1),
        ("part-000002.parquet", 0),
        ("part-000002-1.parquet", 1),
        ("part-000003.parquet", 1),
    ]
    assert [(file["name"], file["rows"]) for file in content["quarantine"]] == [("part-000002-1.parquet", 1)]
    assert [(file["name"], file["rows"]) for file in content["tags"]] == [
        ("part-000000.parquet", 2),
        ("part-000001.parquet", 2),
        ("part-000002.parquet", 2),
        ("part-000003.parquet", 1),
    ], "a retry has no tags"
    (tmp_path / "done" / f".000001.json.x{durable.UNFINISHED}").write_bytes(b"{")
    store.sweep(done.superseded())
    assert [path.name for path in (tmp_path / "quarantine").iterdir()] == ["part-000002-1.parquet"]
    assert len(list((tmp_path / "done").iterdir())) == 6


@pytest.mark.parametrize("left", [[], ["part-000000.parquet"], ["done/000000.json", "quarantine/part-000000.parquet"]])
def test_a_unit_is_undone_for_an_erased_face(tmp_path: Path, left: list[str]) -> None:
    """At whatever step an earlier removal was stopped."""
    out = str(tmp_path)
    commit(out, UNIT, [1, 2], [3])
    commit(out, replace(UNIT, retry=1), [], [3])
    other = replace(UNIT, number=1)
    commit(out, other, [7], [])
    kept = {name: data for name, data in files(tmp_path).items() if "1.json" in name or "part-000001" in name}
    for name in left:
        (tmp_path / name).unlink()
    assert not UnitStore(out).discard(UNIT, np.array([8]))
    assert not UnitStore(out).discard(other, np.array([1, 3]))
    assert UnitStore(out).discard(UNIT, np.array([3]))
    assert files(tmp_path) == {name: data for name, data in kept.items() if not name.startswith("done/000000")}
    assert not UnitStore(out).discard(UNIT, np.array([3])), "it is gone"


@pytest.mark.parametrize(("inputs", "embedded", "rejected"), [([1, 2, 3], [1], [2]), ([1, 2], [1, 3], [2])])
def test_tags_and_part_of_two_writers(
    tmp_path: Path, inputs: list[int], embedded: list[int], rejected: list[int]
) -> None:
    """One from before and one from after face 3 was erased, whichever of them wrote which file first."""
    out = str(tmp_path)
    UnitStore(out).commit(UNIT, UnitResult(tags(inputs), vectors(embedded), bad(*rejected), SPENT))
    assert UnitStore(out).discard(UNIT, np.array([3]))
    assert files(tmp_path) == {}


def test_an_erased_face_among_the_rejects_or_in_a_retry_of_another_writer(tmp_path: Path) -> None:
    out = str(tmp_path)
    UnitStore(out).commit(UNIT, UnitResult(tags([1, 2]), vectors([1]), bad(2, 3), SPENT))
    UnitStore(out).commit(replace(UNIT, retry=1), UnitResult(tags([]), vectors([4]), bad(2), SPENT))
    assert not UnitStore(out).discard(UNIT, np.array([8]))
    before = files(tmp_path)
    for face_id in (3, 4):
        assert UnitStore(out).discard(UNIT, np.array([face_id]))
        assert files(tmp_path) == {}
        for name, data in before.items():
            (tmp_path / name).write_bytes(data)


def test_a_part_without_tags_is_removed(tmp_path: Path) -> None:
    """Written by a writer that was taken for dead, after another one had undone the unit."""
    commit(str(tmp_path), UNIT, [1, 2], [])
    (tmp_path / "tags/part-000000.parquet").unlink()
    (tmp_path / "done/000000.json").unlink()
    assert UnitStore(str(tmp_path)).discard(UNIT, np.array([3]))
    assert files(tmp_path) == {}
