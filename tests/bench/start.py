"""Cost of starting: CPU seconds, user and system, of a whole process that has little to do.

    python tests/bench/start.py [--quick] [--json]

Every job's help, an unknown option and ``--print-config``; and a search for one vector in a small index of
``tests/frozen``, which shows what a job imports. Figures are the lowest of several runs, since other processes can only
add to them. There is no peer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import table
from table import Case, less

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT), str(ROOT / "tests")]

from support import minted  # noqa: E402  # found by the line above
from support.commands import ACCEPTED  # noqa: E402

from metric_core.artefacts import manifest  # noqa: E402


def cpu_s(argv: list[str], code: int, runs: int) -> float:
    """CPU seconds of ``likeness`` with these arguments, the lowest of ``runs``; ``code`` is the expected exit code."""
    found = []
    for _ in range(runs):
        child = subprocess.Popen(
            [sys.executable, "-m", "workflows.cli", *argv],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != code:
            raise SystemExit(f"likeness {' '.join(argv)} ended with {child.returncode}, not {code}")
        found.append(used.ru_utime + used.ru_stime)
    return min(found)


def one_probe(folder: Path) -> list[str]:
    """A search for one vector; the index is a copy in ``folder``, the vector is written to it."""
    frozen = ROOT / "tests" / "frozen" / "1"
    shutil.copytree(frozen / "index", folder / "index")
    indexed = manifest.read(str(frozen / "embeddings"), "embeddings").content
    same = {name: indexed[name] for name in ("fingerprint", "namespace")}
    probe = minted.embeddings(folder / "probe", [1], minted.unit_vectors(1, indexed["dim"]), **same)
    return ["search", "--index", str(folder / "index"), "--embeddings", probe]


def cases(runs: int) -> Iterator[Case]:
    """All rows of the table."""
    for job, accepted in ACCEPTED.items():
        command, unknown = job.split(), [*accepted, "--leraning-rate", "1"]
        yield less(f"{job}: help", cpu_s([*command, "--help"], 0, runs), None, "CPU s")
        yield less(f"{job}: unknown option", cpu_s([*command, *unknown], 2, runs), None, "CPU s")
        yield less(f"{job}: --print-config", cpu_s([*command, *accepted, "--print-config"], 0, runs), None, "CPU s")
    with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
        yield less("search: one probe", cpu_s(one_probe(Path(folder)), 0, runs), None, "CPU s")


if __name__ == "__main__":
    options = table.parser(__doc__, "one run of each").parse_args()
    table.show(list(cases(1 if options.quick else 3)), as_json=options.json)
