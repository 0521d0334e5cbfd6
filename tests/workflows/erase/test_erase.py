"""Whoever is erased is gone from every artefact, everybody else stays as they were, and nothing brings them back."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import erasable
from support.erasable import EACH, PEOPLE, TWIN, World

from metric_core import storage
from metric_core.artefacts import audit, erasing_proof, manifest, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.erasing import Target
from metric_core.artefacts.faces import Faces, face_id
from metric_core.errors import ConfigError, DataError, JobRunning
from workflows import cli
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.erase import job
from workflows.shared import lease

ANN = "person-02"
"""Has a picture with a twin, rejects, changed and gone faces, and conditions name others."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    erasable.world(root)
    return root


@pytest.fixture
def world(made: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world that the test may change; its addresses are those that the artefacts record."""
    kept = made.with_name(f"{made.name}-kept")
    if not kept.exists():
        shutil.copytree(made, kept)
    shutil.rmtree(made)
    shutil.copytree(kept, made)
    return World(made / "pictures", *(str(made / name) for name in ("faces", "base", "delta", "matches")))


def without(state: dict[str, Any], ids: set[int], names: set[str]) -> dict[str, Any]:
    """The rows of a state that do not name these ids or people."""
    gone = {*ids, *names, *map(str, ids)}
    return {name: {row for row in rows if not gone & set(row)} for name, rows in state.items()}


def texts(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.iterdir()))


@pytest.mark.parametrize("names", [[ANN], ["person-01", ANN, "person-07"]], ids=len)
def test_people_are_gone_and_all_others_stay_as_they_were(world: World, names: list[str]) -> None:
    before, ids = world.state(), set().union(*map(world.ids, names))
    answer = job.run(world.options(identity=names))
    assert world.state() == without(before, ids, set(names))
    assert answer["people"] == len(names)
    assert answer["faces"] == len(ids) == EACH * len(names) + 1
    assert answer["removed"][world.faces] == {"faces": len(ids)}
    assert answer["removed"][world.base]["tags"] == len(ids)
    for uri in (world.base, world.delta):
        assert not list(audit.problems(Embeddings.open(uri)))
    faces = Faces.open(world.faces)
    assert faces.manifest.content["identities"] == PEOPLE - len(names)
    splits = faces.manifest.content["splits"].values()
    assert sum(split["rows"] for split in splits) == faces.table.num_rows == PEOPLE * EACH + 1 - len(ids)
    target = Target(before_ids := tombstones.read(tombstones.beside(world.faces)).face_id_M, frozenset(names))
    assert ids <= set(before_ids.tolist())
    assert not any(erasing_proof.scan(uri, target).total for uri in world.artefacts)


def test_only_files_that_hold_them_are_written(world: World) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(world.base).rglob("*.parquet")}
    one = sorted(world.ids("person-11"))[0]
    job.run(world.options(face_id=[one]))
    after = {path: path.stat().st_mtime_ns for path in Path(world.base).rglob("*.parquet")}
    changed = sorted(str(path.relative_to(world.base)) for path, _ in after.items() ^ before.items())
    number = re.search(r"\d{6}", changed[0])
    assert number
    stem = f"part-{number[0]}"
    names = [f"{stem}.g2.parquet", f"{stem}.parquet"]
    assert changed == [*names, *(f"tags/{name}" for name in names)], "one unit of eleven"


def test_a_second_time_changes_nothing_and_writes_the_same_receipt(world: World) -> None:
    first = job.run(world.options(identity=[ANN]))
    digests, receipt = world.digests(), json.loads(Path(first["receipt"]).read_text())
    again = job.run(world.options(identity=[ANN]))
    assert world.digests() == digests
    second = json.loads(Path(again["receipt"]).read_text())
    for one, other in zip(receipt["artefacts"], second["artefacts"], strict=True):
        assert {**one, "after": None} == {**other, "after": None}
    assert second["tombstones"] == receipt["tombstones"]


def test_twins_are_erased_with_a_picture_and_their_ids_are_noted(world: World) -> None:
    (plain,) = (face_id("pictures", key) for key in [f"{ANN}/0"])
    answer = job.run(world.options(face_id=[plain]))
    assert answer["twins"] == 1
    noted = set(tombstones.read(tombstones.beside(world.faces)).face_id_M.tolist())
    forms = (f"{ANN}/0", f"{ANN}/0.jpg", f"{ANN}/0.jpg/", TWIN, f"{TWIN}/")
    assert noted == {face_id("pictures", key) for key in forms}
    assert len(world.ids(ANN)) == EACH - 1


def test_nothing_brings_them_back(world: World, tmp_path: Path) -> None:
    job.run(world.options(identity=[ANN]))
    assert world.catalogue()["erased"] == EACH + 1, "the finished catalogue is what the source gives without them"
    again = str(Path(world.faces).with_name("again"))
    catalogue.run(CatalogueConfig(source=str(world.source), out=again))
    assert ANN not in Faces.open(again).table["identity"].to_pylist()
    (world.source / ANN / "new.jpg").write_bytes(b"a new picture")
    catalogue.run(CatalogueConfig(source=str(world.source), out=f"{again}-2"))
    assert ANN not in Faces.open(f"{again}-2").table["identity"].to_pylist()


def test_plans_name_what_there_was_before(world: World) -> None:
    both = f"{world.base},{world.delta}"
    faces, one, two = Faces.open(world.faces).manifest, Collection.open(world.base), Collection.open(both)
    job.run(world.options(identity=[ANN]))
    after = Faces.open(world.faces).manifest
    assert (after.origin, after.predecessors) == (faces.digest, (faces.digest,))
    assert after.digest != faces.digest
    assert Collection.open(world.base).origin == one.digest
    assert Collection.open(both).origin == two.origin
    assert Collection.open(both).without_erased().origin == two.origin, "nothing that is hidden is left"
    assert Collection.open(both).digest != two.digest


def test_the_receipt_says_what_was_done_and_not_to_whom(world: World) -> None:
    ids = world.ids(ANN)
    answer = job.run(world.options(identity=[ANN]))
    folder = Path(world.faces).parent / "receipts"
    assert Path(answer["receipt"]).parent == folder
    said = texts(folder)
    assert ANN not in said
    assert not [number for number in ids if str(number) in said]
    found = json.loads(Path(answer["receipt"]).read_text())
    assert [len(person) for person in found["people"]] == [64]
    by_uri = {one["uri"]: one for one in found["artefacts"]}
    assert set(by_uri) == set(world.artefacts)
    for one in found["artefacts"]:
        assert one["before"]["occurrences"] > 0 == one["after"]["occurrences"]
        for file in one["files"]:
            there = storage.sha256(file["address"]) if storage.exists(file["address"]) else None
            assert file["after"] == there
            assert file["before"] or file["after"]
    assert "versioning" in said
    assert "MLflow" in said
    assert "<html" in (folder / f"{Path(answer['receipt']).stem}.html").read_text()


def test_names_leave_conditions_commands_and_plans(world: World) -> None:
    job.run(world.options(identity=["person-01"]))
    found = manifest.read(world.matches, "matches")
    assert found.content["conditions"] == {"identities": ["person-03"]}
    assert found.provenance["command"] == "likeness search --identities (erased) person-03 --out m"
    assert "person-01" not in (Path(world.matches) / manifest.PLAN).read_text()


def test_a_wrong_erasure_is_lifted_with_its_receipt(world: World) -> None:
    wrong, right = (job.run(world.options(identity=[name]))["receipt"] for name in (ANN, "person-05"))
    answer = job.run(world.options(lift=True, receipt=wrong))
    assert answer["lifted"] > 0
    assert job.run(world.options(lift=True, receipt=wrong))["lifted"] == 0
    again = str(Path(world.faces).with_name("again"))
    catalogue.run(CatalogueConfig(source=str(world.source), out=again))
    names = set(Faces.open(again).table["identity"].to_pylist())
    assert ANN in names, "lifted"
    assert "person-05" not in names, "another receipt's"
    assert len(Faces.open(again).table) == (PEOPLE - 1) * EACH + 1
    assert Path(right).exists()


@pytest.mark.parametrize("change", ["another key", "edited", "no receipt"])
def test_a_receipt_that_belongs_elsewhere_lifts_nothing(world: World, tmp_path: Path, change: str) -> None:
    receipt = Path(job.run(world.options(identity=[ANN]))["receipt"])
    noted = tombstones.read(tombstones.beside(world.faces)).names
    at = {}
    if change == "another key":
        at["tombstones"] = str(tmp_path / "tombstones")
        tombstones.add(at["tombstones"], "pictures", face_ids=[1])
    elif change == "edited":
        receipt.write_text(receipt.read_text().replace('"single_faces": 0', '"single_faces": 1'))
    else:
        receipt.write_text("{}")
    said = {"another key": "belongs to other tombstones", "edited": "not as it was written", "no receipt": "no receipt"}
    with pytest.raises(DataError, match=said[change]):
        job.run(world.options(lift=True, receipt=str(receipt), **at))
    assert tombstones.read(tombstones.beside(world.faces)).names == noted


def test_who_is_not_there_is_listed_and_nothing_is_touched(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    digests = world.digests()
    line = ["erase", "--faces", world.faces, "--identity", ANN, "Nobody", "Noone", "--face-id", "7"]
    assert cli.main([*line, "--embeddings", world.base, world.delta]) == 2
    said = capsys.readouterr().err
    assert "3 of those to erase are not there" in said
    assert "'Nobody', 'Noone', 7" in said
    assert world.digests() == digests
    assert not storage.exists(tombstones.beside(world.faces))


def test_everybody_only_if_that_is_said(world: World) -> None:
    names = [f"person-{n:02d}" for n in range(PEOPLE)]
    with pytest.raises(ConfigError, match="nothing would remain; give --yes-all"):
        job.run(world.options(identity=names))
    assert not storage.exists(tombstones.beside(world.faces))
    job.run(world.options(identity=names, yes_all=True))
    assert not any(world.state().values())
    assert Faces.open(world.faces).manifest.content["rows"] == 0
    assert job.run(world.options(identity=names))["faces"] == 0, "which is repeated without a word"


def test_a_list_names_people_and_faces(world: World, tmp_path: Path) -> None:
    one = sorted(world.ids("person-08"))[0]
    (tmp_path / "list.csv").write_text(f"identity,face_id\n{ANN},\n,{one}\n")
    job.run(world.options(list=str(tmp_path / "list.csv")))
    assert not world.ids(ANN)
    assert len(world.ids("person-08")) == EACH - 1
    (tmp_path / "list.csv").write_text("who\nAnn\n")
    with pytest.raises(DataError, match="has columns who; expected identity, face_id or both"):
        job.run(world.options(list=str(tmp_path / "list.csv")))


def test_a_delta_is_not_erased_from_alone(world: World) -> None:
    with pytest.raises(ConfigError, match=r"is a delta of .*base, in which the same people would stay"):
        job.run(world.options(identity=[ANN], embeddings=[world.delta]))


@pytest.mark.parametrize("name", ["faces", "base", "matches"])
def test_while_another_job_writes_one_of_them_nothing_is_touched(world: World, name: str) -> None:
    digests = world.digests()
    with lease.held(getattr(world, name)), pytest.raises(JobRunning, match=f"{name} is being written by process"):
        job.run(world.options(identity=[ANN]))
    assert world.digests() == digests
    assert not storage.exists(tombstones.beside(world.faces))


def test_options_that_do_not_fit() -> None:
    def said(**given: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            job.EraseConfig(faces="f", **given)
        return str(caught.value)

    assert "give at least one of them" in said()
    assert "receipt is missing" in said(lift=True)
    assert "identity is given with --lift" in said(lift=True, receipt="r", identity=["Ann"])
    assert "embeddings names e twice" in said(identity=["Ann"], embeddings=["e,e"])
    assert "face_id -1 is no face_id" in said(face_id=[-1])
