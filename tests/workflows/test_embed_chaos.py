"""kill -9 on whatever runs an embed job, as often as LIKENESS_KILLS says, while it goes through LIKENESS_IMAGES
pictures: the artefact is an undisturbed run's, byte for byte, and no unit is embedded again once it is committed."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import victims
import witness
from crowd import listed, untrained
from victims import Nodes, until

from metric_core import embeddings, manifest
from metric_core.embeddings import Embeddings
from workflows.parts.console import say

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("LIKENESS_KILLS", "5"))
IMAGES = int(os.environ.get("LIKENESS_IMAGES", "4000"))
SEED = int(os.environ.get("LIKENESS_SEED", "0"))
UNIT = 100
VICTIMS = ("driver", "actor", "decoder", "node")
TITLES = {"actor": "ray::Witness", "decoder": "ray::_decode"}
"""Of their processes."""
SLACK = 6
"""Units that may be finished beyond the moment of a kill: so many that the work is in full swing at that moment."""
PATIENCE = 240
"""Seconds; far more than anything here takes, on any machine."""
CLOCK = 20_000_000
"""Nanoseconds by which a file's time lags behind the clock at most: the kernel's tick, doubled."""


class Run:
    """One embed job: drivers that follow one another, and what they leave."""

    def __init__(self, nodes: Nodes, folder: Path, faces: str, model: str) -> None:
        self.folder, self.out = folder, folder / "embeddings"
        folder.mkdir()
        self._argv = [sys.executable, "-m", "tests.witness", str(folder), "embed", "--faces", faces, "--model", model]
        self._argv += ["--out", str(self.out), "--unit-size", str(UNIT), "--actors", "2", "--decoders", "2"]
        self._argv += ["--address", nodes.address]
        self.driver: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Another driver."""
        with open(self.folder / "driver.txt", "ab") as told:
            self.driver = subprocess.Popen(self._argv, stdout=told, stderr=told, cwd=ROOT)

    def alive(self) -> bool:
        """Raises AssertionError when the driver has ended."""
        assert self.driver is not None
        assert self.driver.poll() is None, f"it ended with {self.done} units:\n{self.told()}"
        return True

    def told(self) -> str:
        """The drivers' last lines."""
        return (self.folder / "driver.txt").read_text()[-3000:]

    @property
    def done(self) -> int:
        """Finished units."""
        return witness.finished(str(self.out / "done"))

    def reach(self, units: int) -> None:
        """Wait until so many units are finished."""
        until(lambda: self.done >= units or not self.alive(), PATIENCE, f"{units} units done")

    def finish(self) -> None:
        """Wait for the driver's own end."""
        witness.open_gate(self.folder, sys.maxsize)
        assert self.driver is not None
        assert self.driver.wait(timeout=PATIENCE * 4) == 0, self.told()

    def committed(self) -> dict[str, tuple[int, int, int]]:
        """What must not change any more: the records, and the parts and rejects that have one, by (inode, mtime)."""
        names = [path.stem for path in self.out.glob("done/[!.]*.json")]
        files = [f"done/{name}.json" for name in names]
        files += [embeddings.part_name(int(name)) for name in names]
        stats = {file: (self.out / file).stat() for file in files}
        return {file: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for file, stat in stats.items()}


def strike(run: Run, nodes: Nodes, victim: str, draw: random.Random) -> None:
    """Kill one."""
    if victim == "driver":
        assert run.driver is not None
        run.driver.kill()
        run.driver.wait()
        run.start()
    elif victim == "node":
        nodes.lose(draw)
    else:
        there = lambda: nodes.lose_worker(draw, TITLES[victim]) or not run.alive()  # noqa: E731
        until(there, PATIENCE, f"a process called {TITLES[victim]}")


@pytest.mark.slow
def test_whatever_is_killed_the_books_balance(tmp_path: Path) -> None:
    faces, model = listed(tmp_path, IMAGES), untrained(str(tmp_path / "model"))
    draw = random.Random(SEED)
    plan = [VICTIMS[n % len(VICTIMS)] for n in range(KILLS)]
    draw.shuffle(plan)
    units = -(-IMAGES // UNIT)
    spent: dict[str, list[float]] = {victim: [] for victim in VICTIMS}
    with victims.nodes() as nodes:
        calm = Run(nodes, tmp_path / "calm", faces, model)
        start = time.monotonic()
        calm.start()
        calm.finish()
        say(f"undisturbed: {IMAGES:,} pictures in {units} units, {time.monotonic() - start:.0f} s")
        run = Run(nodes, tmp_path / "run", faces, model)
        start = time.monotonic()
        witness.open_gate(run.folder, 0)
        run.start()
        before: dict[str, tuple[int, int, int]] = {}
        for kill, victim in enumerate(plan):
            moment = 1 + kill * (units - SLACK) // KILLS
            witness.open_gate(run.folder, moment + SLACK)
            run.reach(moment)
            time.sleep(draw.random() * 0.2)  # the moment within a unit
            struck = time.monotonic()
            strike(run, nodes, victim, draw)
            assert not (run.out / manifest.NAME).exists(), "struck too late to show anything"
            now = run.committed()
            assert before.items() <= now.items(), "what was committed was touched"
            before = now
            witness.open_gate(run.folder, moment + 2 * SLACK)
            run.reach(min(units, len(now) // 2 + 1))
            spent[victim].append(time.monotonic() - struck)
            say(f"kill {kill + 1}/{KILLS}: {victim}, {run.done}/{units} units done, {spent[victim][-1]:.1f} s")
        run.finish()
        took = time.monotonic() - start
    assert before.items() <= run.committed().items(), "what was committed was touched"
    same_books(calm, run)
    redone = not_embedded_again(run, units)
    say(f"{'killed':8} {'times':>5}  seconds until the next unit was done")
    for victim, seconds in spent.items():
        say(f"{victim:8} {len(seconds):5}  {sum(seconds) / len(seconds) if seconds else 0:.1f}")
    say(f"{IMAGES:,} pictures in {units} units, {redone} embedded once more, none after its commit; {took:.0f} s")


def same_books(calm: Run, run: Run) -> None:
    """The artefacts are equal, and every picture is in one of them once."""
    one, two = manifest.read(str(calm.out), "embeddings"), manifest.read(str(run.out), "embeddings")
    assert one.digest == two.digest, "the same rows, vectors and rejects, byte for byte"
    assert two.content["inputs"] == two.content["embedded"] + two.content["quarantined"] == IMAGES
    assert 0 < two.content["quarantined"] <= IMAGES // 100
    for file in two.content["quarantine"]:
        assert (run.out / "quarantine" / file["name"]).read_bytes() == (
            calm.out / "quarantine" / file["name"]
        ).read_bytes()
    ids = Embeddings.open(str(run.out)).load().face_id_N  # which also checks every part's digest
    assert len(set(ids.tolist())) == len(ids) == two.content["embedded"]


def not_embedded_again(run: Run, units: int) -> int:
    """How often a unit was embedded in vain; never one that was handed out after its part was in place."""
    noted = witness.embedded(run.folder)
    for unit, given in noted:
        part = (run.out / embeddings.part_name(unit)).stat()
        assert given < part.st_ctime_ns + CLOCK, f"unit {unit} was embedded again after it was committed"
    times = Counter(unit for unit, _ in noted)
    assert set(times) == set(range(units))
    return times.total() - units
