"""What kind of index is built: a frozen description, and the rule that chooses one from the number of rows.

Only exact vectors are stored (flat, or inverted lists of flat vectors); the metric is the inner product of unit
vectors, which is their cosine. Building it is left to ``build``, the final ``nprobe`` to ``recall``.
"""

import math
import re
from dataclasses import dataclass

from metric_core.errors import ConfigError

FLAT_ROWS = 100_000
"""Up to here a scan of everything is exact and fast enough: on 2 CPU cores a query over 100 000 x 512 takes 8 ms in a
batch and 36 ms alone."""

SHARD_BYTES = 1 << 30
"""A shard is built, checked, sent and loaded as a whole, so it should fit one worker's memory several times."""

_TRAIN_A_LIST = 64
"""Training vectors a list; FAISS warns below 39 and ignores what exceeds 256 (``ClusteringParameters``)."""

_MIN_A_LIST = 39

_FACTORY = re.compile(r"Flat|IVF([1-9][0-9]*),Flat")


@dataclass(frozen=True)
class IndexSpec:
    """An index to build. Raises ConfigError, all problems at once, for one that cannot be built."""

    dim: int
    """Components a vector."""
    factory: str
    """FAISS factory string: ``Flat`` (exact) or ``IVF<lists>,Flat``."""
    shards: int = 1
    """Files the rows are spread over; each is built by its own task."""
    nprobe: int | None = None
    """Inverted lists scanned a query before tuning; None for ``Flat``, which has no lists."""

    def __post_init__(self) -> None:
        problems = []
        if not _FACTORY.fullmatch(self.factory):
            problems.append(f"index factory {self.factory!r} is not supported; use 'Flat' or 'IVF<lists>,Flat'")
        elif (self.nlist is None) != (self.nprobe is None):
            problems.append(f"nprobe {self.nprobe} does not fit {self.factory}: IVF needs one, Flat has none")
        elif self.nlist is not None and self.nprobe is not None and not 1 <= self.nprobe <= self.nlist:
            problems.append(f"nprobe must lie in 1..{self.nlist} (the number of lists), got {self.nprobe}")
        if self.dim < 1:
            problems.append(f"dim must be at least 1, got {self.dim}")
        if self.shards < 1:
            problems.append(f"shards must be at least 1, got {self.shards}")
        if problems:
            raise ConfigError.of(problems)

    @property
    def nlist(self) -> int | None:
        """Inverted lists; None for a flat index."""
        found = _FACTORY.fullmatch(self.factory)
        return int(found[1]) if found and found[1] else None

    @property
    def train_rows(self) -> int:
        """Vectors to sample for training: none for a flat index."""
        return _TRAIN_A_LIST * (self.nlist or 0)

    @property
    def min_train_rows(self) -> int:
        """Below this FAISS calls the centroids unreliable."""
        return _MIN_A_LIST * (self.nlist or 0)

    def bytes_needed(self, rows: int) -> int:
        """Memory of the open index: vectors, ids and identity codes, and what finds a vector again.

        That is a hash table from id to row for flat (40 bytes a row in libstdc++: a node of 32, a bucket of 8), the
        centroids of every shard for IVF.
        """
        a_row = 4 * self.dim + 8 + 12
        if self.nlist is None:
            return rows * (a_row + 40)
        return rows * a_row + self.shards * self.nlist * 4 * self.dim


def choose(
    rows: int,
    dim: int,
    *,
    shards: int | None = None,
    target_recall: float = 0.99,
    memory_budget: int | None = None,
) -> IndexSpec:
    """The index for ``rows`` vectors: flat while that is fast enough or exactness is asked for, inverted lists above.

    The number of lists is the power of two nearest to 4 sqrt(rows), the lower end of FAISS's guideline (wiki,
    "Guidelines to choose an index": between 4 sqrt(N) and 16 sqrt(N) below a million vectors); the lower end
    because a list is scanned exactly here, and the training sample grows with the lists.

    Args:
        rows: vectors to index.
        dim: components a vector.
        shards: number of shards; from the size (1 GiB each) when None.
        target_recall: recall wanted from the search, in (0, 1]; 1 asks for an exact index.
        memory_budget: bytes the open index may take; None for no limit.

    Raises:
        ConfigError: nothing to index, target or budget out of range, or the budget is too small.
    """
    problems = []
    if rows < 1:
        problems.append("there are no vectors to index")
    if not 0 < target_recall <= 1:
        problems.append(f"target recall must lie in (0, 1], got {target_recall}")
    if memory_budget is not None and memory_budget < 1:
        problems.append(f"the memory budget must be positive, got {memory_budget} bytes")
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
