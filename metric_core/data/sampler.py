"""P x K batches: which faces make up the global batch of a step, and which of them each rank holds.

The global batch is a pure function of (seed, step) and is the same whatever the number of ranks; that one property
gives exact resume in the middle of an epoch and restarts at another size. Loading the pictures is left to ``loader``.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from metric_core import counter
from metric_core.errors import TooFewImages


def share(total: int, rank: int, size: int) -> slice:
    """The contiguous share of ``total`` units that belongs to a rank; shares differ by at most one unit."""
    return slice(total * rank // size, total * (rank + 1) // size)


@dataclass(frozen=True, eq=False)
class BatchSampler:
    """Identity-balanced batches over a catalogue's rows."""

    code_N: np.ndarray
    """int64 (N,), the identity of each row, numbered from 0."""
    face_id_N: np.ndarray
    """int64 (N,)"""
    identities: int
    """P, people a global batch; fewer when the catalogue has fewer with two or more pictures."""
    images: int
    """K, pictures a person; a person with fewer gives all of theirs, so that no picture is in a batch twice."""
    seed: int

    def __post_init__(self) -> None:
        if self.images < 2 or self.identities < 2:
            raise ValueError(f"a batch needs 2 people of 2 pictures at least, got {self.identities} x {self.images}")
        if len(self.people) < 2:
            raise TooFewImages(
                f"{len(np.unique(self.code_N))} people with {len(self.code_N)} pictures; {len(self.people)} have "
                f"two or more; training compares pictures of one person with those of others and needs 2 such people"
            )

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        # Rows by (identity, face_id): the draw depends on which faces there are, not on the order they are listed in.
        order_N = np.lexsort((self.face_id_N, self.code_N))
        edges = np.searchsorted(self.code_N[order_N], np.arange(self.code_N.max(initial=-1) + 2))
        return order_N, edges

    @cached_property
    def people(self) -> np.ndarray:
        """Codes of the people who have a positive: two pictures or more."""
        return np.flatnonzero(np.bincount(self.code_N) >= 2)

    @property
    def people_a_batch(self) -> int:
        """P, as far as the catalogue allows."""
        return min(self.identities, len(self.people))

    @property
    def steps_an_epoch(self) -> int:
        """Steps in which everybody is drawn once, but for a remainder smaller than a batch."""
        return len(self.people) // self.people_a_batch

    def people_of(self, step: int) -> np.ndarray:
        """int64 (P,): the people of a step's global batch, each epoch in an order of its own."""
        epoch, within = divmod(step, self.steps_an_epoch)
        start = within * self.people_a_batch
        return self._epoch_order(epoch)[start : start + self.people_a_batch]

    def rows(self, step: int, rank: int = 0, size: int = 1) -> np.ndarray:
        """int64 (B,): a rank's rows of the step's global batch, grouped by person; ranks never share a person.

        The concatenation over ranks, in rank order, is ``rows(step)``.
        """
        order_N, edges = self._sorted
        mine = self.people_of(step)[share(self.people_a_batch, rank, size)]
        picked = [np.empty(0, np.int64)]
        for person in mine:
            rows = order_N[edges[person] : edges[person + 1]]
            draw = counter.uniform(self.seed, step, self.face_id_N[rows], "picture", 1)[:, 0]
            picked.append(rows[np.argsort(draw, kind="stable")[: self.images]])
        return np.concatenate(picked)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        cached = self.__dict__.get("_epoch")
        if cached is None or cached[0] != epoch:
            order = counter.generator(self.seed, "epoch", epoch).permutation(self.people)
            cached = self.__dict__["_epoch"] = (epoch, order)
        return cached[1]
