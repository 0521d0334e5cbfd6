"""LIKENESS_KILLS times kill -9 on a job and all that it started, at a random moment of its work: the same command then
leaves what an undisturbed one leaves. The index has its own test, and so has an embed job of which single processes
are killed."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import yaml
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
SEED = int(os.environ.get("LIKENESS_SEED", "0"))
PEOPLE, PICTURES = 60, 20
BROKEN_EVERY = 50


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


def _train(given: Inputs, out: Path) -> list[str]:
    how = {"workers": 2, "steps": 40, "checkpoint_every": 5, "max_bad_fraction": 0.2}
    config = small(given.faces, str(out), f"sqlite:///{out}.db", **how)
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
