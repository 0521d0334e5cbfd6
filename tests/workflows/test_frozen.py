"""Artefacts of every format so far: each is opened, used and continued by the current code."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from metric_core.artefacts import audit, manifest, migrate, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.artefacts.migrate import Step
from metric_core.errors import Corrupt, SchemaMismatch
from metric_core.index.search import Index
from metric_core.model import bundle
from metric_core.model.spec import ModelSpec
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig
from workflows.index import check as index_check
from workflows.index import job as index
from workflows.index.config import CheckConfig as IndexCheckConfig
from workflows.index.config import IndexConfig
from workflows.search import job as search
from workflows.search.config import SearchConfig
from workflows.train import job as train
from workflows.train.config import TrainConfig

FROZEN = Path(__file__).parents[1] / "frozen"
FORMATS = sorted(path.name for path in FROZEN.iterdir() if path.is_dir())
PICTURES = Path("/tmp/likeness-frozen/pictures")
"""The folder that the Faces refer to; see tests/frozen/README.md."""
MTIME = 1_700_000_000
"""When all of them were changed last, as far as their content tags know."""
FINISHED = {
    "faces": "faces",
    "faces-2": "faces",
    "model": "model",
    "embeddings": "embeddings",
    "delta": "embeddings",
    "matches": "matches",
}


@pytest.fixture(params=FORMATS)
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of all artefacts of one format."""
    return Path(shutil.copytree(FROZEN / request.param, tmp_path / "frozen"))


@pytest.fixture
def pictures(frozen: Path) -> Path:
    """The pictures, at the address in the Faces; several runs of the tests may share them."""
    PICTURES.parent.mkdir(exist_ok=True)
    if not PICTURES.exists():
        laid = Path(tempfile.mkdtemp(dir=PICTURES.parent)) / "pictures"
        shutil.copytree(frozen / "pictures", laid)
        for path in laid.rglob("*"):
            os.utime(path, (MTIME, MTIME))
        try:
            os.rename(laid, PICTURES)
        except OSError:  # another run was first
            assert PICTURES.exists()
    return PICTURES


def both(frozen: Path) -> str:
    return f"{frozen / 'embeddings'},{frozen / 'delta'}"


def training(frozen: Path, out: str, **more: int) -> TrainConfig:
    """The options that the frozen Model was trained with."""
    how = {"steps": 4, "identities": 3, "images": 2, "image_size": 16, "embedding_size": 8, "warmup": 1}
    how |= {"evaluate_every": 2, "checkpoint_every": 100, "report_every": 2, "cpus_per_worker": 1}
    store = f"sqlite:///{frozen / 'mlflow.db'}"
    return TrainConfig(
        faces=str(frozen / "faces"), out=str(frozen / out), precision="float32", tracking_uri=store, **(how | more)
    )


def embedding(frozen: Path, out: str, **more: str) -> EmbedConfig:
    """The options that the frozen Embeddings were made with."""
    faces, model = str(frozen / "faces"), str(frozen / "model")
    how = {"faces": faces, "model": model, "out": str(frozen / out)} | more
    return EmbedConfig(**how, unit_size=8, max_bad_fraction=0.1, actors=1)


@pytest.mark.parametrize(("name", "kind"), FINISHED.items())
def test_digests_are_what_they_were(frozen: Path, name: str, kind: str) -> None:
    stored = json.loads((frozen / name / "manifest.json").read_text())
    found = manifest.read(str(frozen / name), kind)
    assert found.digest == stored["digest"]
    assert manifest.digest(migrate.hashed(kind, "content", stored["content"])) == stored["digest"]
    assert found.provenance == stored["provenance"]


def test_the_same_pictures_give_the_same_faces(frozen: Path, pictures: Path, tmp_path: Path) -> None:
    how = {"source": str(pictures), "out": str(tmp_path / "faces"), "namespace": "frozen"}
    catalogue.run(CatalogueConfig(**how, valid_fraction=0.4, seed=3))
    stored, made = (manifest.read(str(at), "faces") for at in (frozen / "faces", tmp_path / "faces"))
    assert made.content == stored.content
    assert made.digest == stored.digest


def test_faces_open(frozen: Path) -> None:
    faces = Faces.open(str(frozen / "faces"))
    assert (faces.table.num_rows, faces.namespace, faces.count("valid")) == (33, "frozen", 13)


def test_the_model_has_its_fingerprint_and_embeds(frozen: Path) -> None:
    model = bundle.load(str(frozen / "model"))
    assert model.fingerprint == manifest.read(str(frozen / "model"), "model").content["fingerprint"]
    how = model.embedder.spec.preprocessing
    assert (how.size, how.align, len(how.mean_face)) == (16, "mean-face", 1368)


def test_embeddings_and_their_delta_are_read_as_one(frozen: Path) -> None:
    assert not [problem for one in both(frozen).split(",") for problem in audit.problems(Embeddings.open(one))]
    collection = Collection.open(both(frozen))
    vectors = collection.load()
    assert (collection.rows, len(vectors), len(collection.quarantined())) == (32, 32, 1)
    model = manifest.read(str(frozen / "model"), "model")
    assert collection.fingerprint == model.content["fingerprint"]
    assert np.abs(np.linalg.norm(vectors.embedding_ND, axis=1) - 1).max() < 1e-3


def test_tombstones_still_know_whom_they_are_for(frozen: Path) -> None:
    erased = tombstones.read(str(frozen / "erased" / "tombstones"))
    table = Faces.open(str(frozen / "faces")).table
    gone = table.filter(erased.erased(table, "frozen"))
    assert set(gone["identity"].to_pylist()) == {"person-0000", "person-0001"}
    assert gone.num_rows == 5, "one face of one person, all of the other's"


def matches_of(frozen: Path, out: str) -> list[tuple[str, int, str, int]]:
    """Whom a search finds, after comparing the scores with those that were found when the artefacts were frozen."""
    asked = SearchConfig(index=str(frozen / "index"), embeddings=both(frozen), out=str(frozen / out), top=3)
    found = search.run(asked)["matches"]
    stored = pq.read_table(frozen / "matches" / "matches.parquet").to_pylist()
    assert [m["score"] for m in found] == pytest.approx([m["score"] for m in stored], abs=1e-5)
    return [(m["query"], m["rank"], m["identity"], m["face_id"]) for m in found]


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def frozen_version(frozen: Path) -> Path:
    (version,) = (frozen / "index" / "versions").iterdir()
    return version


def test_a_finished_index_answers_and_the_same_command_builds_todays_beside_it(frozen: Path, ray_session: None) -> None:
    old = frozen_version(frozen)
    before = times(old)
    stored = pq.read_table(frozen / "matches" / "matches.parquet").to_pylist()
    expected = [(m["query"], m["rank"], m["identity"], m["face_id"]) for m in stored]
    assert matches_of(frozen, "then") == expected
    checked = index_check.run(IndexCheckConfig(index=str(frozen / "index"), verify=True))
    assert (checked["version"], checked["format"], checked["rows"], checked["shards"]) == (old.name, 1, 32, 2)

    made = index.run(IndexConfig(embeddings=both(frozen), out=str(frozen / "index"), shards=2))
    assert (frozen / "index" / "CURRENT").read_text().strip() == made["version"] != old.name
    assert (made["rows"], made["identity_recall"], made["recall"]) == (32, 1.0, 1.0)
    assert matches_of(frozen, "now") == expected
    assert times(old) == before
    Index.open(str(frozen / "index"), old.name)
    assert index_check.run(IndexCheckConfig(index=str(frozen / "index")))["format"] == 3


def test_an_index_of_the_second_format_is_the_commands_own_and_mended_in_place(
    frozen: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = frozen / "index-2"
    (version,) = (out / "versions").iterdir()
    digest = manifest.read(str(version), "index").digest
    assert index_check.run(IndexCheckConfig(index=str(out), verify=True))["format"] == 2
    before = times(out)
    config = IndexConfig(embeddings=both(frozen), out=str(out), shards=2)
    assert index.run(config)["version"] == version.name
    assert "is built already" in capsys.readouterr().err
    assert {path: when for path, when in times(out).items() if Path(path).name != "HISTORY"} == before
    whole = {name: (version / name).read_bytes() for name in ("names.arrow", "probes.arrow")}
    for name, data in whole.items():
        (version / name).write_bytes(data[:-1] + b"x")
    index.run(config)
    assert {name: (version / name).read_bytes() for name in whole} == whole
    assert manifest.read(str(version), "index").digest == digest
    assert not (out / "files").exists()


def test_a_half_finished_index_is_left_as_it_is(
    frozen: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    half = frozen_version(frozen)
    for name in ("manifest.json", "shard-001.json"):
        (half / name).unlink()
    (frozen / "index" / "CURRENT").unlink()
    before = times(half)
    made = index.run(IndexConfig(embeddings=both(frozen), out=str(frozen / "index"), shards=2))
    assert times(half) == before
    told = [line for line in capsys.readouterr().err.splitlines() if half.name in line]
    assert told == [
        f"version {half.name} was begun in an older format and never finished; it is left as it is, and version "
        f"{made['version']} is built beside it"
    ]
    stored = pq.read_table(frozen / "matches" / "matches.parquet").to_pylist()
    assert matches_of(frozen, "now") == [(m["query"], m["rank"], m["identity"], m["face_id"]) for m in stored]


def test_a_damaged_index_of_the_first_format_is_named(frozen: Path) -> None:
    path = frozen_version(frozen) / "shard-001.faiss"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"shard-001\.faiss"):
        index_check.run(IndexCheckConfig(index=str(frozen / "index")))


def test_finished_jobs_stay_finished(frozen: Path, ray_session: None) -> None:
    done = train.run(training(frozen, "model"))
    assert done["fingerprint"] == manifest.read(str(frozen / "model"), "model").content["fingerprint"]
    whole = embed.run(embedding(frozen, "embeddings"))
    assert (whole["embedded"], whole["quarantined"], whole["reused"]) == (32, 1, 33)
    delta = embed.run(
        embedding(frozen, "delta", faces=str(frozen / "faces-2"), since=str(frozen / "embeddings")),
    )
    assert (delta["embedded"], delta["gone"], delta["unchanged"]) == (2, 1, 30)


@pytest.mark.slow
def test_a_half_finished_embed_continues(frozen: Path, pictures: Path, ray_session: None) -> None:
    out = frozen / "half-embeddings"
    before = {path.name: path.read_bytes() for path in (out / "done").iterdir()}
    answer = embed.run(embedding(frozen, "half-embeddings"))
    assert (answer["embedded"], answer["quarantined"], answer["reused"]) == (32, 1, 24)
    assert {name: (out / "done" / name).read_bytes() for name in before} == before
    ids = {name: Embeddings.open(str(frozen / name)).manifest.content["plan_id"] for name in ("embeddings", out.name)}
    assert ids["embeddings"] == ids[out.name]


@pytest.mark.slow
def test_a_half_finished_training_continues(frozen: Path, pictures: Path, ray_session: None) -> None:
    config = training(frozen, "half-model", steps=400, report_every=10, evaluate_every=400)
    done = train.run(config)
    assert done["steps"] == 400
    losses = MlflowClient(tracking_uri=config.tracking_uri).get_metric_history(done["mlflow_run"], "loss")
    assert min(loss.step for loss in losses) == 150, "it was stopped at step 140"


def test_what_a_newer_likeness_wrote_says_which_one(frozen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a plan, which otherwise would count as that of another job."""
    now = migrate.format_of("embeddings")
    path = frozen / "half-embeddings" / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": now + 1, "needs": "7.1.0"}))
    with pytest.raises(SchemaMismatch, match=rf"format {now + 1} of embeddings.*install Likeness 7\.1\.0 or later"):
        manifest.begin(str(frozen / "half-embeddings"), "embeddings", {})
    path = frozen / "embeddings" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": now + 1, "digest": "of its own"}))
    with pytest.raises(SchemaMismatch, match=r"install Likeness \(a newer version\) or later"):
        Embeddings.open(str(frozen / "embeddings"))


def test_a_new_field_changes_no_hash(frozen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the next version added an option to plans and contents, and a field to model.json."""
    new = Step(since="0.2.0", added={"plan": {"effort": 3, "preprocessing.gamma": 1.0}, "content": {"masks": []}})
    spec = Step(since="0.2.0", added={"spec": {"preprocessing.gamma": 1.0}})
    steps = {kind: (*of, spec if kind == "model" else new) for kind, of in migrate.STEPS.items()}
    monkeypatch.setattr(migrate, "STEPS", steps)
    to_json = ModelSpec.to_json
    with_gamma = {"gamma": 1.0}

    def written(self: ModelSpec) -> dict:
        body = to_json(self)
        return body | {"preprocessing": body["preprocessing"] | with_gamma}

    def read(body: dict) -> ModelSpec:
        assert body["preprocessing"].pop("gamma") == 1.0, "filled in with its earlier meaning"
        return honest(body)

    honest = ModelSpec.from_json
    monkeypatch.setattr(ModelSpec, "to_json", written)
    monkeypatch.setattr(ModelSpec, "from_json", read)
    stored = json.loads((frozen / "model" / "manifest.json").read_text())["content"]["fingerprint"]
    assert bundle.load(str(frozen / "model")).fingerprint == stored
    found = Embeddings.open(str(frozen / "embeddings")).manifest
    assert found.content["effort"] == 3, "embeddings repeat their plan"
    plan = migrate.LIMITS["plan"] | json.loads((frozen / "embeddings" / "plan.json").read_text())["plan"]
    today = plan | {"effort": 3, "preprocessing": plan["preprocessing"] | with_gamma}
    assert manifest.begin(str(frozen / "embeddings"), "embeddings", today) is not None
    assert manifest.digest(migrate.hashed("embeddings", "plan", today)) == found.content["plan_id"]
    other = manifest.digest(migrate.hashed("embeddings", "plan", today | {"effort": 4}))
    assert other != found.content["plan_id"], "another value is another plan"
    assert manifest.Manifest.of("x", "embeddings", found.content, {}).digest == found.digest
