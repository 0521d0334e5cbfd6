"""Reads cases, one after the other, in a process of its own, which ``pool`` watches."""

import importlib
import logging
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).parents[2]
MEASURED = 5
"""One case in so many is read while the lines are noted that it goes through, which takes twice as long."""


def serve(connection: Connection, folder: str, module: str, data_file: str) -> None:
    """Answer cases with outcomes until None comes.

    Args:
        connection: to the pool.
        folder: for temporary files.
        module: that has ``FORMATS``.
        data_file: where the lines go that cases went through; empty to note none.
    """
    os.environ["XDG_CACHE_HOME"] = os.environ["TMPDIR"] = tempfile.tempdir = folder
    os.environ["OMP_NUM_THREADS"] = "1"  # FAISS's waiting threads would count as time that a case takes
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # jobs tell what they mend
    logging.disable()
    warnings.simplefilter("ignore")
    measured = _Lines(data_file)
    measured.start()
    formats = importlib.import_module(module).FORMATS
    measured.stop()
    connection.send(None)
    count = 0
    while (case := connection.recv()) is not None:
        count += 1
        with suppress(OSError):  # a container without it: the process's highest peak so far counts
            Path("/proc/self/clear_refs").write_text("5")
        if count % MEASURED == 0:
            measured.start()
        try:
            outcome = outcome_of(formats[case.format], case, Path(folder))
        finally:
            measured.stop()
        connection.send((outcome, _status("VmHWM")))
    measured.save()


def outcome_of(format, case, folder: Path):  # type: ignore[no-untyped-def]
    """Read a case as a job does."""
    from fuzz.case import CLEAN, FOREIGN, READ, Outcome

    from metric_core.errors import LikenessError

    header = bool(format.header(case))
    work = Path(tempfile.mkdtemp(dir=folder))
    try:
        format.read(case, work)
        return Outcome(READ, header)
    except LikenessError as error:
        return Outcome(CLEAN, header, str(error))
    except Exception:  # noqa: BLE001  # what is looked for
        return Outcome(FOREIGN, header, traceback.format_exc())
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _status(name: str) -> int:
    """Bytes of this process, from /proc."""
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) << 10


class _Lines:
    """Notes the lines of the library that are gone through."""

    def __init__(self, data_file: str) -> None:
        self._coverage = None
        if data_file:
            from coverage import Coverage

            source = [str(ROOT / "metric_core"), str(ROOT / "workflows")]
            self._coverage = Coverage(data_file, data_suffix=True, config_file=False, source=source)
        self._on = False

    def start(self) -> None:
        if self._coverage and not self._on:
            self._coverage.start()
            self._on = True

    def stop(self) -> None:
        if self._coverage and self._on:
            self._coverage.stop()
            self._on = False

    def save(self) -> None:
        if self._coverage:
            self._coverage.save()
