"""The jobs one after the other, on drawn faces and one Ray."""

import dataclasses
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from support.tiny import Chain, small

from metric_core.artefacts import manifest, schema
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.errors import (
    ConfigError,
    FingerprintMismatch,
    ImageUnreadable,
    JobRunning,
    Missing,
    Occupied,
    TooFewImages,
    Unfinished,
)
from metric_core.evaluate import clustering
from metric_core.model import bundle
from workflows import cli
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig
from workflows.evaluate import job as evaluate
from workflows.evaluate.config import EvaluateConfig
from workflows.index import job as index
from workflows.index.config import IndexConfig
from workflows.search import gallery
from workflows.search import job as search
from workflows.search.config import SearchConfig
from workflows.shared import lease, models
from workflows.train import job as train
from workflows.train import training
from workflows.verify import job as verify
from workflows.verify.config import VerifyConfig


def test_train_writes_a_model_with_operating_points(chain: Chain) -> None:
    answer = chain.answers["train"]
    model = bundle.load(chain.model)
    assert model.fingerprint == answer["fingerprint"] == manifest.read(chain.model, "model").content["fingerprint"]
    assert answer["steps"] == 12
    assert answer["images_per_second"] > 0
    assert {"accuracy", "auc", "eer", "tar_at_far_1e-1"} <= set(answer["validation"])
    assert 0.5 < answer["validation"]["accuracy"] <= 1
    assert model.operating_points[0].negatives > 100
    assert sorted(p.name for p in Path(chain.model).iterdir()) == [
        "manifest.json",
        "model.json",
        "plan.json",
        "weights.safetensors",
    ], "checkpoints are removed when the model is complete"


def test_mlflow_has_the_run(chain: Chain) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=chain.tracking_uri)
    run = client.get_run(chain.answers["train"]["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["objective.margin"] == "0.2"
    assert run.data.params["workers"] == "2"
    assert run.data.tags["fingerprint"] == chain.answers["train"]["fingerprint"]
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "loss")]
    assert steps == [3, 6, 9, 12]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "valid/auc")] == [6, 12]
    assert {"active_fraction", "images_per_second", "learning_rate", "gradient_norm"} <= set(run.data.metrics)
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["config.json"]


def test_registered_model_is_the_model(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", chain.tracking_uri)
    assert models.load("models:/likeness/1").fingerprint == chain.answers["train"]["fingerprint"]
    with pytest.raises(Missing, match="has no such model"):
        models.load("models:/likeness/99")
    pixels = np.zeros((2, 1, 32, 32), np.uint8)
    mlflow.set_tracking_uri(chain.tracking_uri)
    served = mlflow.pyfunc.load_model("models:/likeness/1").predict(pixels)
    assert served.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(served, axis=1), 1, atol=1e-5)


def test_books_balance_and_parts_fit_the_schema(chain: Chain) -> None:
    times = ("seconds", "startup_seconds", "images_per_second")
    assert all(chain.answers["embed"][name] > 0 for name in times)
    assert chain.answers["embed"] | dict.fromkeys(times, 0) == {
        "embeddings": chain.embeddings,
        "embedded": 144,
        "quarantined": 0,
        "reused": 0,
        "seconds": 0,
        "startup_seconds": 0,
        "images_per_second": 0,
    }
    source = Embeddings.open(chain.embeddings)
    vectors = source.load()
    assert len(np.unique(vectors.face_id_N)) == 144
    assert [part["rows"] for part in source.parts] == [40, 40, 40, 24]
    for part in source.parts:
        table = schema.check(source.read_part(part), schema.embeddings(32), part["name"])
        assert table["face_id"].to_pylist() == sorted(table["face_id"].to_pylist())
        assert min(table["norm"].to_pylist()) > 0


def test_embedding_again_changes_nothing(chain: Chain) -> None:
    answer = embed.run(EmbedConfig(faces=chain.faces, model=chain.model, out=chain.embeddings, unit_size=40))
    assert (answer["reused"], answer["embedded"]) == (144, 144)
    with pytest.raises(Occupied, match="unit_size: 40 there, 50 here"):
        embed.run(EmbedConfig(faces=chain.faces, model=chain.model, out=chain.embeddings, unit_size=50))


def test_float16_halves_the_bytes_and_keeps_the_cosine(chain: Chain, tmp_path: Path) -> None:
    out = str(tmp_path / "half")
    embed.run(EmbedConfig(faces=chain.faces, model=chain.model, out=out, dtype="float16"))
    half, full = Embeddings.open(out).load(), Embeddings.open(chain.embeddings).load()
    a, b = np.argsort(half.face_id_N), np.argsort(full.face_id_N)
    unit_ND = half.embedding_ND[a] / np.linalg.norm(half.embedding_ND[a], axis=1, keepdims=True)
    cosine = np.einsum("nd,nd->n", unit_ND, full.embedding_ND[b])
    assert cosine.min() > 0.9999


def test_index_is_live_and_exact(chain: Chain) -> None:
    answer = chain.answers["index"]
    assert (answer["rows"], answer["people"], answer["shards"]) == (144, 24, 3)
    assert (answer["spec"], answer["identity_recall"], answer["recall"]) == ("Flat", 1.0, 1.0)
    assert (Path(chain.index) / "CURRENT").read_text().strip() == answer["version"]
    again = index.run(IndexConfig(embeddings=chain.embeddings, out=chain.index, shards=3))
    assert again["version"] == answer["version"]


def test_search_by_picture_finds_it(chain: Chain, people: Path, tmp_path: Path) -> None:
    picture, broken = people / "person-0003" / "02.jpg", tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    answer = search.run(
        SearchConfig(
            index=chain.index,
            model=chain.model,
            image=[str(picture), str(broken)],
            top=3,
            out=str(tmp_path / "matches"),
            gallery=str(tmp_path / "gallery.png"),
        )
    )
    first = answer["matches"][0]
    assert (first["query"], first["rank"], first["identity"]) == (str(picture), 1, "person-0003")
    assert first["score"] == pytest.approx(1, abs=1e-5)
    assert first["accepted"] is None
    assert len({match["identity"] for match in answer["matches"]}) == 3, "ranks count identities"
    (unreadable,) = answer["unreadable"]
    assert unreadable["query"] == str(broken)
    assert unreadable["reason"].startswith("not-an-image: the first bytes are b'not a pi'; expected one of JPEG, PNG")
    assert manifest.read(str(tmp_path / "matches"), "matches").content["rows"] == 3
    assert pq.read_table(tmp_path / "matches" / "matches.parquet").schema.equals(schema.MATCHES)
    assert Image.open(tmp_path / "gallery.png").width > 4 * 96


def test_search_by_embeddings_does_not_find_itself(chain: Chain) -> None:
    answer = search.run(SearchConfig(index=chain.index, embeddings=chain.embeddings, top=2))
    assert len(answer["matches"]) == 2 * 144
    assert all(int(match["query"]) != match["face_id"] for match in answer["matches"])
    assert "\n  2. " in search.show(answer)


def test_a_finished_search_belongs_to_its_pictures(chain: Chain, people: Path, tmp_path: Path) -> None:
    probe, out = tmp_path / "probe.jpg", str(tmp_path / "matches")
    config = SearchConfig(index=chain.index, model=chain.model, image=[str(probe)], out=out)
    probe.write_bytes((people / "person-0003" / "02.jpg").read_bytes())
    search.run(config)
    assert search.run(config)["matches"] == pq.read_table(f"{out}/matches.parquet").to_pylist()
    probe.write_bytes((people / "person-0004" / "02.jpg").read_bytes())
    with pytest.raises(Occupied, match="queries: "):
        search.run(config)


def test_a_gallery_shows_who_was_asked_about(
    chain: Chain, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes from another catalogue than the index's have ids that its Faces do not have."""
    at = {name: str(tmp_path / name) for name in ("faces", "embeddings")}
    catalogue.run(CatalogueConfig(source=str(people), out=at["faces"], namespace="probes"))
    embed.run(EmbedConfig(faces=at["faces"], model=chain.model, out=at["embeddings"]))
    sheets: list[tuple[bytes, bytes]] = []

    def draw(matches: pa.Table, fetch_probe: gallery.Fetch, fetch_face: Callable[[int], bytes], out: str) -> None:
        best = [row for row in matches.to_pylist() if row["rank"] == 1]
        sheets.extend((fetch_probe(row["query"]), fetch_face(row["face_id"])) for row in best)
        with pytest.raises(Missing, match="has no face"):
            fetch_face(int(best[0]["query"]))

    monkeypatch.setattr(gallery, "draw", draw)
    search.run(SearchConfig(index=chain.index, embeddings=at["embeddings"], gallery=str(tmp_path / "g.png")))
    assert len(sheets) == 144
    assert all(asked == found for asked, found in sheets), "each finds its own picture"


def test_a_search_for_nobody_finds_nobody(chain: Chain, tmp_path: Path) -> None:
    config = EmbedConfig(faces=chain.faces, model=chain.model, out=str(tmp_path / "none"), since=chain.embeddings)
    assert embed.run(config)["embedded"] == 0
    assert search.run(SearchConfig(index=chain.index, embeddings=config.out))["matches"] == []


def test_a_search_needs_something_readable(chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(ImageUnreadable, match="none of 1 pictures can be read"):
        search.run(SearchConfig(index=chain.index, model=chain.model, image=[str(tmp_path)]))
    with pytest.raises(Missing):
        search.run(SearchConfig(index=chain.index, model=chain.model, image=[str(tmp_path / "no.jpg")]))


def test_verify_decides_by_an_operating_point(chain: Chain, people: Path) -> None:
    picture = str(people / "person-0001" / "00.jpg")
    answer = verify.run(VerifyConfig(model=chain.model, images=[picture, picture], far=0.1))
    assert answer["same"]
    assert answer["similarity"] == pytest.approx(1, abs=1e-5)
    assert verify.show(answer).startswith("the same person: similarity 1.0000 >= threshold")
    with pytest.raises(ConfigError, match="below what this model was measured at"):
        verify.run(VerifyConfig(model=chain.model, images=[picture, picture], far=1e-6))


def test_evaluate(chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"person-{n:04d}" for n in range(24)]
    lines = ["2\t10"]
    for fold in range(2):
        lines += [f"{name}\t1\t{2 + fold}" for name in names[fold * 10 : fold * 10 + 10]]
        lines += [f"{names[n]}\t1\t{names[n + 1]}\t1" for n in range(fold * 10, fold * 10 + 10)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines) + "\n")
    identified = evaluate.run(EvaluateConfig(embeddings=chain.embeddings, identification=True))
    assert (identified["gallery"], identified["probes"]) == (24, 120)
    assert 1 / 24 < identified["rank1"] <= identified["rank5"] <= 1
    verified = evaluate.run(EvaluateConfig(embeddings=chain.embeddings, verification=True))
    assert verified["pairs"] == 2 * 24 * 15, "all genuine pairs and as many impostor pairs"
    assert 0.5 < verified["accuracy"] <= 1
    retrieved = evaluate.run(EvaluateConfig(embeddings=chain.embeddings, retrieval=True))
    assert (retrieved["queries"], retrieved["queries_skipped"]) == (144, 0)
    assert 1 / 24 < retrieved["map_at_r"] <= retrieved["r_precision"] <= 1
    classified = evaluate.run(EvaluateConfig(embeddings=chain.embeddings, classification=True, neighbours=1))
    assert classified["accuracy"] == pytest.approx(retrieved["precision_at_1"]), "one neighbour decides both"
    clustered = evaluate.run(EvaluateConfig(embeddings=chain.embeddings, clustering=True, threshold=0.99))
    assert (clustered["people"], clustered["pictures"], clustered["threshold"]) == (24, 144, 0.99)
    assert clustered == clustering.report(Embeddings.open(chain.embeddings).load(), 0.99)
    assert (
        cli.main(["evaluate", "--embeddings", chain.embeddings, "--clustering", "--threshold", "0.99", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out) == clustered
    # Names in the drawn corpus differ from LFW's, so that no pair is found: that is an error.
    with pytest.raises(Exception, match="none of the 40 pairs"):
        evaluate.run(EvaluateConfig(embeddings=chain.embeddings, pairs=str(tmp_path / "pairs.txt")))


@pytest.mark.parametrize(
    ("options", "problems"),
    [
        ({}, ["give exactly one of --pairs FILE, --verification, --identification, --retrieval, --clustering and"]),
        ({"retrieval": True, "pairs": "pairs.txt"}, ["give exactly one"]),
        ({"retrieval": True, "threshold": 0.5}, ["only --clustering takes one"]),
        (
            {"clustering": True, "threshold": 1.0, "neighbours": 0},
            ["threshold is 1.0; it must be above 0 and below 1", "neighbours is 0"],
        ),
    ],
)
def test_evaluate_needs_exactly_one_protocol(options: dict, problems: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        EvaluateConfig(embeddings="e", **options)
    lines = str(error.value).splitlines()
    assert len(lines) == len(problems)
    assert all(problem in line for problem, line in zip(problems, lines))


def test_vectors_of_two_models_are_never_mixed(chain: Chain, tmp_path: Path, people: Path) -> None:
    other = str(tmp_path / "model")
    embedder = bundle.load(chain.model).embedder
    with torch.no_grad():
        embedder.net.head.bias += 0.1
    bundle.save(embedder, other, operating_points=[], provenance={})
    with pytest.raises(FingerprintMismatch, match="index was built from vectors of model"):
        search.run(SearchConfig(index=chain.index, model=other, image=[str(people / "person-0001")]))
    embed.run(EmbedConfig(faces=chain.faces, model=other, out=str(tmp_path / "emb")))
    with pytest.raises(FingerprintMismatch):
        search.run(SearchConfig(index=chain.index, embeddings=str(tmp_path / "emb")))
    with pytest.raises(ConfigError, match="has no operating points"):
        verify.run(VerifyConfig(model=other, images=["a", "b"]))


def test_what_training_refuses(chain: Chain, tmp_path: Path, people: Path) -> None:
    def faces_of(*folders: str) -> str:
        out, root = str(tmp_path / f"faces-{len(list(tmp_path.iterdir()))}"), tmp_path / "-".join(folders)
        for folder in folders:
            name, count = folder.split("x")
            (root / name).mkdir(parents=True)
            for n in range(int(count)):
                (root / name / f"{n}.jpg").symlink_to(people / "person-0000" / "00.jpg")
        catalogue.run(CatalogueConfig(source=str(root), out=out))
        return out

    with pytest.raises(TooFewImages, match="1 people with 3 pictures; 1 have two or more"):
        train.run(small(faces_of("Annx3"), str(tmp_path / "m1"), chain.tracking_uri))
    with pytest.raises(TooFewImages, match="0 have two or more"):
        train.run(small(faces_of("Bobx1", "Cyx1"), str(tmp_path / "m2"), chain.tracking_uri))
    with pytest.raises(ConfigError, match=r"workers is 6 at 1 CPUs each .* room for 4 of them, on nodes of 1 x 4 CPUs"):
        train.run(small(chain.faces, str(tmp_path / "m3"), chain.tracking_uri, workers=6))
    with pytest.raises(ConfigError, match="train_split and valid_split are both 'valid'"):
        train.run(small(chain.faces, str(tmp_path / "m6"), chain.tracking_uri, train_split="valid"))
    with pytest.raises(ConfigError, match="has no split 'test'; it has: train, valid"):
        train.run(small(chain.faces, str(tmp_path / "m4"), chain.tracking_uri, train_split="test"))
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(Unfinished):
        train.run(small(str(tmp_path / "unfinished"), str(tmp_path / "m5"), chain.tracking_uri))
    with pytest.raises(ConfigError, match="margin is 5"):
        small(chain.faces, "x", "y", objective=dataclasses.replace(small("a", "b", "c").objective, margin=5.0))
    assert not list(tmp_path.glob("m*/manifest.json")), "no manifest is written"


def test_a_second_run_waits_for_the_lease(chain: Chain, tmp_path: Path) -> None:
    out = tmp_path / "emb"
    out.mkdir()
    with lease.held(str(out)), pytest.raises(JobRunning, match="is being written by process"), lease.held(str(out)):
        pass
    assert not list(out.iterdir())
    dead = {"host": socket.gethostname(), "boot": "another", "pid": 1, "started": 0, "beat": 0}
    (out / lease.NAME).write_text(json.dumps(dead))
    with lease.held(str(out)):
        assert json.loads((out / lease.NAME).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("others", [None, "learning"])
def test_validation_people_are_never_learnt_from(people: Path, tmp_path: Path, others: str | None) -> None:
    """Also if the file of splits lists only them, or has another split for the others."""
    names = sorted(path.name for path in people.iterdir())
    split_of = dict.fromkeys(names[:4], "valid") | (dict.fromkeys(names[4:], others) if others else {})
    lines = [f"{name},{split}" for name, split in split_of.items()]
    (tmp_path / "splits.csv").write_text("\n".join(["identity,split", *lines]))
    at = str(tmp_path / "faces")
    catalogue.run(CatalogueConfig(source=str(people), out=at, splits=str(tmp_path / "splits.csv")))
    learnt, watched = training.splits(small(at, "x", "y"), Faces.open(at))
    assert watched is not None
    assert sorted(set(watched["identity"].to_pylist())) == names[:4]
    assert sorted(set(learnt["identity"].to_pylist())) == names[4:]
