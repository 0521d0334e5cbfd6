"""The embed job's options: pools, precision, split, retries, dry run and figures; each ends with balanced books."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.tiny import Chain

from metric_core import storage
from metric_core.artefacts import manifest, migrate
from metric_core.artefacts.embeddings import Embeddings
from metric_core.errors import ConfigError, Occupied, TooManyBadImages
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.embed import job as embed
from workflows.embed import sample
from workflows.embed.config import EmbedConfig


@pytest.fixture
def config(chain: Chain, tmp_path: Path) -> EmbedConfig:
    return EmbedConfig(faces=chain.faces, model=chain.model, out=str(tmp_path / "out"), unit_size=40, actors=1)


def test_decoders_make_the_same_artefact(config: EmbedConfig, chain: Chain) -> None:
    embed.run(replace(config, decoders=2))
    assert manifest.read(config.out, "embeddings").digest == manifest.read(chain.embeddings, "embeddings").digest


def test_the_plan_names_what_differs(config: EmbedConfig) -> None:
    embed.run(config)
    plan = json.loads(storage.read_bytes(f"{config.out}/plan.json"))["plan"]
    assert set(plan) >= {"faces_digest", "fingerprint", "preprocessing", "unit_size", "split", "dtype", "precision"}
    hashed = migrate.hashed("embeddings", "plan", plan)  # limits of pictures count only where they are not the default
    assert manifest.read(config.out, "embeddings").content["plan_id"] == manifest.digest(hashed)
    with pytest.raises(Occupied, match=r"\(dtype: 'float32' there, 'float16' here; split: None there, 'valid' here\)"):
        embed.run(replace(config, split="valid", dtype="float16"))


def test_one_split_only(config: EmbedConfig, chain: Chain) -> None:
    answer = embed.run(replace(config, split="valid"))
    expected = chain.answers["catalogue"]["splits"]["valid"]["rows"]
    assert (answer["embedded"], Embeddings.open(config.out).rows) == (expected, expected)
    whole = {i: v.tobytes() for v in Embeddings.open(chain.embeddings).iter_vectors() for i, v in _rows(v)}
    some = {i: v for vectors in Embeddings.open(config.out).iter_vectors() for i, v in _rows(vectors)}
    assert len(some) == expected
    assert all(np.allclose(np.frombuffer(whole[i], np.float32), v, atol=1e-5) for i, v in some.items())
    with pytest.raises(ConfigError, match="has no split 'test'"):
        embed.run(replace(config, out=config.out + "2", split="test"))


def _rows(vectors: object) -> list[tuple[int, np.ndarray]]:
    return list(zip(vectors.face_id_N.tolist(), vectors.embedding_ND))  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_precision_is_admitted_by_its_cosine(
    config: EmbedConfig, chain: Chain, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sample, "MIN_COSINE", 0.9)
    embed.run(replace(config, precision="bf16"))
    shown = capfd.readouterr().err
    assert "precision bf16: cosine to float32 is 0.99" in shown
    half, full = (Embeddings.open(uri).load() for uri in (config.out, chain.embeddings))
    order, other = np.argsort(half.face_id_N), np.argsort(full.face_id_N)
    cosine = np.einsum("nd,nd->n", half.embedding_ND[order], full.embedding_ND[other])
    assert 0.9 < cosine.min() < 1 - 1e-7, "the precision had no effect"
    monkeypatch.setattr(sample, "MIN_COSINE", 1.01)
    with pytest.raises(ConfigError, match=r"lowest cosine to float32 over 144 faces is 0\.99\d+, 1\.01 is needed"):
        embed.run(replace(config, out=config.out + "2", precision="bf16"))
    assert not Path(config.out + "2", "done").exists()


def test_a_precision_is_checked_on_faces_of_the_split(
    config: EmbedConfig, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if many other faces come first."""
    pictures = sorted(people.rglob("*.jpg"))[:54]
    lines = [f"{path},{path.parent.name},{'train' if n < 48 else 'valid'}\n" for n, path in enumerate(pictures)]
    (tmp_path / "list.csv").write_text("path,identity,split\n" + "".join(lines))
    catalogue.run(CatalogueConfig(source=str(tmp_path / "list.csv"), out=str(tmp_path / "faces")))
    monkeypatch.setattr(sample, "MIN_COSINE", 1.01)
    with pytest.raises(ConfigError, match=r"lowest cosine to float32 over 6 faces is 0\.99"):
        embed.run(replace(config, faces=str(tmp_path / "faces"), split="valid", precision="bf16", unit_size=6))


def test_pools_that_do_not_fit_are_refused(config: EmbedConfig) -> None:
    with pytest.raises(ConfigError, match="actors is 3 and decoders is 2 but the cluster has 4 CPUs"):
        embed.run(replace(config, actors=3, decoders=2))
    with pytest.raises(ConfigError, match=r"actors is 1 at 0\.5 GPUs each but the cluster has 0 GPUs"):
        embed.run(replace(config, gpu=True, gpu_per_actor=0.5))
    with pytest.raises(ConfigError, match="gpu_per_actor is 2"):
        replace(config, gpu_per_actor=2)


@pytest.mark.slow
def test_a_dry_run_estimates_the_whole_and_writes_nothing(config: EmbedConfig) -> None:
    answer = embed.run(replace(config, actors=None, dry_run=True, price_per_hour=3600.0))
    assert (answer["units"], answer["images"], answer["actors"], answer["decoders"]) == (4, 144, 4, 0)
    assert answer["seconds"] > 0
    assert answer["cost"] == pytest.approx(answer["seconds"], rel=0.02)
    assert not Path(config.out).exists()
    embed.run(config)
    real = sum(path.stat().st_size for path in Path(config.out).glob("part-*"))
    assert 0.5 < answer["bytes"] / real < 1.5


@pytest.fixture
def spoilt(chain: Chain, people: Path, tmp_path: Path) -> tuple[Path, EmbedConfig]:
    """Four people; a picture of one is gone, and one of another is broken."""
    corpus, faces = tmp_path / "corpus", str(tmp_path / "faces")
    for n in range(4):
        shutil.copytree(people / f"person-{n:04d}", corpus / f"person-{n:04d}")
    catalogue.run(CatalogueConfig(source=str(corpus), out=faces))
    (corpus / "person-0001" / "02.jpg").unlink()
    (corpus / "person-0003" / "00.jpg").write_bytes(b"broken")
    out = str(tmp_path / "out")
    return corpus, EmbedConfig(faces=faces, model=chain.model, out=out, unit_size=5, actors=1, max_bad_fraction=0.5)


def repair(corpus: Path, people: Path, *paths: str) -> None:
    for path in paths:
        shutil.copy(people / path, corpus / path)


def quarantined(out: str) -> dict[str, str]:
    """{uri: reason} in all files of the quarantine."""
    rows = [row for path in Path(out, "quarantine").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {row["uri"]: row["reason"] for row in rows}


@pytest.mark.slow
def test_the_quarantine_of_a_finished_artefact_is_retried(spoilt: tuple[Path, EmbedConfig], people: Path) -> None:
    corpus, config = spoilt
    assert embed.run(config)["quarantined"] == 2
    first = manifest.read(config.out, "embeddings")
    parts = {path.name: path.read_bytes() for path in Path(config.out).glob("part-*")}
    repair(corpus, people, "person-0001/02.jpg")
    assert embed.run(config)["quarantined"] == 2, "not without --retry-quarantined"
    answer = embed.run(replace(config, retry_quarantined=True))
    assert (answer["embedded"], answer["quarantined"], answer["reused"]) == (23, 1, 22)
    second = manifest.read(config.out, "embeddings")
    assert second.content["inputs"] == 24
    assert quarantined(config.out) == {"person-0003/00.jpg": "not-an-image"}
    assert sum(part["rows"] for part in second.content["parts"]) == 23
    now = {path.name: path.read_bytes() for path in Path(config.out).glob("part-*")}
    assert parts.items() < now.items(), "earlier parts stay as they were"
    assert first.content["parts"] != second.content["parts"]
    repair(corpus, people, "person-0003/00.jpg")
    assert embed.run(replace(config, retry_quarantined=True))["quarantined"] == 0
    assert quarantined(config.out) == {}
    ids = Embeddings.open(config.out).load().face_id_N
    assert len(ids) == len(set(ids.tolist())) == 24
    third = manifest.read(config.out, "embeddings")
    assert embed.run(replace(config, retry_quarantined=True))["reused"] == 24
    assert manifest.read(config.out, "embeddings") == third, "with an empty quarantine the artefact is left alone"


def test_a_source_that_was_away_is_retried(spoilt: tuple[Path, EmbedConfig], people: Path) -> None:
    """The job stops early because all pictures are missing; none of these rejects are final."""
    corpus, config = spoilt
    corpus.rename(corpus.with_name("away"))
    config = replace(config, max_bad_fraction=0.1)
    with pytest.raises(TooManyBadImages, match="--retry-quarantined"):
        embed.run(config)
    assert not Path(config.out, manifest.NAME).exists()
    assert set(quarantined(config.out).values()) == {"missing"}, "finished units are kept"
    corpus.with_name("away").rename(corpus)
    with pytest.raises(TooManyBadImages):
        embed.run(config)
    answer = embed.run(replace(config, retry_quarantined=True))
    assert (answer["embedded"], answer["quarantined"]) == (22, 2)
    assert len(quarantined(config.out)) == 2
    ids = Embeddings.open(config.out).load().face_id_N
    assert len(ids) == len(set(ids.tolist())) == 22


def test_figures_go_to_mlflow(config: EmbedConfig, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    embed.run(replace(config, tracking_uri=uri))
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("likeness-embed")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["done"] == 144
    assert run.data.metrics["images_per_second"] > 0
    assert {f"seconds/{stage}" for stage in ("read", "decode", "forward", "write")} <= set(run.data.metrics)
    assert run.data.params["unit_size"] == "40"


def test_the_time_per_stage_is_shown(config: EmbedConfig, capfd: pytest.CaptureFixture[str]) -> None:
    embed.run(config)
    shown = capfd.readouterr().err
    assert "time went to read " in shown
    assert "; to go faster: " in shown
