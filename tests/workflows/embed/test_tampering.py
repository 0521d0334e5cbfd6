"""Embeddings that are not what was written: finished ones are refused, units of unfinished ones are done again."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
from support import minted, tampering

from metric_core.artefacts import manifest
from metric_core.artefacts.rows import Part
from metric_core.errors import ArtefactError, Corrupt
from workflows.embed import units
from workflows.embed.done import DoneUnits, remove_damaged
from workflows.embed.store import UnitStore

READ = (r"part-\d+\.parquet", r"tags/part-\d+\.parquet", r"quarantine/part-\d+\.parquet", r"gone\.parquet")
OF_UNITS = (*READ[:3], r"done/\d+\.json")
ROWS = 20
UNITS = units.cut([Part("faces-000000.parquet", ROWS, "")], 5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings, and others of the same faces by another model; of the last unit, a face was rejected."""
    root = tmp_path_factory.mktemp("made")
    for seed, name in enumerate(("mine", "theirs")):
        rejected = [90 + seed]
        vectors = minted.unit_vectors(ROWS, seed=seed)
        ids = range(100 * seed, 100 * seed + ROWS)
        minted.embeddings(root / name, ids, vectors, rejected=rejected, gone=[500 + seed], since=[{"plan_id": "x"}])
        (root / name / manifest.PLAN).write_bytes(manifest.plan_file("embeddings", plan(seed)))
    return root


def plan(seed: int) -> dict[str, object]:
    """Of the embeddings of this seed."""
    return {"seed": seed, "text": "of a length that puts the middle of the file into it, as those of real plans are"}


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """To be damaged."""
    return Path(shutil.copytree(made / "mine", tmp_path / "mine"))


def test_every_kind_of_file_has_a_case(made: Path) -> None:
    tampering.require_every_kind(made / "mine", [*READ, OF_UNITS[-1], r"manifest\.json", r"plan\.json"])


def test_whole_ones_are_read(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tampering.refused(["embeddings", "check", "--embeddings", str(copy)], capsys) is None
    assert remove_damaged(UnitStore(str(copy)), UNITS) == []


@pytest.mark.parametrize(("pattern", "way"), tampering.cells([*READ, r"manifest\.json"]))
def test_finished_ones_are_refused(
    made: Path, copy: Path, pattern: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = tampering.damage(copy, pattern, way, made / "theirs")
    line = tampering.refused(["embeddings", "check", "--embeddings", str(copy)], capsys, listing=True)
    assert line
    assert str(copy) in line
    if name.startswith(("part-", "manifest")):
        export = ["embeddings", "export", "--embeddings", str(copy), "--out", str(copy.parent / "v.npy")]
        assert tampering.refused(export, capsys), "in one line by a job that uses the vectors"
    if pattern in READ:
        assert name in line or way == "swapped"


@pytest.mark.parametrize(("pattern", "way"), tampering.cells([r"plan\.json"]))
def test_a_plan_is_refused_by_the_job_that_continues(made: Path, copy: Path, pattern: str, way: str) -> None:
    tampering.damage(copy, pattern, way, made / "theirs")
    line = tampering.outcome(lambda: manifest.begin(str(copy), "embeddings", plan(0)), ArtefactError)
    assert line
    assert str(copy) in line


def committed(out: Path) -> dict[str, bytes]:
    """The files of units, without the time that they took."""
    found = {
        name: (out / name).read_bytes() for name in tampering.files(out) if name not in (manifest.NAME, manifest.PLAN)
    }
    return {name: data.partition(b'"seconds"')[0] if name.startswith("done") else data for name, data in found.items()}


@pytest.mark.parametrize(("pattern", "way"), tampering.cells(OF_UNITS))
def test_units_of_unfinished_ones_are_done_again(made: Path, copy: Path, pattern: str, way: str) -> None:
    """Only those that were damaged, and to the same files."""
    (copy / manifest.NAME).unlink()
    expected = committed(copy)
    name = tampering.damage(copy, pattern, way, made / "theirs")
    if way == "linked":
        line = tampering.outcome(lambda: manifest.begin(str(copy), "embeddings", plan(0)), Corrupt)
        assert line
        assert name in line
        return
    store = UnitStore(str(copy))
    problems = remove_damaged(store, UNITS)
    if (pattern, way) == (OF_UNITS[-1], "missing"):  # as after a kill: the record follows from the part
        assert not problems
    else:
        assert len(problems) == 1
        assert str(copy) in problems[0]
        left = committed(copy)
        gone = {f for f in expected if "000003" in f}
        assert left == {f: data for f, data in expected.items() if f not in gone}
    (todo,) = DoneUnits(store, UNITS).todo(retry=False)
    assert todo == UNITS[-1]
    if store.finished(todo) is None:
        again = copy.parent / "again"
        minted.embeddings(again, range(ROWS), minted.unit_vectors(ROWS), rejected=[90])
        for f in expected:
            if not (copy / f).exists():
                (copy / f).write_bytes((again / f).read_bytes())
    assert committed(copy) == expected


@pytest.mark.parametrize(
    "text",
    ["", "{", "5", "[]", "null", "{}", '"x"', "edited", "more", "empty"],
)
def test_a_record_of_another_shape(copy: Path, text: str) -> None:
    (copy / manifest.NAME).unlink()
    store, path = UnitStore(str(copy)), copy / "done" / "000001.json"
    whole = asdict(store.record(UNITS[1]))
    texts = {
        "edited": json.dumps(whole | {"rows": 4}),
        "more": json.dumps(whole | {"rows": "5"}),
        "empty": json.dumps(whole | {"rows": 0, "sha256": None, "tags_sha256": None}),
    }
    path.write_text(texts.get(text, text))
    (problem,) = remove_damaged(store, UNITS)
    assert "000001" in problem
    assert DoneUnits(store, UNITS).todo(retry=False) == [UNITS[1]]


def test_the_record_of_a_finished_artefact_is_refused(copy: Path) -> None:
    """Where a retry of its rejects reads it."""
    (copy / "done" / "000001.json").write_text("[]")
    with pytest.raises(Corrupt, match=r"000001\.json is no record of a unit .*; embed again to another --out"):
        DoneUnits(UnitStore(str(copy)), UNITS)


def test_other_files_beside_the_records_are_none(copy: Path) -> None:
    for name in ("x.json", "000001.json.bak", ".000001.json.unfinished", "1.json"):
        (copy / "done" / name).write_text("{}")
    assert not remove_damaged(UnitStore(str(copy)), UNITS)
    assert not DoneUnits(UnitStore(str(copy)), UNITS).todo(retry=False)


def test_a_quarantine_file_follows_from_the_part(copy: Path) -> None:
    """Also where one is there that was damaged when the job was killed."""
    quarantine = copy / "quarantine" / "part-000003.parquet"
    whole = quarantine.read_bytes()
    (copy / "done" / "000003.json").unlink()
    quarantine.write_bytes(whole[:-4])
    assert UnitStore(str(copy)).finished(UNITS[3]) is not None
    assert quarantine.read_bytes() == whole
