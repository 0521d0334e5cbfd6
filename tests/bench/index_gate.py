"""What the gate before a new version of an index lets through and what it stops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from index_process import Failed, child
from index_work import Work
from table import Case, less, more

from metric_core.index import gate
from metric_core.index.search import Index

SEEDS = 20
ROWS = 120_000
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)
"""Of the tuned nprobe, which are tried as worse and worse versions."""


def cases(work: Work) -> Iterator[Case]:
    """Builds of the same vectors with other seeds, as they are and with fewer and fewer lists per search."""
    of = work.minted(ROWS, 128)
    live = work.index(of, "--memory-budget", str(of.raw // 2))
    found = []
    for seed in range(1, 1 + SEEDS):
        new = work.index(of, "--memory-budget", str(of.raw // 2), "--seed", str(seed))
        found.append(child(compared, live=live.path, new=new.path))
    if not found:
        raise Failed("no version was built")
    tried = [falls for one in found for falls in one["falls"]]
    fell = [fall for fall, stopped in tried if stopped]
    surely = min((fall for fall, _ in tried if all(stopped for other, stopped in tried if other >= fall)), default=None)
    unit = f"of {SEEDS} builds with other seeds, {found[0]['probes']} probes"
    yield less("gate/seeds", sum(one["stopped"] for one in found), None, f"stopped {unit}")
    yield less("gate/fall", 100 * (surely or 1), 0.5, "points: every fall of so much and more was stopped")
    yield less("gate/least", 100 * min(fell, default=1), None, "points: the smallest fall that was stopped")
    half = [one["half"] for one in found]
    yield more("gate/half", sum(half), SEEDS, "builds with half the nprobe that were stopped")
    yield less("gate/cpu", sum(one["cpu"] for one in found) / len(found), None, "CPU s of a comparison")


def compared(live: str, new: str) -> dict[str, Any]:
    """Whether the new version is stopped; and with fewer lists: (fall, whether it is stopped) of each share."""
    import time

    old, index = Index.open(live), Index.open(new)
    clock = time.process_time()
    probes = gate.probes_of(old)
    figures = gate.compare(old, index, probes)
    cpu = time.process_time() - clock
    assert index.nprobe
    falls = []
    for share in SHARES:
        worse = replace(index, nprobe=max(1, round(share * index.nprobe)))
        found = gate.compare(old, worse, probes)[0]
        falls.append((found.live - found.new, found.stops))
    half = falls[SHARES.index(0.5)][1]
    stopped = any(figure.stops for figure in figures)
    return {"stopped": stopped, "falls": falls, "half": half, "probes": len(probes), "cpu": cpu}
