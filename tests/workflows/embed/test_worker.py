"""Bad pictures are put in the quarantine, counted and limited; a network's NaN never enters an artefact."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.tiny import Chain

from metric_core.artefacts import schema
from metric_core.artefacts.embeddings import Embeddings, check_unit, from_table, to_table
from metric_core.errors import Corrupt, SchemaMismatch, TooManyBadImages
from metric_core.model import bundle
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig


def test_odd_images_are_quarantined_with_reasons(chain: Chain, data_root: Path, people: Path, tmp_path: Path) -> None:
    for path in (data_root / "odd_images").iterdir():  # one folder per ending: some names differ only in that
        target = tmp_path / "corpus" / f"odd{path.suffix}"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(people / "person-0000", tmp_path / "corpus" / "person-0000")
    faces, out = str(tmp_path / "faces"), str(tmp_path / "out")
    rows = catalogue.run(CatalogueConfig(source=str(tmp_path / "corpus"), out=faces))["rows"]
    assert rows == 44 + 6, "all pictures are listed; the table of expectations is not a picture"
    config = EmbedConfig(faces=faces, model=chain.model, out=out, unit_size=20, actors=1, max_bad_fraction=0.1)
    with pytest.raises(TooManyBadImages, match=r"\d+ of 50 faces cannot be embedded .*not-an-image"):
        embed.run(config)
    assert not (tmp_path / "out" / "manifest.json").exists()
    answer = embed.run(replace(config, max_bad_fraction=0.5))
    assert answer["embedded"] + answer["quarantined"] == 50
    table = pa.concat_tables([pq.read_table(p) for p in sorted((tmp_path / "out" / "quarantine").iterdir())])
    schema.check(table, schema.QUARANTINE, "quarantine")
    reasons = {row["uri"].split("/")[-1]: row["reason"] for row in table.to_pylist()}
    assert reasons["LOCAL_zero_bytes.jpg"] == "empty"
    assert reasons["LOCAL_text_named.jpg"] == "not-an-image"
    assert reasons["decompression_bomb.gif"] == "too-large"
    assert reasons["truncated_jpeg.jpg"] == "truncated"
    expected = (data_root / "odd_images" / "EXPECTED.tsv").read_text().splitlines()[1:]
    broken = {line.split("\t")[0] for line in expected if not line.split("\t")[7].startswith("decodes")}
    assert set(reasons) == broken
    assert answer["quarantined"] == len(broken)


def test_a_picture_that_went_away_is_quarantined(chain: Chain, people: Path, tmp_path: Path) -> None:
    shutil.copytree(people / "person-0000", tmp_path / "corpus" / "person-0000")
    faces = str(tmp_path / "faces")
    catalogue.run(CatalogueConfig(source=str(tmp_path / "corpus"), out=faces))
    (tmp_path / "corpus" / "person-0000" / "00.jpg").unlink()
    out = str(tmp_path / "out")
    answer = embed.run(EmbedConfig(faces=faces, model=chain.model, out=out, max_bad_fraction=0.5))
    assert (answer["embedded"], answer["quarantined"]) == (5, 1)
    assert Embeddings.open(out).manifest.content["reasons"] == {"missing": 1}


def test_nan_never_enters(chain: Chain, people: Path, tmp_path: Path) -> None:
    embedder = bundle.load(chain.model).embedder
    with torch.no_grad():
        embedder.net.head.bias.fill_(float("nan"))
    bundle.save(embedder, str(tmp_path / "broken"), operating_points=[], provenance={})
    with pytest.raises(TooManyBadImages, match="no-vector"):
        embed.run(EmbedConfig(faces=chain.faces, model=str(tmp_path / "broken"), out=str(tmp_path / "out")))


def test_tables_of_vectors() -> None:
    rng = np.random.default_rng(0)
    unit_ND = rng.normal(size=(5, 8)).astype(np.float32)
    unit_ND /= np.linalg.norm(unit_ND, axis=1, keepdims=True)
    ids = np.array([5, 1, 4, 2, 3])
    table = to_table(ids, list("edcba"), [None] * 5, unit_ND, np.ones(5))
    assert table["face_id"].to_pylist() == [1, 2, 3, 4, 5]
    back = from_table(table)
    np.testing.assert_array_equal(back.embedding_ND, unit_ND[np.argsort(ids)])
    assert back.identity_N.tolist() == ["d", "b", "a", "c", "e"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 8), "a plain Arrow type"
    with pytest.raises(ValueError, match=r"1 of 5 vectors are not unit length \(row 2: 1.1\)"):
        check_unit(unit_ND * np.array([[1], [1], [1.1], [1], [1]], np.float32), "x")
    unit_ND[0, 0] = np.nan
    with pytest.raises(ValueError, match="not unit length"):
        check_unit(unit_ND, "x")


def test_a_damaged_part_is_corrupt(chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(chain.embeddings, tmp_path / "emb")
    part = tmp_path / "emb" / "part-000001.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    with pytest.raises(Corrupt, match=r"part-000001\.parquet: its sha256 is not the manifest's"):
        Embeddings.open(str(tmp_path / "emb")).load()


def test_schema_check_names_every_column() -> None:
    table = pa.table({"face_id": pa.array([1], pa.int32()), "extra": ["x"], "uri": ["u"], "reason": [None]})
    with pytest.raises(SchemaMismatch, match=r"face_id is int32, not int64; reason is null.*detail is miss.*extra"):
        schema.check(table, schema.QUARANTINE, "here")
