"""LIKENESS_KILLS times kill -9 on a job and all that it started, at a random moment of its work, and LIKENESS_STOPS
times each signal that stops a training, at a random step: the same command then leaves what an undisturbed one leaves.
The index has its own test, and so has an embed job of which single processes are killed."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from support import drivers
from support.drivers import PATIENCE
from support.tiny import small, untrained

from metric_core.artefacts import manifest
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.demo import drawn
from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig
from workflows.shared.console import say

KILLS = int(os.environ.get("LIKENESS_KILLS", "1"))
STOPS = int(os.environ.get("LIKENESS_STOPS", "0"))
SEED = int(os.environ.get("LIKENESS_SEED", "0"))
PEOPLE, PICTURES = 60, 20
BROKEN_EVERY = 50
STEPS = 120
"""Of a training that is stopped."""
POLL_S = 0.5
"""Seconds between two looks of a training's driver at its workers."""
CODES = {"SIGTERM": 143, "SIGINT": 130}
"""Exit codes of what these signals have stopped."""


@dataclass(frozen=True)
class Inputs:
    """What the jobs read."""

    folder: Path
    corpus: Path
    faces: str
    model: str

    def embed(self, out: Path) -> EmbedConfig:
        return EmbedConfig(
            faces=self.faces, model=self.model, out=str(out), unit_size=25, actors=1, max_bad_fraction=0.1
        )


def _inputs(folder: Path) -> Inputs:
    """Drawn people, some of whose pictures are broken."""
    corpus, faces = folder / "people", str(folder / "faces")
    drawn.write_people(corpus, range(PEOPLE), pictures=PICTURES, seed=3, size=32)
    for path in sorted(corpus.rglob("*.jpg"))[::BROKEN_EVERY]:
        path.write_bytes(b"broken")
    catalogue.run(CatalogueConfig(source=str(corpus), out=faces, valid_fraction=0.2))
    return Inputs(folder, corpus, faces, untrained(str(folder / "model")))


def _catalogue(given: Inputs, out: Path) -> list[str]:
    return ["catalogue", "--source", str(given.corpus), "--out", str(out), "--valid-fraction", "0.2"]


def _train(given: Inputs, out: Path, steps: int = 40) -> list[str]:
    how = {"workers": 2, "steps": steps, "checkpoint_every": 5, "report_every": 1, "max_bad_fraction": 0.2}
    config = small(given.faces, str(out), _runs(out), **how)
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(asdict(config)))
    return ["train", "--config", str(file)]


def _embed(given: Inputs, out: Path) -> list[str]:
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(asdict(given.embed(out))))
    return ["embed", "--config", str(file)]


def _retried(given: Inputs, out: Path) -> list[str]:
    """A finished artefact, whose broken pictures are whole by now."""
    before = given.folder / "before"
    if not before.exists():
        embed.run(given.embed(before))
        drawn.write_people(given.corpus, range(PEOPLE), pictures=PICTURES, seed=3, size=32)
    shutil.copytree(before, out)
    return [*_embed(given, out), "--retry-quarantined"]


JOBS: dict[str, tuple[str, Callable[[Inputs, Path], list[str]]]] = {
    "catalogue": ("faces", _catalogue),
    "train": ("model", _train),
    "embed": ("embeddings", _embed),
    "embed --retry-quarantined": ("embeddings", _retried),
}
"""By name, the kind of what it writes and its command, which may prepare the folder that it writes to."""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_whenever_it_is_killed_the_result_is_the_same(job: str, tmp_path: Path) -> None:
    kind, command = JOBS[job]
    given, draw = _inputs(tmp_path), random.Random(SEED)
    calm = tmp_path / "calm"
    argv = command(given, calm)
    before = _newest(calm)
    start = time.monotonic()
    process = _started(argv, calm)
    drivers.until(lambda: _newest(calm) != before or process.poll() is not None, "something written")
    begun = time.monotonic() - start
    assert process.wait(PATIENCE) == 0, _said(calm)
    ended = time.monotonic() - start
    expected, struck, attempts = manifest.read(str(calm), kind).digest, 0, 0
    while struck < KILLS:
        attempts += 1
        assert attempts <= 3 * KILLS + 7, f"{struck} kills in {attempts - 1} attempts: the job always ends before"
        out = tmp_path / f"run-{attempts}"
        argv = command(given, out)
        # some jobs write at their very end: half of what comes before counts as work
        process, moment = _started(argv, out), draw.uniform(begun / 2, ended)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        struck += process.poll() is None
        drivers.kill_all(process)
        assert _started(argv, out).wait(PATIENCE) == 0, _said(out)
        assert manifest.read(str(out), kind).digest == expected
        say(f"{job}: {struck}/{KILLS} kills, {moment:.1f} of {ended:.1f} s, the same digest")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not STOPS, reason="a program of `make chaos`, which sets LIKENESS_STOPS")
def test_at_whatever_step_a_training_is_stopped_the_same_run_goes_on(tmp_path: Path) -> None:
    given, draw = _inputs(tmp_path), random.Random(SEED)
    calm = tmp_path / "calm"
    assert _started(_train(given, calm, STEPS), calm).wait(PATIENCE) == 0, _said(calm)
    expected = manifest.read(str(calm), "model").digest
    left, attempts = [*CODES] * STOPS, 0
    while left:
        attempts += 1
        assert attempts <= 3 * len(CODES) * STOPS, f"{left} are left: the training always ends before"
        out, name = tmp_path / f"run-{attempts}", left[0]
        # MLflow gets to know of a step when up to a third of the training has followed.
        argv, asked, pause = _train(given, out, STEPS), draw.randrange(STEPS * 2 // 3), draw.uniform(0, POLL_S)
        process = _started(argv, out)
        drivers.until(lambda: _logged(out) >= asked or process.poll() is not None, f"step {asked}")  # noqa: B023
        time.sleep(pause)
        if process.poll() is not None:
            continue
        # Ctrl-C goes to all processes of a terminal.
        (os.killpg if name == "SIGINT" else os.kill)(process.pid, signal.Signals[name])
        code = process.wait(PATIENCE)
        if code == 0:  # it was at its last step
            continue
        last = _said(out).splitlines()[-1]
        assert code == CODES[name], _said(out)
        assert last.startswith("likeness train: stopped"), last
        assert last.endswith("; the same command continues"), last
        run_id, client = _run_of(out), MlflowClient(_runs(out))
        assert client.get_run(run_id).info.status == "KILLED"
        assert _started(argv, out).wait(PATIENCE) == 0, _said(out)
        found = manifest.read(str(out), "model")
        assert found.digest == expected
        assert found.provenance["result"]["mlflow_run"] == run_id
        assert client.get_run(run_id).info.status == "FINISHED"
        assert [m.step for m in client.get_metric_history(run_id, "loss")] == [*range(1, STEPS + 1)], "each step once"
        left.pop(0)
        where = last.removeprefix("likeness train: ").partition(";")[0]
        say(f"{name}: {where} of {STEPS}, exit code {code}, run KILLED; then FINISHED with the same digest")


def _runs(out: Path) -> str:
    """Address of a training's MLflow store."""
    return f"sqlite:///{out}.db"


def _run_of(out: Path) -> str:
    return str(json.loads((out / "_run" / "mlflow.json").read_text())["run_id"])


def _logged(out: Path) -> int:
    """The last step whose figures MLflow has; 0 once there is a run, -1 before."""
    if not (out / "_run" / "mlflow.json").exists():
        return -1
    with sqlite3.connect(f"{out}.db") as store:
        (step,) = store.execute("SELECT max(step) FROM metrics").fetchone()
    store.close()
    return step or 0


def _started(argv: list[str], out: Path) -> subprocess.Popen[bytes]:
    return drivers.started([sys.executable, "-m", "workflows.cli", *argv], _log(out))


def _log(out: Path) -> Path:
    return out.with_suffix(".txt")


def _said(out: Path) -> str:
    return _log(out).read_text()[-3000:]


def _newest(folder: Path) -> int:
    """When a file below the folder was last written, in nanoseconds; 0 where there is none."""
    found = [0]
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            found.append(path.stat().st_mtime_ns)
    return max(found)
