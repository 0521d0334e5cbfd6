"""The options of ``likeness index``."""

import re
from dataclasses import dataclass
from typing import ClassVar

from metric_core.options import out_of_range
from workflows.shared.options import RunOptions


@dataclass(frozen=True, kw_only=True)
class IndexConfig(RunOptions):
    """Build and publish a version of an index."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input and output": ("embeddings", "out", "tombstones"),
        "index": ("target_recall", "memory_budget", "shards", "seed"),
    }

    embeddings: str
    """The Embeddings artefact to index, or several read as one: A,B; for each face the latest artefact wins."""
    out: str
    """Folder or object-store address of the Index; a new version is added to those that are there."""
    tombstones: str | None = None
    """Folder of erased faces, which are left out; default: the folder tombstones next to their Faces."""
    shards: int | None = None
    """Number of files that the vectors are divided among; default: files of about 1 GiB."""
    target_recall: float = 0.99
    """Share of the true 10 nearest vectors that a search must find, above 0 and at most 1; 1 keeps the index exact."""
    memory_budget: str | None = None
    """Memory that the opened index may take, such as 4GiB or 500MB; default: no limit."""
    seed: int = 0
    """Random seed for the training sample, k-means and the recall sample."""

    def problems(self) -> list[str]:
        problems = out_of_range(self, shards="[1, inf)", target_recall="(0, 1]")
        try:
            _ = self.memory_bytes
        except ValueError as error:
            problems.append(f"memory_budget is {self.memory_budget!r}; {error}")
        return problems

    @property
    def memory_bytes(self) -> int | None:
        """The budget in bytes."""
        return None if self.memory_budget is None else bytes_of(self.memory_budget)


def bytes_of(size: str) -> int:
    """A size such as ``4GiB`` (powers of 1024), ``500 MB`` (of 1000) or ``4096`` in bytes. Raises ValueError."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(?:([KMGTP])(i?))?B?", size.strip(), re.IGNORECASE)
    if not found:
        raise ValueError("expected a size such as 4GiB or 500MB")
    number, unit, binary = found.groups()
    power = "KMGTP".index(unit.upper()) + 1 if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)
