"""Faces and tombstones that are not what was written: refused in one line, whatever happened to which file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import minted, tampering

from metric_core.artefacts import delta, manifest, rows, tombstones
from metric_core.artefacts.faces import Faces
from metric_core.errors import ArtefactError, Corrupt, Missing
from metric_core.sources.fetching import fetch_many
from workflows.catalogue import job
from workflows.catalogue.config import CatalogueConfig

FACES = (r"faces-\d+\.parquet", r"manifest\.json", r"plan\.json")
TOMBSTONES = ("key", r"erased-[0-9a-f]{64}\.parquet", r"manifest\.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, people: Path) -> Path:
    """Faces with embeddings of them, and other Faces."""
    root = tmp_path_factory.mktemp("made")
    few = root / "few"
    for name in ("person-0000", "person-0001"):
        shutil.copytree(people / name, few / name)
    job.run(CatalogueConfig(source=str(people), out=str(root / "faces"), valid_fraction=0.4))
    job.run(CatalogueConfig(source=str(few), out=str(root / "others")))
    table = Faces.open(str(root / "faces")).table.sort_by("face_id")
    ids, names = table["face_id"].to_pylist(), table["identity"].to_pylist()
    vectors, tags = minted.unit_vectors(len(ids)), delta.tags(table)
    minted.embeddings(root / "embeddings", ids, vectors, identities=names, unit=50, tags=tags)
    return root


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """To be damaged."""
    for name in ("faces", "embeddings"):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


def again(copy: Path, people: Path) -> list[str]:
    """The command that wrote the Faces."""
    return ["catalogue", "--source", str(people), "--out", str(copy / "faces"), "--valid-fraction", "0.4"]


def reading(copy: Path) -> list[str]:
    """A command that reads them."""
    return ["embeddings", "check", "--embeddings", str(copy / "embeddings"), "--faces", str(copy / "faces")]


def test_every_kind_of_file_has_a_case(made: Path) -> None:
    tampering.require_every_kind(made / "faces", FACES)


def test_whole_ones_are_read(copy: Path, people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tampering.refused(reading(copy), capsys) is None
    assert tampering.refused(again(copy, people), capsys) is None


@pytest.mark.parametrize("older", [False, True], ids=["", "older"])
@pytest.mark.parametrize(("pattern", "way"), tampering.cells(FACES))
def test_faces_are_refused(
    made: Path, copy: Path, people: Path, pattern: str, way: str, older: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their readers; a plan, which these do not read, by the job that wrote it. ``older``: without digests of row
    groups."""
    if older:
        path = copy / "faces" / manifest.NAME
        body = json.loads(path.read_text())
        del body["files"], body["files_digest"]
        path.write_text(json.dumps(body, indent=1))
    digest = manifest.read(str(copy / "faces"), "faces").digest
    name = tampering.damage(copy / "faces", pattern, way, made / "others")
    line = tampering.refused(reading(copy), capsys)
    assert (line is None) == (name == manifest.PLAN and way != "linked")
    if line and way != "swapped":
        assert str(copy / "faces" / ("" if name == manifest.NAME else name)) in line
    line = tampering.refused(again(copy, people), capsys)
    if (name, way) == (manifest.NAME, "missing"):  # as after a kill
        assert line is None
        assert manifest.read(str(copy / "faces"), "faces").digest == digest
    else:
        assert line, "by the job that wrote them"
        assert str(copy / "faces") in line


def test_every_reader_refuses_an_edited_part(copy: Path) -> None:
    """Well-formed Parquet with a person's name changed: by range, whole, and by the first row."""
    faces = Faces.open(str(copy / "faces"))
    part = faces.parts[0]
    table = rows.read(faces.uri, part)
    place = table.schema.get_field_index("identity")
    names = pa.array(["zoe" if name == "person-0003" else name for name in table["identity"].to_pylist()])
    pq.write_table(table.set_column(place, table.schema.field(place), names), copy / "faces" / part.name, **rows.LAYOUT)
    readers = {
        "range": lambda: rows.read_range(faces.uri, part, 0, 1, faces.columns(["uri"])),
        "table": lambda: Faces.open(faces.uri).table,
        "split": lambda: Faces.open(faces.uri).select("valid"),
        "first picture": lambda: list(faces.first_picture()),
        "erasure": lambda: delta.select(faces, None, None, tombstones.Tombstones(names=("x",))),
    }
    for name, read in readers.items():
        line = tampering.outcome(read, Corrupt)
        assert line, name
        assert "faces-000000.parquet" in line


@pytest.mark.parametrize("value", [None, 5, "x", [], [1], {}, {"sha256": 5}], ids=str)
def test_digests_of_row_groups_in_another_shape(copy: Path, value: object) -> None:
    """No digest covers them: they count if they are of the part in the content, which is checked whole otherwise."""
    path = copy / "faces" / manifest.NAME
    body = json.loads(path.read_text())
    whole = Faces.open(str(copy / "faces")).table
    for files in ({"faces-000000.parquet": value}, {"other": value}, {}):
        path.write_text(json.dumps(body | {"files": files, "files_digest": manifest.digest(files)}))
        faces = Faces.open(str(copy / "faces"))
        assert rows.read_range(faces.uri, faces.parts[0], 3, 9, faces.columns(["key"])).equals(
            whole.select(["key"]).slice(3, 6)
        )


def test_provenance_only_needs_to_be_readable(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = copy / "embeddings" / manifest.NAME
    body = json.loads(path.read_text())
    for provenance in ({}, {"faces": 5}, {"faces": None}, {"faces": {"a": []}}):
        path.write_text(json.dumps(body | {"provenance": provenance}))
        assert tampering.refused(reading(copy), capsys) is None
        export = ["embeddings", "export", "--embeddings", str(copy / "embeddings"), "--out", str(copy / "v.npy")]
        assert tampering.refused(export, capsys) is None


def test_a_list_that_leads_elsewhere_names_where(people: Path, tmp_path: Path) -> None:
    """So that rows that lead anywhere else are rejects."""
    shutil.copytree(people / "person-0000", tmp_path / "in" / "a")
    lines = ["a/00.jpg,ann", f"{people}/person-0001/00.jpg,bob", f"{tmp_path}/in/a/01.jpg,ann"]
    (tmp_path / "in" / "list.csv").write_text("\n".join(["path,identity", *lines]))
    job.run(CatalogueConfig(source=str(tmp_path / "in" / "list.csv"), out=str(tmp_path / "faces")))
    faces = Faces.open(str(tmp_path / "faces"))
    assert faces.manifest.content["roots"] == [f"{people}/person-0001"]
    found = faces.table.to_pylist()
    assert all(isinstance(answer, bytes) for answer in fetch_many(faces.root, found))
    for uri in ("http://nowhere.invalid/1.jpg", f"{people}/person-0002/00.jpg", "../../x.jpg"):
        good, bad = fetch_many(faces.root, [found[0], found[1] | {"uri": uri}])
        assert isinstance(good, bytes)
        assert str(bad).startswith("outside: ")
    (tmp_path / "in" / "list.csv").write_text("path,identity\na/00.jpg,ann\n")
    job.run(CatalogueConfig(source=str(tmp_path / "in" / "list.csv"), out=str(tmp_path / "inside")))
    assert "roots" not in Faces.open(str(tmp_path / "inside")).manifest.content, "and the digest is what it always was"


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tombstones in two files, and others."""
    root = tmp_path_factory.mktemp("erased")
    for name, first in (("mine", 1), ("theirs", 2)):
        tombstones.add(str(root / name), "n", face_ids=[first])
        tombstones.add(str(root / name), "n", identities=[f"p{first}"])
    return root


def test_every_kind_of_tombstone_has_a_case(erased: Path) -> None:
    tampering.require_every_kind(erased / "mine", TOMBSTONES)


@pytest.mark.parametrize(("pattern", "way"), tampering.cells(TOMBSTONES))
def test_what_was_erased_does_not_vanish(erased: Path, tmp_path: Path, pattern: str, way: str) -> None:
    at = tmp_path / "tombstones"
    shutil.copytree(erased / "mine", at)
    before = tombstones.read(str(at))
    tampering.damage(at, pattern, way, erased / "theirs")
    line = tampering.outcome(lambda: tombstones.read(str(at)), ArtefactError)
    if (pattern, way) == (TOMBSTONES[2], "missing"):  # as in folders of older versions
        assert tombstones.read(str(at)) == before
        tombstones.add(str(at), "n")
        assert manifest.read(str(at), "tombstones").content["lists"] == list(before.names)
        return
    assert line
    assert str(at) in line
    count = len(list(at.iterdir()))
    assert tampering.outcome(lambda: tombstones.add(str(at), "n", face_ids=[9]), ArtefactError), "nor is it added to"
    assert len(list(at.iterdir())) == count


def test_tombstones_that_are_all_gone_but_for_the_manifest(erased: Path, tmp_path: Path) -> None:
    at = tmp_path / "tombstones"
    shutil.copytree(erased / "mine", at)
    for path in at.glob("erased-*"):
        path.unlink()
    with pytest.raises(Corrupt, match="2 lists of what was erased are gone, erased-"):
        tombstones.of(str(tmp_path / "faces"), None)
    (at / "key").unlink()
    with pytest.raises(Missing, match="has no file key"):
        tombstones.of(str(tmp_path / "faces"), None)


def test_those_who_erase_at_once_are_all_listed(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: tombstones.add(str(tmp_path), "n", face_ids=[n]), range(12)))
    assert np.array_equal(tombstones.read(str(tmp_path)).face_id_M, np.arange(12))
    assert len(manifest.read(str(tmp_path), "tombstones").content["lists"]) == 12


def test_a_source_may_have_links(people: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "ann").symlink_to(people / "person-0000")
    answer = job.run(CatalogueConfig(source=str(tmp_path / "corpus"), out=str(tmp_path / "real")))
    assert answer["rows"] == 6
    (tmp_path / "faces").symlink_to(tmp_path / "real")
    assert Faces.open(str(tmp_path / "faces")).table.num_rows == 6, "an artefact's folder may be reached by a link"
