"""A disk that is full in the middle of an embed job: a small tmpfs, which is made larger afterwards."""

import subprocess
import sys
from pathlib import Path

import pytest
from support import small_disk
from support.crowd import listed
from support.drivers import PATIENCE, ROOT
from support.tiny import untrained

from metric_core.artefacts import manifest

IMAGES = 1200
SCRIPT = """
set -e
at=$1; shift
mkdir "$at/small"
mount -t tmpfs -o size=80k tmpfs "$at/small"
embed() { code=0; "$@" --out "$at/small/out" 2> "$at/$when.txt" || code=$?; echo $code > "$at/$when.code"; }
when=full embed "$@"
ls -A "$at/small/out" "$at/small/out/done" > "$at/left.txt"
cp -a "$at/small/out" "$at/partly"
mount -o remount,size=10m "$at/small"
when=room embed "$@"
cp -a "$at/small/out" "$at/out"
"""


@pytest.mark.slow
def test_a_full_disk_stops_the_job_and_room_continues_it(tmp_path: Path) -> None:
    small_disk.require(tmp_path)
    faces, model = listed(tmp_path, IMAGES), untrained(str(tmp_path / "model"))
    job = [sys.executable, "-m", "workflows.cli", "embed", "--faces", faces, "--model", model]
    job += ["--unit-size", "100", "--actors", "1"]
    subprocess.run([*job, "--out", str(tmp_path / "calm")], cwd=ROOT, check=True, timeout=PATIENCE)

    small_disk.run(SCRIPT, tmp_path, job, timeout=900)
    assert (tmp_path / "full.code").read_text() == "1\n"
    line = (tmp_path / "full.txt").read_text().splitlines()[-1]
    assert line.startswith(f"likeness embed: {tmp_path}/small/out"), line
    assert "No space left on device" in line
    assert "finished files are kept and no partial file is left; free some space and start again" in line
    left = (tmp_path / "left.txt").read_text()
    assert manifest.NAME not in left
    assert ".unfinished" not in left

    partly, whole = tmp_path / "partly", tmp_path / "out"
    assert (tmp_path / "room.code").read_text() == "0\n"
    done = {path.name: path.stat().st_mtime_ns for path in partly.glob("done/*.json")}
    assert 0 < len(done) < IMAGES // 100
    assert done.items() <= {path.name: path.stat().st_mtime_ns for path in whole.glob("done/*.json")}.items()
    assert f"continuing: {len(done)} of {IMAGES // 100} units are done already" in (tmp_path / "room.txt").read_text()
    for part in partly.glob("part-*"):
        assert part.read_bytes() == (whole / part.name).read_bytes(), "every file is complete"
    ours, calm = (manifest.read(str(uri), "embeddings").digest for uri in (whole, tmp_path / "calm"))
    assert ours == calm
