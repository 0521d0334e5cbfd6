"""What is tried, what is changed to make it, and what becomes of it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Draw = Callable[[Any], Any]
"""Draws from a strategy of Hypothesis."""
Change = Callable[[Draw, bytes], bytes]
"""Makes an input of another."""


@dataclass(frozen=True)
class Case:
    """An input: the bytes of one file."""

    format: str
    file: str
    """Which file of the format's artefact, or any name for a format of single files."""
    data: bytes
    sealed: bool = False
    """Whether the digests of the artefact are those of the changed file, as if its writer had written it so."""

    def save(self, folder: Path) -> Path:
        """Write it to a file that ``load`` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        head = {"format": self.format, "file": self.file, "sealed": self.sealed}
        path = folder / f"{self.format}-{hashlib.sha256(self.data + self.file.encode()).hexdigest()[:12]}.case"
        path.write_bytes(json.dumps(head).encode() + b"\n" + self.data)
        return path

    @classmethod
    def load(cls, path: Path) -> "Case":
        """One that was saved."""
        head, _, data = path.read_bytes().partition(b"\n")
        return cls(**json.loads(head), data=data)


@dataclass(frozen=True)
class Format:
    """A reader's inputs, and how it is called as a job calls it."""

    name: str
    seeds: Callable[[Path], dict[str, bytes]]
    """Sound files by their names, of the artefact in a folder; or made, for formats of single files."""
    read: Callable[[Case, Path], object]
    """Reads a case completely; ``folder`` is empty. Raises what the readers raise."""
    header: Callable[[Case], bool]
    """Whether the file begins as its format says."""
    changes: Callable[[str], list[Change]]
    """Changes that know the format, for a file with this name."""
    modules: tuple[str, ...]
    """The readers: paths below the repository's root."""
    make: Callable[[Path], None] | None = None
    """Writes the artefact that the seeds are of into a folder."""
    magics: tuple[bytes, ...] = ()
    """What begins structures of the format."""
    sealable: Callable[[str], bool] = field(default=lambda name: False)
    """Files whose digests may be made right: those that come to no parser of another library unchecked."""


CLEAN, READ, FOREIGN, HANG, MEMORY, CRASH = "clean error", "read", "foreign error", "hang", "memory", "crash"
BAD = (FOREIGN, HANG, MEMORY, CRASH)


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    what: str
    """``CLEAN``, ``READ`` or one of ``BAD``."""
    header: bool = False
    """Whether the file begins as its format says."""
    detail: str = ""
    """The error's message, or its traceback if it is a foreign one."""
