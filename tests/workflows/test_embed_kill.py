"""kill -9 on a running embed job, as often as LIKENESS_KILLS says: every face is embedded once or quarantined."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny import Chain

from metric_core import embeddings, manifest
from metric_core.embeddings import Embeddings
from workflows import catalogue, embed
from workflows.catalogue import CatalogueConfig
from workflows.embed import EmbedConfig

KILLS = int(os.environ.get("LIKENESS_KILLS", "2"))
UNIT = 60


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory, people: Path) -> Path:
    """About 3,000 pictures, some of them broken."""
    root = tmp_path_factory.mktemp("crowd")
    for person in sorted(people.iterdir()):
        for copy in range(20):
            folder = root / f"{person.name}-{copy}"
            shutil.copytree(person, folder)
    for n in range(0, 480, 40):
        broken = sorted(root.iterdir())[n] / "99.jpg"
        broken.write_bytes(b"broken")
    return root


@pytest.mark.slow
def test_killed_and_started_again(chain: Chain, crowd: Path, tmp_path: Path) -> None:
    faces, undisturbed, out = str(tmp_path / "faces"), str(tmp_path / "undisturbed"), tmp_path / "embeddings"
    catalogue.run(CatalogueConfig(source=str(crowd), out=faces))
    embed.run(EmbedConfig(faces=faces, model=chain.model, out=undisturbed, unit_size=UNIT, actors=2))
    argv = [sys.executable, "-m", "workflows.cli", "embed", "--faces", faces, "--model", chain.model]
    argv += ["--out", str(out), "--unit-size", str(UNIT), "--actors", "2"]
    draw = random.Random(0)
    finished: dict[str, int] = {}
    for kill in range(KILLS):
        # Each run is let go a little further than the last; the moment within a unit is what the draw decides.
        goal = 2 + kill * 40 // max(1, KILLS)
        job = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 180
        while len(list(out.glob("done/*.json"))) < goal:
            assert job.poll() is None, f"kill {kill}: it ended with {len(list(out.glob('done/*.json')))} units done"
            assert time.monotonic() < deadline, "it does not get on"
            time.sleep(0.01)
        time.sleep(draw.random() * 0.1)
        family = psutil.Process(job.pid).children(recursive=True)
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
        psutil.wait_procs(family, timeout=60)
        assert not (out / manifest.NAME).exists(), "killed too late to show anything"
        now = {path.name: path.stat().st_mtime_ns for path in out.glob("done/*.json")}
        assert finished.items() <= now.items(), "a finished unit was touched"
        finished = now
    parts = [out / embeddings.part_name(int(name.removesuffix(".json"))) for name in finished]
    before = [part.stat().st_mtime_ns for part in parts]
    answer = subprocess.run([*argv, "--json"], check=True, capture_output=True, text=True, timeout=400)
    assert f'"reused": {UNIT * len(finished)}' in answer.stdout
    assert [part.stat().st_mtime_ns for part in parts] == before, "a finished unit was touched"
    one, two = manifest.read(undisturbed, "embeddings"), manifest.read(str(out), "embeddings")
    assert one.digest == two.digest, "the same rows, vectors and rejects, byte for byte"
    assert two.content["inputs"] == two.content["embedded"] + two.content["quarantined"] == 24 * 6 * 20 + 12
    assert two.content["quarantined"] == 12
    ids = Embeddings.open(str(out)).load().face_id_N
    assert len(set(ids.tolist())) == len(ids) == 24 * 6 * 20
