"""The ``likeness`` command under observation: its embed actors log what they embed, and wait at a gate.

    python -m tests.support.witness FOLDER embed --faces … --out …

FOLDER/log gets a line ``UNIT NANOSECONDS`` for every unit that is embedded, with the time when it was handed out;
FOLDER/gate holds the number of finished units at which the actors wait.
"""

import os
import sys
import threading
import time
from pathlib import Path

from metric_core import storage
from metric_core.storage import durable
from workflows import cli
from workflows.embed import launcher
from workflows.embed.setup import Setup
from workflows.embed.units import Unit, UnitRecord
from workflows.embed.worker import EmbedWorker

LINGER_S = 0.2
"""Seconds added to each unit, as by a larger network, so that a process is usually busy when it is killed."""


class Witness(EmbedWorker):
    """Pickled by value, so that it reaches the actors with its folder."""

    folder: str

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._now = threading.local()

    def work(self, unit: Unit, decoded: object) -> UnitRecord:
        done = storage.join(self._setup.store.out, "done")
        while finished(done) >= int(Path(self.folder, "gate").read_text()):
            time.sleep(0.02)
        self._now.unit, self._now.given = unit, time.time_ns()
        return super().work(unit, decoded)

    def _compute(self, decoded: object) -> object:
        with open(Path(self.folder, "log"), "a") as log:  # a short line is one write, which no other write splits
            log.write(f"{self._now.unit.number} {self._now.given}\n")
        time.sleep(LINGER_S)
        return super()._compute(decoded)


def finished(done: str) -> int:
    """Number of records in a folder."""
    return sum(name.endswith(".json") and name[0] != "." for name in storage.names(done))


def open_gate(folder: Path, units: int) -> None:
    """Let the actors go on until ``units`` units are finished; units in progress at that moment are finished, too."""
    durable.write(folder / "gate", str(units).encode())


def embedded(folder: Path) -> list[tuple[int, int]]:
    """(unit, nanoseconds) of every line of the log."""
    return [(int(unit), int(given)) for unit, given in (line.split() for line in open(folder / "log"))]


if __name__ == "__main__":
    Witness.folder = os.path.abspath(sys.argv[1])
    launcher.EmbedWorker = Witness
    sys.exit(cli.main(sys.argv[2:]))
