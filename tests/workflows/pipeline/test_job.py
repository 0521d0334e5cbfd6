"""A pipeline over drawn faces: only what changed is done, and a worse version does not go live."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from support import tiny

from metric_core.artefacts import tombstones
from metric_core.artefacts.embeddings import Embeddings
from metric_core.errors import ConfigError, FingerprintMismatch, GateStopped, Missing, Occupied, TooManyBadImages
from metric_core.index.search import Index
from metric_core.index.store import IndexStore
from metric_core.model import bundle
from workflows import cli
from workflows.demo import drawn
from workflows.erase import job as erase
from workflows.erase.config import EraseConfig
from workflows.index import rollback
from workflows.index.config import RollbackConfig
from workflows.pipeline import job
from workflows.pipeline.config import PipelineConfig
from workflows.pipeline.folder import Folder

PEOPLE, PICTURES = 50, 4
RESULT = [
    *("work", "changed", "faces", "embeddings", "index", "version", "digest", "fingerprint", "rows", "people", "steps"),
    *("compared", "upgrade", "page", "seconds"),
]
"""Names that scripts read with ``--json``."""


@dataclass(frozen=True)
class Given:
    """A corpus and a model."""

    root: Path

    @property
    def people(self) -> Path:
        return self.root / "people"

    @property
    def model(self) -> str:
        return str(self.root / "model")

    @property
    def index(self) -> str:
        return str(self.root / "work" / "index")

    def config(self, **more: Any) -> PipelineConfig:
        given = {"source": str(self.people), "model": self.model, "work": str(self.root / "work")}
        return PipelineConfig(**given | more)

    def run(self, **more: Any) -> dict[str, Any]:
        return job.run(self.config(**more))

    def live(self) -> Index:
        return Index.open(self.index)


@pytest.fixture
def given(tmp_path: Path) -> Given:
    drawn.write_people(tmp_path / "people", range(PEOPLE), pictures=PICTURES, seed=3, size=32)
    tiny.untrained(str(tmp_path / "model"))
    return Given(tmp_path)


def worse_than(model: str, out: str) -> str:
    """Write a model of whose answer one component varies; returns its address."""
    found = bundle.load(model)
    with torch.no_grad():
        for name, parameter in found.embedder.named_parameters():
            if ".head." in name:
                parameter[1:].fill_(float(name.endswith("bias")))
    bundle.save(found.embedder, out, operating_points=[], provenance={})
    return out


def done(result: dict[str, Any]) -> list[str]:
    return [step["name"] for step in result["steps"] if step["state"] == "done"]


def figures(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(step["figures"] for step in result["steps"] if step["name"] == name)


@pytest.mark.slow
def test_only_what_changed_is_done(given: Given, ray_session: None) -> None:
    first = given.run()
    assert done(first) == ["catalogue", "delta", "embed", "index", "publish"]
    assert list(first) == RESULT
    assert (first["rows"], first["people"], first["compared"]) == (PEOPLE * PICTURES, PEOPLE, [])
    page = Path(first["page"]).read_text()
    assert first["version"] in page
    assert first["digest"] in page
    times = {path: path.stat().st_mtime_ns for path in given.root.rglob("*") if path.is_file()}
    again = given.run()
    assert not again["changed"]
    assert done(again) == []
    assert times == {path: path.stat().st_mtime_ns for path in given.root.rglob("*") if path.is_file()}
    names = ("faces", "embeddings", "version", "digest", "page")
    assert {name: again[name] for name in names} == {name: first[name] for name in names}

    drawn.write_people(given.people, range(PEOPLE, PEOPLE + 1), pictures=2, seed=3, size=32)
    more = given.run()
    assert figures(more, "delta") == {"new or changed": 2, "unchanged": PEOPLE * PICTURES, "gone": 0}
    assert figures(more, "embed")["embedded"] == figures(more, "index")["added"] == 2
    assert [figure["name"] for figure in more["compared"]] == ["probes found", "rows", "people"]
    assert more["people"] == PEOPLE + 1

    shutil.rmtree(given.people / drawn.name(5))
    shutil.copy(given.people / drawn.name(6) / "00.jpg", given.people / drawn.name(7) / "00.jpg")
    fewer = given.run(keep=1)
    assert figures(fewer, "delta") | {"unchanged": 0} == {"new or changed": 1, "unchanged": 0, "gone": PICTURES}
    assert (fewer["rows"], len(fewer["embeddings"])) == (PEOPLE * PICTURES + 2 - PICTURES, 3)
    assert drawn.name(5) not in given.live().identify(*_probe(given, 5), top=3)["identity"].to_pylist()
    folder = Folder.read(str(given.root / "work"))
    assert [one.number for one in folder.faces] == [3], "the others are of no version that is kept"
    assert [one.id for one in IndexStore(given.index).versions()] == [fewer["version"]]
    assert not given.run(keep=1)["changed"]


def _probe(given: Given, person: int) -> tuple[Any, list[str]]:
    """The vectors of a person whom the first run has embedded."""
    (first, *_) = Folder.read(str(given.root / "work")).embeddings
    vectors = next(iter(Embeddings.open(first.uri).iter_vectors()))
    at_N = vectors.identity_N == drawn.name(person)
    return vectors.embedding_ND[at_N], [str(number) for number in vectors.face_id_N[at_N]]


@pytest.mark.slow
def test_another_model_is_an_upgrade_and_a_worse_one_stays_outside(given: Given, ray_session: None) -> None:
    for person in given.people.iterdir():  # so alike that any network recognises them
        for number, quality in enumerate((70, 50, 35), 1):
            with Image.open(person / "00.jpg") as picture:
                picture.save(person / f"{number:02d}.jpg", quality=quality)
    old = given.run()
    better = tiny.untrained(str(given.root / "better"), size=24)
    store = f"sqlite:///{given.root / 'mlflow.db'}"
    work = sorted(path.name for path in (given.root / "work").iterdir())
    with pytest.raises(FingerprintMismatch, match="--upgrade"):
        given.run(model=better)
    with pytest.raises(ConfigError, match="probes are embeddings of one model"):
        given.run(model=better, upgrade=True, probes=next(iter(old["embeddings"])))
    assert work == sorted(path.name for path in (given.root / "work").iterdir())

    new = given.run(model=better, upgrade=True, tracking_uri=store)
    assert done(new) == ["delta", "embed", "index", "compare", "publish"]
    assert new["fingerprint"] != old["fingerprint"]
    assert new["upgrade"]["answers"]["probes"] == PEOPLE * PICTURES
    assert new["upgrade"]["answers"]["right_b"] > 0.9 * PEOPLE * PICTURES
    assert new["upgrade"]["scores"]["operating_points"]
    assert new["compared"][0]["name"] == "model"
    assert "new threshold" in Path(new["page"]).read_text()
    assert not given.run(model=better)["changed"]
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("likeness-pipeline")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.run_name for run in parents] == ["work"]
    children = {run.info.run_name for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id}
    assert children == {"embed", "index", "compare", "publish"}
    assert {run.info.status for run in runs} == {"FINISHED"}

    rollback.run(RollbackConfig(index=given.index))
    assert given.run()["version"] == old["version"]
    worse = worse_than(given.model, str(given.root / "worse"))
    with pytest.raises(GateStopped, match="probes found"):
        given.run(model=worse, upgrade=True)
    assert given.live().version.id == old["version"]
    page = (given.root / "work" / "report.html").read_text()
    assert "STOPS" in page
    assert "stopped" in page
    assert not given.run()["changed"], "the old model goes on"
    forced = given.run(model=worse, upgrade=True, force=True)
    assert given.live().version.id == forced["version"] != old["version"]


@pytest.mark.slow
def test_an_interrupted_upgrade_goes_on_after_runs_with_the_old_model(given: Given, ray_session: None) -> None:
    given.run()
    better = tiny.untrained(str(given.root / "better"), size=24)
    broken = given.people / drawn.name(0) / "00.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(b"broken")
    with pytest.raises(TooManyBadImages):
        given.run(model=better, upgrade=True, max_bad_fraction=0.0, unit_size=64)
    broken.write_bytes(whole)
    drawn.write_people(given.people, range(PEOPLE, PEOPLE + 1), pictures=2, seed=3, size=32)
    nightly = given.run(keep=1)
    folder = Folder.read(str(given.root / "work"))
    numbers = [one.number for one in folder.faces]
    assert numbers == [2, 3], "the catalogue of what is begun stays"
    upgraded = given.run(model=better, upgrade=True, unit_size=64, retry_quarantined=True, force=True)
    assert [step["name"] for step in upgraded["steps"] if step["state"] == "done"].count("embed") == 2
    assert (upgraded["rows"], upgraded["people"]) == (nightly["rows"], nightly["people"])
    assert len(upgraded["embeddings"]) == 2


@pytest.mark.slow
def test_who_was_erased_stays_out_and_a_source_in_part_stops(given: Given, ray_session: None) -> None:
    first = given.run()
    drawn.write_people(given.people, range(PEOPLE, PEOPLE + 1), pictures=2, seed=3, size=32)
    second = given.run()
    (faces,) = second["faces"]
    erase.run(
        EraseConfig(faces=faces, embeddings=list(second["embeddings"]), index=[given.index], identity=[drawn.name(8)])
    )
    erased = given.run()
    assert not erased["changed"]
    assert (erased["rows"], erased["version"]) == (second["rows"] - PICTURES, second["version"])
    tombstones.add(Folder.read(first["work"]).tombstones, "people", identities=[drawn.name(9)])
    hidden = given.run()
    assert hidden["rows"] == erased["rows"] - PICTURES
    assert not given.run()["changed"]

    part = given.root / "part"
    part.mkdir()
    for person in range(20):
        shutil.move(given.people / drawn.name(person), part)
    with pytest.raises(GateStopped, match="72 faces of earlier runs are not in the source any more"):
        given.run()
    assert given.live().version.id == hidden["version"]
    for person in part.iterdir():
        shutil.move(person, given.people)
    back = given.run()
    assert (back["version"], back["embeddings"]) == (hidden["version"], hidden["embeddings"])


def test_bad_input_touches_nothing(given: Given, capsys: pytest.CaptureFixture[str]) -> None:
    work = given.root / "work"
    for more, error, said in (
        ({"model": str(given.root / "none")}, Missing, "does not exist"),
        ({"source": str(given.root / "none")}, Missing, "there is no such source"),
        ({"work": str(given.people)}, Occupied, "which no pipeline made"),
    ):
        with pytest.raises(error, match=said):
            given.run(**more)
        assert not work.exists()
    assert cli.main(["pipeline", "--source", "s", "--model", "m", "--work", "w", "--keep", "0"]) == 2
    assert capsys.readouterr().err.splitlines() == ["likeness pipeline: keep is 0; it must be 1 or more"]


@pytest.mark.slow
def test_nothing_to_do_is_said_in_seconds(given: Given, ray_session: None) -> None:
    given.run()
    config = given.config()
    code = """
import json, sys, time
from workflows import cli
code = cli.main(sys.argv[1:])
import ray
print(json.dumps([code, time.process_time(), "torch" in sys.modules, "mlflow" in sys.modules, ray.is_initialized()]))
"""
    argv = ["pipeline", "--source", config.source, "--model", config.model, "--work", config.work]
    how = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{given.root / 'none.db'}"}
    found = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=120, env=how)
    assert found.stdout.startswith("nothing to do"), found.stderr
    exit_code, seconds, torch_there, mlflow_there, connected = json.loads(found.stdout.splitlines()[-1])
    assert (exit_code, torch_there, mlflow_there, connected) == (0, False, False, False)
    assert seconds <= 5
