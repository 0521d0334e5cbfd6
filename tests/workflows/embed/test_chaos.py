"""LIKENESS_KILLS times kill -9 on a process or node of an embed job over LIKENESS_IMAGES pictures: the artefact is that
of an undisturbed run, byte for byte, and no unit is embedded again once it is committed."""

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from support import victims, witness
from support.crowd import listed
from support.drivers import UNIT, Run, until
from support.tiny import untrained
from support.victims import Nodes

from metric_core.artefacts import embeddings, manifest
from metric_core.artefacts.embeddings import Embeddings
from workflows.shared.console import say

KILLS = int(os.environ.get("LIKENESS_KILLS", "5"))
IMAGES = int(os.environ.get("LIKENESS_IMAGES", "4000"))
SEED = int(os.environ.get("LIKENESS_SEED", "0"))
VICTIMS = ("driver", "actor", "decoder", "node")
TITLES = {"actor": "ray::Witness", "decoder": "ray::_decode"}
"""Titles of their processes."""
SLACK = 6
"""Units that may be finished after the moment of a kill, so that work is in progress at that moment."""
CLOCK = 20_000_000
"""Nanoseconds by which a file's time may lag behind the clock: two of the kernel's ticks."""


def strike(run: Run, nodes: Nodes, victim: str, draw: random.Random) -> None:
    """Kill one victim of this kind."""
    if victim == "driver":
        run.driver.kill()
        run.driver.wait()
        run.start()
    elif victim == "node":
        nodes.lose(draw)
    else:
        title = TITLES[victim]
        until(lambda: nodes.lose_worker(draw, title) or not run.alive(), f"a process called {title}")


@pytest.mark.slow
@pytest.mark.long
def test_whatever_is_killed_the_books_balance(tmp_path: Path) -> None:
    faces, model = listed(tmp_path, IMAGES), untrained(str(tmp_path / "model"))
    draw = random.Random(SEED)
    plan = [VICTIMS[n % len(VICTIMS)] for n in range(KILLS)]
    draw.shuffle(plan)
    units = -(-IMAGES // UNIT)
    spent: dict[str, list[float]] = {victim: [] for victim in VICTIMS}
    with victims.nodes() as nodes:
        where = ("--address", nodes.address, "--actors", "2", "--decoders", "2")
        calm = Run(tmp_path / "calm", faces, model, *where)
        start = time.monotonic()
        calm.start()
        calm.end()
        say(f"undisturbed: {IMAGES:,} pictures in {units} units, {time.monotonic() - start:.0f} s")
        run = Run(tmp_path / "run", faces, model, *where)
        start = time.monotonic()
        run.open_gate(0)
        run.start()
        before: dict[str, tuple[int, int, int]] = {}
        for kill, victim in enumerate(plan):
            moment = 1 + kill * (units - SLACK) // KILLS
            run.open_gate(moment + SLACK)
            run.reach(moment)
            time.sleep(draw.random() * 0.2)  # the moment within a unit
            struck = time.monotonic()
            strike(run, nodes, victim, draw)
            assert not Path(run.out, manifest.NAME).exists(), "the kill came too late to show anything"
            now = run.committed()
            assert before.items() <= now.items(), "a committed file has changed"
            before = now
            run.open_gate(moment + 2 * SLACK)
            run.reach(min(units, len(now) // 2 + 1))
            spent[victim].append(time.monotonic() - struck)
            say(f"kill {kill + 1}/{KILLS}: {victim}, {run.done}/{units} units done, {spent[victim][-1]:.1f} s")
        run.open_gate()
        run.end()
        took = time.monotonic() - start
    assert before.items() <= run.committed().items(), "a committed file has changed"
    same_books(calm, run)
    redone = not_embedded_again(run, units)
    say(f"{'killed':8} {'times':>5}  seconds until the next unit was done")
    for victim, seconds in spent.items():
        say(f"{victim:8} {len(seconds):5}  {sum(seconds) / len(seconds) if seconds else 0:.1f}")
    say(f"{IMAGES:,} pictures in {units} units, {redone} embedded once more, none after its commit; {took:.0f} s")


def same_books(calm: Run, run: Run) -> None:
    """The artefacts are equal, and every picture is in one of them once."""
    one, two = manifest.read(calm.out, "embeddings"), manifest.read(run.out, "embeddings")
    assert one.digest == two.digest, "the same rows, vectors and rejects, byte for byte"
    assert two.content["inputs"] == two.content["embedded"] + two.content["quarantined"] == IMAGES
    assert 0 < two.content["quarantined"] <= IMAGES // 100
    for file in two.content["quarantine"]:
        ours, theirs = (Path(of.out, "quarantine", file["name"]).read_bytes() for of in (run, calm))
        assert ours == theirs
    ids = Embeddings.open(run.out).load().face_id_N  # which also checks every part's digest
    assert len(set(ids.tolist())) == len(ids) == two.content["embedded"]


def not_embedded_again(run: Run, units: int) -> int:
    """How often units were embedded again; none of them may be handed out after its part is in place."""
    noted = witness.embedded(run.folder)
    for unit, given in noted:
        part = Path(run.out, embeddings.part_name(unit)).stat()
        assert given < part.st_ctime_ns + CLOCK, f"unit {unit} was embedded again after it was committed"
    times = Counter(unit for unit, _ in noted)
    assert set(times) == set(range(units))
    return times.total() - units
