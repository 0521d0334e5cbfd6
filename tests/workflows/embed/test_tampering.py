"""Embeddings that are not what was written: finished ones are refused, units of unfinished ones are done again."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import minted, tampering
from support.tiny import Chain

from metric_core.artefacts import audit, manifest, rows
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.artefacts.rows import Part
from metric_core.errors import ArtefactError, Corrupt
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.embed import job as embed
from workflows.embed import units
from workflows.embed.config import EmbedConfig
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


def catalogued(people: Path, out: Path) -> Faces:
    """Twelve pictures."""
    for name in ("person-0000", "person-0001"):
        shutil.copytree(people / name, out.parent / "corpus" / name)
    catalogue.run(CatalogueConfig(source=str(out.parent / "corpus"), out=str(out)))
    return Faces.open(str(out))


def changed(table: pa.Table, name: str, values: dict[int, str]) -> pa.Table:
    """The rows with other values in some rows of a column."""
    place = table.schema.get_field_index(name)
    column = [values.get(row, value) for row, value in enumerate(table[name].to_pylist())]
    return table.set_column(place, table.schema.field(place), pa.array(column))


@pytest.mark.slow
@pytest.mark.parametrize("older", [False, True], ids=["", "older"])
def test_an_edited_part_of_the_catalogue_is_not_believed(
    chain: Chain, people: Path, tmp_path: Path, older: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person's name is changed, in Parquet that is well formed."""
    faces = catalogued(people, tmp_path / "faces")
    path = tmp_path / "faces" / manifest.NAME
    if older:
        body = json.loads(path.read_text())
        del body["files"], body["files_digest"]
        path.write_text(json.dumps(body))
    edited = changed(faces.table, "identity", {3: "person-0001"})
    pq.write_table(edited, tmp_path / "faces" / faces.parts[0].name, **rows.LAYOUT)
    out = tmp_path / "out"
    line = tampering.refused(["embed", "--faces", faces.uri, "--model", chain.model, "--out", str(out)], capsys)
    assert line
    assert "faces-000000.parquet" in line
    assert not (out / manifest.NAME).exists()


@pytest.mark.slow
def test_a_row_that_points_elsewhere_is_in_the_quarantine(chain: Chain, people: Path, tmp_path: Path) -> None:
    """In Faces that somebody wrote with all their digests: nothing is asked for there, and the job goes on."""
    faces = catalogued(people, tmp_path / "faces")
    uris = [
        "http://127.0.0.1:9/1.jpg",
        "../../etc/passwd",
        f"{people}/person-0002/00.jpg",
        "x\0y.jpg",
        "file:///etc/passwd",
    ]
    content = dict(faces.manifest.content)
    parts = list(rows.write(str(tmp_path / "forged"), [changed(faces.table, "uri", dict(enumerate(uris)))]))
    content["parts"] = [part.entry for part in parts]
    manifest.write(str(tmp_path / "forged"), "faces", content, {}, rows.pieces(str(tmp_path / "forged"), parts))
    config = EmbedConfig(
        faces=str(tmp_path / "forged"), model=chain.model, out=str(tmp_path / "out"), max_bad_fraction=0.5
    )
    answer = embed.run(config)
    assert (answer["embedded"], answer["quarantined"]) == (7, 5)
    (rejects,) = Embeddings.open(str(tmp_path / "out")).iter_quarantine()
    assert set(rejects["reason"].to_pylist()) == {"outside"}
    assert set(rejects["uri"].to_pylist()) == set(uris)
    assert all("catalogue again to another --out" in detail for detail in rejects["detail"].to_pylist())


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [OF_UNITS[0], OF_UNITS[1], OF_UNITS[3]])  # no unit of this chain has rejects
def test_an_embed_that_continues_over_damage_ends_with_the_same_digest(
    chain: Chain, tmp_path: Path, pattern: str
) -> None:
    config = EmbedConfig(faces=chain.faces, model=chain.model, out=chain.embeddings, unit_size=40)
    out = Path(shutil.copytree(chain.embeddings, tmp_path / "out"))
    (out / manifest.NAME).unlink()
    tampering.damage(out, pattern, "flipped", out)
    embed.run(replace(config, out=str(out)))
    assert manifest.read(str(out), "embeddings").digest == manifest.read(chain.embeddings, "embeddings").digest
    assert not list(audit.problems(Embeddings.open(str(out))))
