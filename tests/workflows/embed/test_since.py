"""Deltas: a corpus that grows, changes and shrinks is embedded in steps, and reads as if it were embedded at once."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import minted
from support.tiny import untrained

from metric_core.artefacts import delta, manifest, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.faces import Faces
from metric_core.errors import ConfigError, FingerprintMismatch, Missing, Occupied, TooManyBadImages
from metric_core.index.search import Index
from metric_core.model import bundle
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig
from workflows.embed.plan import EmbedPlan
from workflows.evaluate import job as evaluate
from workflows.evaluate.config import EvaluateConfig
from workflows.index import job as index
from workflows.index.config import IndexConfig
from workflows.search import job as search
from workflows.search.config import SearchConfig


class Corpus:
    """A folder of pictures, with a catalogue and embeddings of each of its states."""

    def __init__(self, root: Path, people: Path, model: str) -> None:
        self.root, self.people, self.model = root, people, model
        self.pictures = root / "pictures"

    def add(self, *people: int) -> None:
        for n in people:
            shutil.copytree(self.people / f"person-{n:04d}", self.pictures / f"person-{n:04d}")

    def catalogue(self, name: str) -> str:
        out = str(self.root / name)
        catalogue.run(CatalogueConfig(source=str(self.pictures), out=out))
        return out

    def embed(self, faces: str, name: str, **more: object) -> dict:
        how = {"model": self.model, "unit_size": 5, "max_bad_fraction": 0.5, "actors": 1} | more
        return embed.run(EmbedConfig(faces=faces, out=str(self.root / name), **how))  # type: ignore[arg-type]

    def at(self, *names: str) -> str:
        return ",".join(str(self.root / name) for name in names)

    def vectors(self, *names: str) -> dict[int, tuple[str, bytes]]:
        """Identity and rounded vector of every face: sums differ slightly with the size of the batch."""
        found = Collection.open(self.at(*names)).load()
        rounded = np.round(found.embedding_ND * 2**14).astype(np.int32)
        assert len(set(found.face_id_N.tolist())) == len(found), "no face twice"
        return {i: (who, row) for i, who, row in zip(found.face_id_N.tolist(), found.identity_N, rounded)}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[i][0] == other[i][0] and np.abs(one[i][1] - other[i][1]).max() <= 1 for i in one
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Untrained: what is embedded, and how often, does not depend on how well."""
    return untrained(str(tmp_path_factory.mktemp("models") / "model"), size=32)


@pytest.fixture
def corpus(model: str, people: Path, ray_session: None, tmp_path: Path) -> Corpus:
    """Three people embedded; one picture of the second is broken."""
    made = Corpus(tmp_path, people, model)
    made.add(0, 1, 2)
    (made.pictures / "person-0001" / "00.jpg").write_bytes(b"broken")
    made.embed(made.catalogue("faces-a"), "a")
    return made


def move_on(corpus: Corpus) -> None:
    """One person is added, one removed; one picture is replaced, one broken, one repaired."""
    corpus.add(3)
    shutil.rmtree(corpus.pictures / "person-0002")
    shutil.copy(corpus.people / "person-0005" / "01.jpg", corpus.pictures / "person-0000" / "03.jpg")
    (corpus.pictures / "person-0000" / "04.jpg").write_bytes(b"broken, too")
    shutil.copy(corpus.people / "person-0001" / "00.jpg", corpus.pictures / "person-0001" / "00.jpg")


def test_a_delta_and_its_base_are_the_whole(corpus: Corpus) -> None:
    move_on(corpus)
    faces = corpus.catalogue("faces-b")
    answer = corpus.embed(faces, "b", since=corpus.at("a"))
    corpus.embed(faces, "whole")
    assert same(corpus.vectors("a", "b"), corpus.vectors("whole"))
    assert (answer["embedded"], answer["quarantined"], answer["unchanged"], answer["gone"]) == (8, 1, 9, 6)
    content = manifest.read(corpus.at("b"), "embeddings").content
    base = manifest.read(corpus.at("a"), "embeddings")
    assert content["since"] == [{"plan_id": base.content["plan_id"], "digest": base.digest}]
    assert content["inputs"] == content["embedded"] + content["quarantined"] + content["erased"] == 9
    assert content["inputs"] + content["unchanged"] == Faces.open(faces).manifest.content["rows"]
    assert [part["rows"] for part in content["parts"]] == [4, 4], "units of 5 rows that are wanted"
    again = corpus.embed(faces, "b", since=corpus.at("a"))
    assert again["reused"] == 9
    assert corpus.embed(faces, "b2", since=corpus.at("a"))["embedded"] == 8
    assert manifest.read(corpus.at("b2"), "embeddings").digest == manifest.read(corpus.at("b"), "embeddings").digest


@pytest.mark.slow
def test_a_delta_of_a_delta(corpus: Corpus) -> None:
    move_on(corpus)
    corpus.embed(corpus.catalogue("faces-b"), "b", since=corpus.at("a"))
    corpus.add(2)
    shutil.rmtree(corpus.pictures / "person-0003")
    faces = corpus.catalogue("faces-c")
    with pytest.raises(ConfigError, match=r"/b is a delta of .*/a \(plan .*list those before it"):
        corpus.embed(faces, "c", since=corpus.at("b"))
    answer = corpus.embed(faces, "c", since=corpus.at("a", "b"))
    assert (answer["unchanged"], answer["embedded"], answer["quarantined"], answer["gone"]) == (11, 6, 1, 6)
    corpus.embed(faces, "whole")
    assert same(corpus.vectors("a", "b", "c"), corpus.vectors("whole"))
    nothing = corpus.embed(faces, "d", since=corpus.at("a", "b", "c"))
    assert (nothing["embedded"], nothing["quarantined"], nothing["gone"]) == (0, 1, 0), "rejects are tried again"
    assert same(corpus.vectors("a", "b", "c", "d"), corpus.vectors("whole"))
    with pytest.raises(ConfigError, match="is a delta of"):
        Collection.open(corpus.at("b", "a", "c"))


@pytest.mark.slow
def test_a_person_with_another_name_is_embedded_again(corpus: Corpus) -> None:
    """The picture and its key are the same, but its identity has changed."""
    listed = corpus.root / "list.csv"
    rows = [f"pictures/person-0002/{n:02d}.jpg" for n in range(4)]
    listed.write_text("path,identity\n" + "".join(f"{row},Ann\n" for row in rows))
    catalogue.run(CatalogueConfig(source=str(listed), out=corpus.at("f1"), namespace="n"))
    corpus.embed(corpus.at("f1"), "e1")
    listed.write_text(
        "path,identity\n" + "".join(f"{row},{'Bob' if n == 2 else 'Ann'}\n" for n, row in enumerate(rows))
    )
    catalogue.run(CatalogueConfig(source=str(listed), out=corpus.at("f2"), namespace="n"))
    answer = corpus.embed(corpus.at("f2"), "e2", since=corpus.at("e1"))
    assert (answer["embedded"], answer["unchanged"]) == (1, 3)
    assert sorted(who for who, _ in corpus.vectors("e1", "e2").values()) == ["Ann", "Ann", "Ann", "Bob"]


@pytest.mark.slow
def test_a_delta_that_was_stopped_goes_on(corpus: Corpus) -> None:
    move_on(corpus)
    faces = corpus.catalogue("faces-b")
    with pytest.raises(TooManyBadImages):
        corpus.embed(faces, "b", since=corpus.at("a"), max_bad_fraction=0.0)
    done = {path.name: path.stat().st_mtime_ns for path in Path(corpus.at("b")).glob("part-*")}
    assert done
    corpus.embed(faces, "b", since=corpus.at("a"))
    now = {path.name: path.stat().st_mtime_ns for path in Path(corpus.at("b")).glob("part-*")}
    assert done.items() <= now.items(), "a finished unit has changed"
    corpus.embed(faces, "undisturbed", since=corpus.at("a"))
    one, two = (manifest.read(corpus.at(name), "embeddings") for name in ("b", "undisturbed"))
    assert one.digest == two.digest
    with pytest.raises(Occupied, match=r"\(since: \[\{'digest"):
        corpus.embed(faces, "b")


@pytest.mark.slow
def test_what_does_not_fit_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    faces, other = corpus.catalogue("faces-b"), str(tmp_path / "model")
    embedder = bundle.load(corpus.model).embedder
    with torch.no_grad():
        embedder.net.head.bias += 0.1
    bundle.save(embedder, other, operating_points=[], provenance={})
    one, two = bundle.load(corpus.model).fingerprint, bundle.load(other).fingerprint
    with pytest.raises(FingerprintMismatch, match=rf"{one}, --model .* is {two}; a delta needs the same model: give"):
        corpus.embed(faces, "b", since=corpus.at("a"), model=other)
    with pytest.raises(ConfigError, match=r"dtype is float16, in --since .*/a it is float32.*leave --since out"):
        corpus.embed(faces, "b", since=corpus.at("a"), dtype="float16")
    assert not Path(corpus.at("b")).exists(), "nothing was started"
    corpus.embed(faces, "half", dtype="float16")
    corpus.embed(faces, "other", model=other)
    with pytest.raises(
        ConfigError, match=r"dtype is float32 in .*/a and float16 in .*/half; artefacts that are read as one must have"
    ):
        index.run(IndexConfig(embeddings=corpus.at("a", "half"), out=corpus.at("index")))
    with pytest.raises(FingerprintMismatch, match=rf"/other holds vectors of model {two}, .*/a of model {one}"):
        index.run(IndexConfig(embeddings=corpus.at("a", "other"), out=corpus.at("index")))


@pytest.mark.slow
def test_index_search_and_evaluate_read_several_as_one(corpus: Corpus) -> None:
    move_on(corpus)
    faces = corpus.catalogue("faces-b")
    corpus.embed(faces, "b", since=corpus.at("a"))
    corpus.embed(faces, "whole")
    with pytest.raises(ConfigError, match="is a delta of"):
        index.run(IndexConfig(embeddings=corpus.at("b"), out=corpus.at("i1")))
    answer = index.run(IndexConfig(embeddings=corpus.at("a", "b"), out=corpus.at("i1"), shards=2))
    index.run(IndexConfig(embeddings=corpus.at("whole"), out=corpus.at("i2"), shards=2))
    assert answer["rows"] == 17
    probes = [SearchConfig(index=corpus.at(i), embeddings=corpus.at("a", "b"), top=3) for i in ("i1", "i2")]
    one, two = (search.run(probe)["matches"] for probe in probes)
    assert len(one) == 3 * 17
    assert [(m["query"], m["identity"], m["face_id"]) for m in one] == [
        (m["query"], m["identity"], m["face_id"]) for m in two
    ]
    found = [EvaluateConfig(embeddings=corpus.at(*names), identification=True) for names in (("a", "b"), ("whole",))]
    assert evaluate.run(found[0]) == evaluate.run(found[1])


@pytest.mark.slow
def test_erased_faces_enter_nowhere(corpus: Corpus) -> None:
    faces = corpus.catalogue("faces-b")
    namespace = Faces.open(faces).namespace
    table = Faces.open(faces).table.to_pylist()
    one = next(row["face_id"] for row in table if row["key"] == "person-0002/03")
    ann = {row["face_id"] for row in table if row["identity"] == "person-0000"}
    with pytest.raises(TooManyBadImages):  # stopped after every unit was done, before any face was erased
        corpus.embed(faces, "b", max_bad_fraction=0.0)
    tombstones.add(tombstones.beside(faces), namespace, face_ids=[one], identities=["person-0000"])
    answer = corpus.embed(faces, "b")
    assert (answer["embedded"], answer["quarantined"], answer["erased"]) == (10, 1, 7)
    assert corpus.vectors("b").keys().isdisjoint(ann | {one})
    content = manifest.read(corpus.at("b"), "embeddings").content
    assert content["inputs"] == 18 == content["embedded"] + content["quarantined"] + content["erased"]
    corpus.embed(faces, "undisturbed")
    assert manifest.read(corpus.at("undisturbed"), "embeddings").content == content
    with pytest.raises(Occupied, match=r"/a was finished before faces of this catalogue were erased.*--since .*/a"):
        corpus.embed(corpus.at("faces-a"), "a")
    delta = corpus.embed(faces, "c", since=corpus.at("a"))
    assert (delta["embedded"], delta["unchanged"], delta["gone"]) == (0, 10, 7)
    assert corpus.vectors("a", "c").keys() == corpus.vectors("b").keys()
    indexed = index.run(IndexConfig(embeddings=corpus.at("a"), out=corpus.at("index")))
    assert indexed["rows"] == 10, "an index of earlier embeddings leaves them out, too"
    live = Index.open(corpus.at("index"))
    found = {number for shard in live.shards for number in shard.face_id_N.tolist()}
    assert len(found) == 10
    assert found.isdisjoint(ann | {one})


def test_catalogues_leave_erased_people_out(corpus: Corpus) -> None:
    namespace = Faces.open(corpus.at("faces-a")).namespace
    tombstones.add(corpus.at("tombstones"), namespace, identities=["person-0001"])
    corpus.add(4)
    shutil.copy(corpus.people / "person-0001" / "01.jpg", corpus.pictures / "person-0001" / "99.jpg")
    config = CatalogueConfig(source=str(corpus.pictures), out=corpus.at("faces-b"))
    answer = catalogue.run(config)
    assert (answer["rows"], answer["identities"], answer["erased"]) == (18, 3, 7), "also their new pictures"
    assert "person-0001" not in Faces.open(corpus.at("faces-b")).table["identity"].to_pylist()
    assert catalogue.run(config) == answer, "the same again"
    elsewhere = replace(config, out=corpus.at("other/faces"), tombstones=corpus.at("elsewhere"))
    with pytest.raises(Missing, match="elsewhere: there is no such folder of tombstones"):
        catalogue.run(elsewhere)
    with pytest.raises(Missing, match="elsewhere: there is no such folder of tombstones"):
        corpus.embed(corpus.at("faces-b"), "b", tombstones=corpus.at("elsewhere"))
    assert not any(Path(corpus.at(name)).exists() for name in ("other/faces", "b")), "before anything starts"
    tombstones.add(corpus.at("elsewhere"), namespace)
    kept = catalogue.run(elsewhere)
    assert kept["rows"] == 25
    tombstones.add(corpus.at("tombstones"), namespace, identities=["person-0004"])
    with pytest.raises(Occupied, match="lists other faces than the source now has"):
        catalogue.run(config)


def test_a_twin_that_takes_over_an_id_is_reported(
    model: str, people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Planning needs no Ray; the vectors of the earlier pictures do not matter here."""
    corpus = Corpus(tmp_path, people, model)
    corpus.add(0)
    (corpus.pictures / "person-0000" / "03.jpg").rename(corpus.pictures / "person-0000" / "03.webp")
    faces = Faces.open(corpus.catalogue("faces-a"))
    id_N = sorted(faces.table["face_id"].to_pylist())
    content = {
        "namespace": faces.namespace,
        "fingerprint": bundle.load(model).fingerprint,
        "precision": "float32",
        "tags": delta.tags(faces.table),
    }
    minted.embeddings(tmp_path / "a", id_N, minted.unit_vectors(len(id_N)), unit=99, **content)
    shutil.copy2(corpus.pictures / "person-0000" / "03.webp", corpus.pictures / "person-0000" / "03.jpg")
    config = EmbedConfig(faces=corpus.catalogue("faces-b"), model=model, out=corpus.at("b"), since=corpus.at("a"))
    capfd.readouterr()
    assert EmbedPlan.of(config).inputs == 2
    assert capfd.readouterr().err == (
        "1 pictures have a new twin whose name differs only in the ending; the one whose ending comes first now has "
        "the face_id of the plain key, and both are embedded again\n"
    )
    assert EmbedPlan.of(replace(config, faces=corpus.at("faces-a"))).inputs == 0
    assert not capfd.readouterr().err
