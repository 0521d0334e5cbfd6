"""Embeddings of people made without a model, and what an index of them consists of, for the tests of the index job."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from support import minted

from metric_core.artefacts import manifest
from workflows.index.config import IndexConfig

DIM = 16
SPEC = "IVF4,PQ4x4fsr,Refine(SQfp16)"
"""Has every kind of file that a shard may have."""


@dataclass(frozen=True)
class Built:
    """An index and what it is of."""

    embeddings: str
    out: Path

    def options(self, **more: Any) -> IndexConfig:
        """Those that it was built with."""
        return options(self.embeddings, self.out, **more)

    @property
    def version(self) -> Path:
        """The folder of its only version."""
        (found,) = (self.out / "versions").iterdir()
        return found

    @property
    def digest(self) -> str:
        """Of its version's manifest."""
        return manifest.read(str(self.version), "index").digest


def crowd(out: Path, people: int = 160, each: int = 5, *, first: int = 0, unit: int = 100, **more: Any) -> str:
    """Write an artefact of people who are easy to tell apart; returns its address. Ids count from ``first``."""
    random = np.random.default_rng(first)
    count = people * each
    centre_ND = np.repeat(random.standard_normal((people, DIM)), each, axis=0)
    vector_ND = centre_ND + 0.2 * random.standard_normal((count, DIM))
    vector_ND = (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype(np.float32)
    ids = list(range(first, first + count))
    names = [f"p{number // each:04d}" for number in ids]
    return minted.embeddings(out, ids, vector_ND, identities=names, unit=unit, **more)


def options(embeddings: str, out: Path | str, **more: Any) -> IndexConfig:
    """Three shards of inverted lists, which would not be chosen for so few rows."""
    return IndexConfig(embeddings=embeddings, out=str(out), **{"spec": SPEC, "shards": 3, **more})


def command(embeddings: str, out: Path | str, *more: str) -> list[str]:
    """The command that builds with ``options``."""
    job = [sys.executable, "-m", "workflows.cli", "index", "--embeddings", embeddings, "--out", str(out)]
    return [*job, "--spec", SPEC, "--shards", "3", *more]


def times(folder: Path | str) -> dict[str, tuple[int, int]]:
    """When each file below a folder was written last, and its inode; hidden files apart."""
    root = Path(folder)
    found = {str(path.relative_to(root)): path.stat() for path in root.rglob("[!.]*") if path.is_file()}
    return {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in found.items()}


def lasting(files: dict[str, Any]) -> dict[str, Any]:
    """Without the files that change when another version goes live."""
    return {name: value for name, value in files.items() if name not in ("CURRENT", "HISTORY")}


def contents(folder: Path | str) -> dict[str, str]:
    """sha256 of each file below a folder, hidden files apart."""
    root = Path(folder)
    files = [path for path in root.rglob("[!.]*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
