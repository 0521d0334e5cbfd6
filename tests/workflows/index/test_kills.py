"""LIKENESS_KILLS times kill -9 on an index build of LIKENESS_ROWS vectors, or on adding to an index, on all of its
processes at a random moment: the index is that of an undisturbed run, byte for byte."""

import os
import random
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from support import drivers, indexed
from support.drivers import PATIENCE, until
from support.indexed import Built

from metric_core.artefacts import manifest
from metric_core.artefacts.manifest import Manifest
from metric_core.index.store import IndexStore
from workflows.index import check
from workflows.index.config import CheckConfig
from workflows.shared.console import say

KILLS = int(os.environ.get("LIKENESS_KILLS", "3"))
ROWS = int(os.environ.get("LIKENESS_ROWS", "20000"))
SEED = int(os.environ.get("LIKENESS_SEED", "0"))
EACH = 5
"""Pictures per person."""


def started(built: Built) -> subprocess.Popen[bytes]:
    """The command."""
    argv = indexed.command(built.embeddings, built.out, "--shards", "8")
    return drivers.started(argv, built.out.parent / f"{built.out.name}.txt")


def written(built: Built) -> set[str]:
    """Names of the finished files."""
    return set(indexed.times(built.out)) if built.out.exists() else set()


@pytest.mark.long
def test_whenever_it_is_killed_the_index_is_the_same(tmp_path: Path) -> None:
    source = indexed.crowd(tmp_path / "embeddings", ROWS // EACH, EACH, unit=ROWS // 16)
    calm, run = (Built(source, tmp_path / name) for name in ("calm", "run"))
    assert started(calm).wait(PATIENCE) == 0, (tmp_path / "calm.txt").read_text()
    # With the last three, the manifest, CURRENT and HISTORY, it is done.
    files, draw = len(written(calm)) - 3, random.Random(SEED)
    kill = late = 0
    while kill < KILLS:
        moment = (kill * files + draw.randrange(files)) // KILLS
        process = started(run)
        until(lambda: len(written(run)) >= moment or process.poll() is not None, f"{moment} files")  # noqa: B023
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.random() * 0.3)
        assert not process.poll(), (tmp_path / "run.txt").read_text()
        drivers.kill_all(process)
        if (run.out / "CURRENT").exists():  # too late to show anything: from the beginning
            late += 1
            assert late <= KILLS, "the build is always faster than the kill"
            shutil.rmtree(run.out)
            continue
        kill += 1
        say(f"kill {kill}/{KILLS}: {len(written(run))} of {files} files are there")
    before = indexed.contents(run.out)
    assert started(run).wait(PATIENCE) == 0, (tmp_path / "run.txt").read_text()
    assert run.digest == calm.digest
    ours, theirs = (indexed.lasting(indexed.contents(built.out)) for built in (run, calm))
    ours.pop(name := f"versions/{calm.version.name}/{manifest.NAME}")
    theirs.pop(name)
    assert {file: ours[file] for file in theirs} == theirs
    assert before.items() <= indexed.contents(run.out).items(), "what was finished is kept"
    assert check.run(CheckConfig(index=str(run.out), verify=True))["rows"] == ROWS


@pytest.mark.long
def test_whenever_adding_is_killed_the_index_is_the_same(tmp_path: Path) -> None:
    source = indexed.crowd(tmp_path / "embeddings", ROWS // EACH, EACH, unit=ROWS // 16)
    delta = indexed.crowd(
        tmp_path / "delta", ROWS // EACH // 10, EACH, first=ROWS - 500, since=[{"plan_id": "embeddings"}], unit=ROWS
    )
    base = Built(source, tmp_path / "base")
    assert started(base).wait(PATIENCE) == 0, (tmp_path / "base.txt").read_text()
    calm, run = (Path(shutil.copytree(base.out, tmp_path / name)) for name in ("calm", "run"))

    def adding(index: Path) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "workflows.cli", "index", "add", "--index", str(index), "--embeddings", delta]
        return drivers.started(argv, tmp_path / f"{index.name}.txt")

    def live(index: Path) -> Manifest:
        return IndexStore(str(index)).current().manifest()

    assert adding(calm).wait(PATIENCE) == 0, (tmp_path / "calm.txt").read_text()
    first, draw = len(indexed.times(run)), random.Random(SEED)
    # With the last three, the manifest and the locks of CURRENT and HISTORY, it is done.
    files = len(indexed.times(calm)) - first - 3
    kill = late = 0
    while kill < KILLS:
        moment = first + (kill * files + draw.randrange(files)) // KILLS
        process = adding(run)
        until(lambda: len(indexed.times(run)) >= moment or process.poll() is not None, f"{moment} files")  # noqa: B023
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.random() * 0.1)
        assert not process.poll(), (tmp_path / "run.txt").read_text()
        drivers.kill_all(process)
        if live(run).digest != live(base.out).digest:  # too late to show anything: from the beginning
            late += 1
            assert late <= KILLS, "adding is always faster than the kill"
            shutil.rmtree(run)
            shutil.copytree(base.out, run)
            continue
        kill += 1
        say(f"kill {kill}/{KILLS}: {len(indexed.times(run)) - first} of {files} files are there")
    before = indexed.contents(run)
    assert adding(run).wait(PATIENCE) == 0, (tmp_path / "run.txt").read_text()
    assert live(run).digest == live(calm).digest
    assert indexed.lasting(before).items() <= indexed.contents(run).items(), "what was finished is kept"
    assert check.run(CheckConfig(index=str(run), verify=True))["rows"] == ROWS + ROWS // 10 - 500
