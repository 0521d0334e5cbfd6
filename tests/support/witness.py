"""The ``likeness`` command under observation: its embed actors note what they embed, and go no further than they may.

    python -m tests.support.witness FOLDER embed --faces … --out …

FOLDER/log gets a line ``UNIT NANOSECONDS`` for every unit that is embedded, with the moment it was handed over;
FOLDER/gate holds the number of finished units above which no other one is embedded.
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
from workflows.embed.decoding import Setup
from workflows.embed.units import Unit, UnitRecord
from workflows.embed.worker import EmbedWorker

LINGER_S = 0.2
"""As a larger network would: what is killed at any moment is then likely to be at work on something."""


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
        with open(Path(self.folder, "log"), "a") as log:  # one write of a short line, which no other tears apart
            log.write(f"{self._now.unit.number} {self._now.given}\n")
        time.sleep(LINGER_S)
        return super()._compute(decoded)


def finished(done: str) -> int:
    """Records in a folder of them."""
    return sum(name.endswith(".json") and name[0] != "." for name in storage.names(done))


def open_gate(folder: Path, units: int) -> None:
    """Let the actors go on until so many units are finished, and those that are under way then."""
    durable.write(folder / "gate", str(units).encode())


def embedded(folder: Path) -> list[tuple[int, int]]:
    """(unit, nanoseconds) as noted."""
    return [(int(unit), int(given)) for unit, given in (line.split() for line in open(folder / "log"))]


if __name__ == "__main__":
    Witness.folder = os.path.abspath(sys.argv[1])
    launcher.EmbedWorker = Witness
    sys.exit(cli.main(sys.argv[2:]))
