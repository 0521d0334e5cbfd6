"""What was finished before an erasure stays finished, what was half done continues without the erased."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.tiny import untrained

from metric_core.artefacts import audit, manifest
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.errors import Occupied
from metric_core.index.search import Index
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig
from workflows.erase import job as erase
from workflows.erase.config import EraseConfig
from workflows.index import job as index
from workflows.index.config import IndexConfig

pytestmark = pytest.mark.slow
ANN = "person-0003"


def vectors(uri: str) -> dict[int, tuple[str, bytes]]:
    found = Collection.open(uri).load()
    rounded = np.round(found.embedding_ND * 2**12).astype(np.int32)
    return {i: (who, row.tobytes()) for i, who, row in zip(found.face_id_N.tolist(), found.identity_N, rounded)}


def test_embeddings_and_indexes_go_on(tmp_path: Path, people: Path, ray_session: None) -> None:
    corpus = shutil.copytree(people, tmp_path / "pictures")
    for person in (ANN, "person-0001"):
        (corpus / person / "broken.jpg").write_bytes(b"broken")
    at = {name: str(tmp_path / name) for name in ("faces", "whole", "half", "index", "unfinished")}
    catalogue.run(CatalogueConfig(source=str(corpus), out=at["faces"]))
    model = untrained(str(tmp_path / "model"))

    def embedded(name: str, **more: bool) -> dict:
        how = {"faces": at["faces"], "model": model, "unit_size": 10, "max_bad_fraction": 0.1, "actors": 1}
        return embed.run(EmbedConfig(out=at[name], **how, **more))

    def indexed(name: str) -> dict:
        return index.run(IndexConfig(embeddings=at["whole"], out=at[name], spec="Flat", shards=2))

    embedded("whole")
    built = indexed("index")
    shutil.copytree(at["index"], at["unfinished"])  # its version without manifest is one that was killed
    (version,) = (Path(at["unfinished"]) / "versions").iterdir()
    (version / manifest.NAME).unlink()
    (Path(at["unfinished"]) / "CURRENT").unlink()
    shutil.copytree(at["whole"], at["half"])
    (Path(at["half"]) / manifest.NAME).unlink()
    for path in [*Path(at["half"]).rglob("*000009*"), *Path(at["half"]).rglob("*000004*")]:
        path.unlink()
    before, faces = vectors(at["whole"]), Faces.open(at["faces"]).table
    ids = {i for i, who in zip(faces["face_id"].to_pylist(), faces["identity"].to_pylist()) if who == ANN}

    how = {"faces": at["faces"], "identity": [ANN]}
    erase.run(EraseConfig(**how, embeddings=[at["whole"]]))
    after = {i: row for i, row in before.items() if i not in ids}
    assert vectors(at["whole"]) == after
    assert embedded("whole")["reused"] == len(after) + 1, "finished"
    with pytest.raises(Occupied, match=r"rewritten when faces were erased.*--since"):
        embedded("whole", retry_quarantined=True)

    said = embedded("half")
    assert vectors(at["half"]) == after
    assert not list(audit.problems(Embeddings.open(at["half"])))
    redone = len(after) - said["reused"]
    assert 0 < redone < len(after) / 2, "units without the erased are not done again"

    with pytest.raises(Occupied, match=r"was built before 6 faces were erased .* likeness erase --index"):
        indexed("index")
    erase.run(EraseConfig(**how, embeddings=[at["whole"]], index=[at["index"]]))
    again = indexed("index")
    assert (again["version"], again["rows"]) == (built["version"], len(after))
    assert ANN not in Index.open(at["index"]).names.to_pylist()
    fresh = indexed("unfinished")
    assert (fresh["version"], fresh["rows"]) == (built["version"], len(after))
    assert ANN not in Index.open(at["unfinished"]).names.to_pylist()
    receipts = [json.loads(path.read_text()) for path in (tmp_path / "receipts").glob("*.json")]
    kinds = {one["kind"] for receipt in receipts for one in receipt["artefacts"]}
    assert kinds == {"faces", "embeddings", "index"}


def test_unfinished_embeddings_lose_the_units_that_hold_the_erased(
    tmp_path: Path, people: Path, ray_session: None
) -> None:
    faces, out = str(tmp_path / "faces"), str(tmp_path / "half")
    catalogue.run(CatalogueConfig(source=str(people), out=faces))
    options = EmbedConfig(faces=faces, model=untrained(str(tmp_path / "model")), out=out, unit_size=10, actors=1)
    embed.run(options)
    before = vectors(out)
    (Path(out) / manifest.NAME).unlink()
    answer = erase.run(EraseConfig(faces=faces, identity=[ANN], embeddings=[out]))
    assert answer["faces"] == 6
    embed.run(options)
    gone = before.keys() - vectors(out).keys()
    assert {before[number][0] for number in gone} == {ANN}
    assert vectors(out) == {number: row for number, row in before.items() if number not in gone}
