"""The demo as a new user runs it: in a separate folder, with results on stdout and nothing left behind."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from PIL import Image

from metric_core.errors import ConfigError
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.demo import drawn, job
from workflows.demo.config import VALID_FRACTION, DemoConfig

BIN = Path(sys.executable).parent


@pytest.mark.slow
def test_a_small_demo(tmp_path: Path) -> None:
    cwd, home = tmp_path / "cwd", tmp_path / "home"
    cwd.mkdir()
    home.mkdir()
    scratch = Path(tempfile.mkdtemp(prefix="lk-", dir="/tmp"))  # short, so that Ray's sockets fit into it
    environment = os.environ | {"HOME": str(home), "TMPDIR": str(scratch)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    argv = [str(BIN / "likeness"), "demo", "--people", "36", "--pictures", "4", "--steps", "20", "--json"]
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    judged = {"verification", "rank1", "map_at_r", "bcubed_f", "classification"}
    assert set(result) == judged | {"index_recall", "seconds", "artefacts"}
    assert all(set(result[name]) == {"before", "after"} for name in judged)
    assert all(0 < result[name][when] <= 1 for name in judged for when in ("before", "after"))
    assert 0.5 < result["verification"]["after"] <= 1
    assert result["index_recall"] == 1
    assert list(result["seconds"]) == ["draw", "catalogue", "train", "embed", "index", "search", "evaluate"]
    nouns = {"faces", "model", "embeddings", "index", "matches", "gallery", "mlflow"}
    assert set(result["artefacts"]) == nouns
    assert sorted(os.listdir(cwd)) == ["likeness-demo"], "nothing but the demo's own folder"
    assert os.listdir(scratch) == [], "no temporary files"
    scratch.rmdir()
    assert not (home / ".likeness").exists(), "the demo keeps its MLflow store in its own folder"
    assert Image.open(result["artefacts"]["gallery"]).height > 500
    left = [
        p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if str(scratch) in " ".join(p.info["cmdline"] or [])
    ]
    assert left == [], "no stray processes"
    chatter = [line for line in done.stderr.splitlines() if "ray::" in line or "mlflow.store" in line or "WARN" in line]
    assert chatter == []


@pytest.mark.parametrize(("seed", "people"), [(0, 20), (5, 20), (3, 36)])
def test_too_many_workers_are_counted_by_the_split_of_the_catalogue(seed: int, people: int, tmp_path: Path) -> None:
    for index in range(people):
        (tmp_path / "pictures" / drawn.name(index)).mkdir(parents=True)
        (tmp_path / "pictures" / drawn.name(index) / "00.jpg").touch()
    listed = catalogue.run(
        CatalogueConfig(
            source=str(tmp_path / "pictures"), out=str(tmp_path / "faces"), valid_fraction=VALID_FRACTION, seed=seed
        )
    )
    learnt = listed["splits"]["train"]["identities"]
    job._check_people(DemoConfig(people=people, seed=seed, workers=learnt))
    with pytest.raises(
        ConfigError, match=f"workers is {learnt + 1}; it must be at most {learnt}, the people per batch"
    ):
        job._check_people(DemoConfig(people=people, seed=seed, workers=learnt + 1))


@pytest.mark.long
@pytest.mark.slow
def test_the_chain_on_real_faces(data_root: Path, tmp_path: Path) -> None:
    """The demo on AT&T's 40 people x 10 pictures. The set is easy, so the test only asks that training helps."""
    argv = [str(BIN / "likeness"), "demo", "--source", str(data_root / "orl"), "--steps", "60", "--json"]
    argv += ["--out", str(tmp_path / "orl")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["verification"]["after"] > max(0.8, result["verification"]["before"])
    assert result["rank1"]["after"] > 0.5
