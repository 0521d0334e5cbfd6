"""The description of an index, and the rule that chooses one from the number of rows.

Vectors are stored exactly (flat, or in inverted lists of flat vectors). The metric is the inner product of unit
vectors, which is their cosine. Building the index is left to ``build``, the final ``nprobe`` to ``recall``.
"""

import math
import re
from dataclasses import dataclass
from types import SimpleNamespace

from metric_core.errors import ConfigError
from metric_core.options import Options, out_of_range

FLAT_ROWS = 100_000
"""Up to this number of rows, an exact scan of everything is fast enough: on 2 CPU cores, a query over 100 000 x 512
takes 8 ms in a batch and 36 ms alone."""

SHARD_BYTES = 1 << 30
"""Size of a shard. It is built, checked, sent and loaded as a whole, so it should fit several times in a worker's
memory."""

_TRAIN_PER_LIST = 64
"""Training vectors per list; FAISS warns below 39 and ignores more than 256 (``ClusteringParameters``)."""

_MIN_PER_LIST = 39

_FACTORY = re.compile(r"Flat|IVF([1-9][0-9]*),Flat")


@dataclass(frozen=True)
class IndexSpec(Options):
    """An index to build."""

    dim: int
    """Components per vector."""
    factory: str
    """FAISS factory string: ``Flat`` (exact) or ``IVF<lists>,Flat``."""
    shards: int = 1
    """Files the rows are spread over; each is built by its own task."""
    nprobe: int | None = None
    """Inverted lists scanned per query before tuning; None for ``Flat``, which has no lists."""

    def problems(self) -> list[str]:
        problems = []
        if not _FACTORY.fullmatch(self.factory):
            problems.append(f"factory is {self.factory!r}; it must be 'Flat' or 'IVF<lists>,Flat'")
        elif (self.nlist is None) != (self.nprobe is None):
            problems.append(f"nprobe is {self.nprobe} for {self.factory}; IVF needs one, Flat has none")
        elif self.nlist is not None:
            problems += out_of_range(self, nprobe=f"[1, {self.nlist}]")
        return problems + out_of_range(self, dim="[1, inf)", shards="[1, inf)")

    @property
    def nlist(self) -> int | None:
        """Inverted lists; None for a flat index."""
        found = _FACTORY.fullmatch(self.factory)
        return int(found[1]) if found and found[1] else None

    @property
    def train_rows(self) -> int:
        """Vectors to sample for training: none for a flat index."""
        return _TRAIN_PER_LIST * (self.nlist or 0)

    @property
    def min_train_rows(self) -> int:
        """Fewer training vectors than this make FAISS warn that the centroids are unreliable."""
        return _MIN_PER_LIST * (self.nlist or 0)

    def bytes_needed(self, rows: int) -> int:
        """Memory of the open index: vectors, ids, identity codes, and the structure that finds a vector.

        That structure is a hash table from id to row for a flat index (40 bytes per row in libstdc++: a node of 32, a
        bucket of 8), and the centroids of every shard for IVF.
        """
        per_row = 4 * self.dim + 8 + 12
        if self.nlist is None:
            return rows * (per_row + 40)
        return rows * per_row + self.shards * self.nlist * 4 * self.dim


def choose(
    rows: int,
    dim: int,
    *,
    shards: int | None = None,
    target_recall: float = 0.99,
    memory_budget: int | None = None,
) -> IndexSpec:
    """The index for ``rows`` vectors: flat if that is fast enough or exactness is required, else inverted lists.

    The number of lists is the power of two nearest to 4 sqrt(rows), the lower end of FAISS's guideline (wiki,
    "Guidelines to choose an index": between 4 sqrt(N) and 16 sqrt(N) below a million vectors). The lower end, because
    lists are scanned exactly here and the training sample grows with the number of lists.

    Args:
        rows: vectors to index.
        dim: components per vector.
        shards: number of shards; None: from the size, 1 GiB each.
        target_recall: recall that the search should reach, in (0, 1]; 1 gives an exact index.
        memory_budget: most bytes of memory for the open index; None for no limit.

    Raises:
        ConfigError: there are no rows, numbers are out of range, or the memory budget is too small.
    """
    asked = SimpleNamespace(dim=dim, shards=shards, target_recall=target_recall, memory_budget=memory_budget)
    problems = [] if rows > 0 else ["there are no vectors to index"]
    problems += out_of_range(asked, dim="[1, inf)", shards="[1, inf)", target_recall="(0, 1]", memory_budget="[1, inf)")
    if problems:
        raise ConfigError.of(problems)
    factory, nprobe = "Flat", None
    if rows > FLAT_ROWS and target_recall < 1:
        nlist = 2 ** round(math.log2(4 * math.sqrt(rows)))
        factory, nprobe = f"IVF{nlist},Flat", max(1, nlist // 16)
    if shards is None:
        shards = max(1, math.ceil(IndexSpec(dim, factory, 1, nprobe).bytes_needed(rows) / SHARD_BYTES))
    spec = IndexSpec(dim, factory, shards, nprobe)
    needed = spec.bytes_needed(rows)
    if memory_budget is not None and needed > memory_budget:
        raise ConfigError(
            f"{rows} vectors of {dim} components need {_size(needed)} of memory as {factory}, more than the budget of "
            f"{_size(memory_budget)}; give --memory-budget at least {_size(needed)}, or embed with fewer components"
        )
    return spec


def _size(count: int) -> str:
    """Bytes rounded up to three digits in a binary unit."""
    unit = max(0, min(4, (count.bit_length() - 1) // 10))
    scaled = count / (1 << (10 * unit))
    digits = max(0, 2 - int(math.log10(scaled))) if unit and scaled >= 1 else 0
    return f"{math.ceil(scaled * 10**digits) / 10**digits:g}{['B', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}"
