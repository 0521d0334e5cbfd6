"""A corpus in which nobody is named: catalogue, embed, index, search and export, from every kind of source."""

import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.tiny import untrained

from metric_core.artefacts import audit, manifest, schema
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.errors import DataError
from metric_core.index.search import Index
from metric_core.storage import join
from workflows import cli
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig
from workflows.embeddings import check, export, stats
from workflows.embeddings.config import CheckConfig, ExportConfig, StatsConfig
from workflows.index import check as index_check
from workflows.index import export as index_export
from workflows.index import job as index
from workflows.index.config import CheckConfig as IndexCheckConfig
from workflows.index.config import ExportConfig as IndexExportConfig
from workflows.index.config import IndexConfig
from workflows.search import job as search
from workflows.search.config import SearchConfig

COUNT = 40


class Corpus(NamedTuple):
    root: Path
    faces: str
    model: str
    embeddings: str
    index: str
    answers: dict[str, dict[str, Any]]


def source_of(form: str, root: Path, people: Path) -> Path:
    """``COUNT`` drawn pictures in one flat folder, in a tar or in a list, and one that cannot be read."""
    flat = root / "flat"
    flat.mkdir(parents=True)
    for n, path in enumerate(sorted(path for path in people.rglob("*") if path.is_file())[:COUNT]):
        (flat / f"img{n:03d}{path.suffix}").write_bytes(path.read_bytes())
    (flat / "zzz.jpg").write_bytes(b"no picture")
    if form == "folder":
        return flat
    files = sorted(flat.iterdir())
    if form == "tar":
        with tarfile.open(root / "flat.tar", "w") as tar:
            for path in files:
                tar.add(path, path.name)
        return root / "flat.tar"
    listed = root / f"flat.{form}"
    table = pa.table({"path": [f"flat/{path.name}" for path in files], "key": [path.stem for path in files]})
    if form == "parquet":
        pq.write_table(table, listed)
    else:
        listed.write_text("path,key\n" + "".join(f"{r['path']},{r['key']}\n" for r in table.to_pylist()))
    return listed


def made(form: str, root: Path, people: Path) -> Corpus:
    source = source_of(form, root, people)
    at = {name: str(root / name) for name in ("faces", "embeddings", "index")}
    model = untrained(str(root / "model"))
    answers = {
        "catalogue": catalogue.run(
            CatalogueConfig(source=str(source), out=at["faces"], unlabelled=True, namespace="flat")
        ),
        "embed": embed.run(
            EmbedConfig(faces=at["faces"], model=model, out=at["embeddings"], unit_size=16, max_bad_fraction=0.1)
        ),
        "index": index.run(IndexConfig(embeddings=at["embeddings"], out=at["index"], shards=2)),
    }
    return Corpus(root, model=model, answers=answers, **at)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, people: Path, ray_session: None) -> Corpus:
    return made("folder", tmp_path_factory.mktemp("unlabelled"), people)


def require_joined(at: Corpus) -> None:
    """What the jobs say, and that keys, face_ids, vectors and pictures belong together."""
    assert {name: at.answers["catalogue"][name] for name in ("rows", "identities", "unnamed")} == {
        "rows": COUNT + 1,
        "identities": 0,
        "unnamed": COUNT + 1,
    }
    assert (at.answers["embed"]["embedded"], at.answers["embed"]["quarantined"]) == (COUNT, 1)
    assert (at.answers["index"]["rows"], at.answers["index"]["people"]) == (COUNT, 0)
    out = at.root / "vectors.npy"
    answer = export.run(ExportConfig(embeddings=at.embeddings, out=str(out), keys=True))
    table, id_N = pq.read_table(answer["keys"]), np.load(answer["ids"])
    assert table.column_names == ["face_id", "key", "uri", "identity"]
    np.testing.assert_array_equal(table["face_id"].to_numpy(), id_N)
    assert sorted(table["key"].to_pylist()) == [f"img{n:03d}" for n in range(COUNT)]
    assert table["identity"].null_count == COUNT
    catalogued = {row["face_id"]: row for row in Faces.open(at.faces).table.to_pylist()}
    assert all(catalogued[row["face_id"]]["key"] == row["key"] for row in table.to_pylist())
    assert all(catalogued[row["face_id"]]["uri"] == row["uri"] for row in table.to_pylist())
    vector_ND, rows = np.load(out), Embeddings.open(at.embeddings).load()
    np.testing.assert_array_equal(vector_ND[np.argsort(id_N)], rows.embedding_ND[np.argsort(rows.face_id_N)])
    # Every face finds another face first, the one whose vector is nearest, and is told by its key.
    near_NN = vector_ND @ vector_ND.T
    np.fill_diagonal(near_NN, -2)
    found = search.run(SearchConfig(index=at.index, embeddings=at.embeddings, top=3))["matches"]
    assert len(found) == 3 * COUNT
    key_of = dict(zip(id_N.tolist(), table["key"].to_pylist()))
    for row in found:
        assert (row["identity"], row["key"]) == (None, key_of[row["face_id"]])
    for n, face_id in enumerate(id_N.tolist()):
        mine = [row for row in found if row["query"] == str(face_id)]
        assert [row["rank"] for row in mine] == [1, 2, 3]
        np.testing.assert_allclose([row["score"] for row in mine], np.sort(near_NN[n])[::-1][:3], atol=2e-3)


def test_a_folder(corpus: Corpus) -> None:
    require_joined(corpus)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tar", "csv", "parquet"])
def test_other_sources(form: str, people: Path, ray_session: None, tmp_path: Path) -> None:
    require_joined(made(form, tmp_path, people))


def test_the_names_in_results(corpus: Corpus) -> None:
    assert sorted(corpus.answers["catalogue"]) == ["faces", "identities", "rows", "splits", "unnamed"]
    match = search.run(SearchConfig(index=corpus.index, embeddings=corpus.embeddings))["matches"][0]
    assert sorted(match) == ["accepted", "face_id", "identity", "key", "query", "rank", "score"]


def test_keys_of_faces_that_are_not_in_the_catalogue(corpus: Corpus, tmp_path: Path) -> None:
    """Other Faces, by mistake, are told from those that were embedded; nothing is written."""
    fewer = str(tmp_path / "fewer")
    (tmp_path / "some").mkdir()
    for path in sorted((corpus.root / "flat").iterdir())[:5]:
        (tmp_path / "some" / path.name).write_bytes(path.read_bytes())
    catalogue.run(CatalogueConfig(source=str(tmp_path / "some"), out=fewer, unlabelled=True, namespace="flat"))
    with pytest.raises(DataError, match=f"does not have {COUNT - 5} of the {COUNT} faces"):
        export.run(ExportConfig(embeddings=corpus.embeddings, out=str(tmp_path / "v.npy"), keys=True, faces=fewer))
    assert not list(tmp_path.glob("v*"))


def test_the_artefacts_are_sound(corpus: Corpus) -> None:
    assert Faces.open(corpus.faces).table.schema.field("identity").nullable
    source = Embeddings.open(corpus.embeddings)
    assert list(audit.problems(source)) == []
    assert check.run(CheckConfig(embeddings=corpus.embeddings, faces=corpus.faces))["coverage"]["missing"] == 0
    told = stats.run(StatsConfig(embeddings=corpus.embeddings))
    assert (told["rows"], told["people"]) == (COUNT, 0)
    answer = index_check.run(IndexCheckConfig(index=corpus.index))
    assert (answer["people"], answer["rows"]) == (0, COUNT)


def test_the_same_commands_have_nothing_left_to_do(corpus: Corpus) -> None:
    again = catalogue.run(
        CatalogueConfig(source=str(corpus.root / "flat"), out=corpus.faces, unlabelled=True, namespace="flat")
    )
    assert again == corpus.answers["catalogue"]
    assert (
        index.run(IndexConfig(embeddings=corpus.embeddings, out=corpus.index, shards=2))["version"]
        == (corpus.answers["index"]["version"])
    )


def test_pictures_find_themselves_and_matches_are_written(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = sorted((corpus.root / "flat").iterdir())[3]
    argv = ["search", "--index", corpus.index, "--model", corpus.model, "--image", str(picture), "--top", "2"]
    argv += ["--out", str(tmp_path / "m"), "--gallery", str(tmp_path / "g.png")]
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["1.", picture.stem]
    table = pq.read_table(tmp_path / "m" / "matches.parquet")
    assert table.schema.equals(schema.UNLABELLED_MATCHES)
    assert table["key"].to_pylist()[0] == picture.stem
    assert table["identity"].null_count == 2
    assert Image.open(tmp_path / "g.png").width > 0
    assert cli.main(argv) == 0, "the same search again"


def test_without_the_faces_there_is_the_face_id(corpus: Corpus, tmp_path: Path, people: Path) -> None:
    moved = Path(corpus.faces).rename(tmp_path / "elsewhere")
    try:
        with_none = search.run(SearchConfig(index=corpus.index, embeddings=corpus.embeddings, top=1))
        given = search.run(SearchConfig(index=corpus.index, embeddings=corpus.embeddings, top=1, faces=str(moved)))
    finally:
        moved.rename(corpus.faces)
    assert {row["key"] for row in with_none["matches"]} == {None}
    assert None not in {row["key"] for row in given["matches"]}
    assert "\n  1. " + str(with_none["matches"][0]["face_id"]) in search.show(with_none)


def test_export_for_faiss_has_rows_without_a_name(corpus: Corpus, tmp_path: Path) -> None:
    answer = index_export.run(IndexExportConfig(index=corpus.index, out=str(tmp_path / "x.faiss")))
    table = pq.read_table(answer["identities"])
    assert (table.num_rows, table["identity"].null_count) == (COUNT, COUNT)


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--faces", "{faces}", "--out", "{new}"],
        *(
            ["evaluate", "--embeddings", "{embeddings}", f"--{protocol}"]
            for protocol in ("verification", "identification", "retrieval", "clustering", "classification")
        ),
        ["embeddings", "compare", "--old", "{embeddings}", "--new", "{embeddings}"],
        ["search", "--index", "{index}", "--embeddings", "{embeddings}", "--identities", "ann"],
    ],
    ids=" ".join,
)
def test_who_needs_names_says_so(
    argv: list[str], corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = corpus._asdict() | {"new": tmp_path / "new"}
    assert cli.main([word.format(**at) for word in argv]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    assert "without --unlabelled" in errors[0] or "no face in the index has a name" in errors[0]
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_named_and_unnamed_faces_in_one_corpus(people: Path, ray_session: None, tmp_path: Path) -> None:
    """A person is found as such, an unnamed face by itself; only the change of a name is embedded again."""
    pictures = sorted(path for path in people.rglob("*") if path.is_file())[:24]
    rows = [(path, path.parent.name if n < 12 else "") for n, path in enumerate(pictures)]
    listed = tmp_path / "list.csv"
    listed.write_text("path,identity\n" + "".join(f"{path},{name}\n" for path, name in rows))
    model, faces = untrained(str(tmp_path / "model")), str(tmp_path / "faces")
    answer = catalogue.run(CatalogueConfig(source=str(listed), out=faces, unlabelled=True))
    people_named = {name for _, name in rows if name}
    assert (answer["identities"], answer["unnamed"]) == (len(people_named), 12)
    first = str(tmp_path / "e")
    embed.run(EmbedConfig(faces=faces, model=model, out=first, unit_size=16))
    made_index = index.run(IndexConfig(embeddings=first, out=str(tmp_path / "i")))
    assert made_index["people"] == len(people_named)
    opened, vectors = Index.open(str(tmp_path / "i")), Collection.open(first).load()
    everybody = opened.identify(vectors.embedding_ND[:1], ["q"], 99)
    assert everybody.num_rows == len(people_named) + 12
    assert set(everybody["identity"].drop_null().to_pylist()) == people_named
    assert opened.only(identities=sorted(people_named)).left == 12
    with pytest.raises(DataError, match="12 of 24 faces have no identity"):
        Collection.open(first).require_named("this test")

    named = "".join(f"{path},{name or 'None'}\n" for path, name in rows[:13])
    listed.write_text("path,identity\n" + named + "".join(f"{path},\n" for path, _ in rows[13:]))
    later = str(tmp_path / "faces-2")
    catalogue.run(CatalogueConfig(source=str(listed), out=later, unlabelled=True))
    delta = embed.run(EmbedConfig(faces=later, model=model, out=str(tmp_path / "d"), since=first, unit_size=16))
    assert (delta["embedded"], delta["unchanged"]) == (1, 23), 'nobody became a person called "None"'


def test_artefacts_of_named_corpora_have_no_new_field(people: Path, tmp_path: Path) -> None:
    catalogue.run(CatalogueConfig(source=str(people), out=str(tmp_path / "faces")))
    content = manifest.read(str(tmp_path / "faces"), "faces").content
    assert not {"unlabelled", "unnamed"} & set(content)
    found = pq.read_schema(join(str(tmp_path / "faces"), "faces-000000.parquet"))
    assert not found.field("identity").nullable
    assert pc.sum(pc.is_null(Faces.open(str(tmp_path / "faces")).table["identity"])).as_py() == 0
