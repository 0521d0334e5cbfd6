"""LIKENESS_KILLS times kill -9 on a pipeline and all that it started, at a random moment of its work: the same command
then ends in the digests of an undisturbed one."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support import drivers, tiny
from support.drivers import PATIENCE

from workflows.demo import drawn
from workflows.shared.console import say

KILLS = int(os.environ.get("LIKENESS_KILLS", "3"))
SEED = int(os.environ.get("LIKENESS_SEED", "0"))
PEOPLE, PICTURES = 60, 20


def _argv(root: Path, work: Path) -> list[str]:
    given = ["--source", str(root / "people"), "--model", str(root / "model"), "--work", str(work)]
    return [sys.executable, "-m", "workflows.cli", "pipeline", *given, "--unit-size", "50", "--keep", "1", "--json"]


def _started(root: Path, work: Path) -> subprocess.Popen[bytes]:
    return drivers.started(_argv(root, work), work.with_suffix(".txt"))


def _files(work: Path) -> int:
    """How many files are there, in any generation; hidden ones apart."""
    return sum(path.is_file() for path in work.rglob("[!.]*")) if work.exists() else 0


def _ended(root: Path, work: Path) -> dict[str, Any]:
    """Run to the end; returns what must be the same whatever happened before."""
    process = _started(root, work)
    said = work.with_suffix(".txt")
    assert process.wait(PATIENCE) == 0, said.read_text()[-3000:]
    found = json.loads(next(line for line in reversed(said.read_text().splitlines()) if line.startswith('{"work"')))
    digests = {name: sorted(found[name].values()) for name in ("faces", "embeddings")}
    left = sorted(path.name for path in work.iterdir() if not path.name.startswith("."))
    return digests | {name: found[name] for name in ("version", "digest", "rows", "people")} | {"left": left}


@pytest.mark.long
@pytest.mark.slow
def test_whenever_it_is_killed_the_digests_are_the_same(tmp_path: Path) -> None:
    people, draw = tmp_path / "people", random.Random(SEED)
    drawn.write_people(people, range(PEOPLE), pictures=PICTURES, seed=3, size=32)
    tiny.untrained(str(tmp_path / "model"))
    before = tmp_path / "before"
    _ended(tmp_path, before)
    drawn.write_people(people, range(PEOPLE, PEOPLE + 5), pictures=PICTURES, seed=3, size=32)
    shutil.rmtree(people / drawn.name(3))
    starts = {"add": before, "build": None}  # what lies there when the command is started
    expected, span = {}, {}
    for name, start in starts.items():
        work = tmp_path / name
        if start:
            shutil.copytree(start, work)
        first = _files(work)
        begun = time.monotonic()
        expected[name] = _ended(tmp_path, work)
        span[name] = (first, max(first + 1, _files(work)), time.monotonic() - begun)
    struck = attempts = 0
    while struck < KILLS:
        attempts += 1
        assert attempts <= 3 * KILLS + 7, f"{struck} kills in {attempts - 1} attempts: the job always ends before"
        name = draw.choice(sorted(starts)) if KILLS > 2 else "add"
        work = tmp_path / f"run-{attempts}"
        if start := starts[name]:
            shutil.copytree(start, work)
        first, last, seconds = span[name]
        moment, pause = draw.randint(first, last), draw.uniform(0, seconds / 10)
        process = _started(tmp_path, work)
        drivers.until(lambda: _files(work) >= moment or process.poll() is not None, f"{moment} files")  # noqa: B023
        with suppress(subprocess.TimeoutExpired):
            process.wait(pause)
        struck += process.poll() is None
        drivers.kill_all(process)
        assert _ended(tmp_path, work) == expected[name], (name, moment, pause)
        say(f"{name}: {struck}/{KILLS} kills, {moment} of {first} to {last} files, the same digests")
        shutil.rmtree(work)
