"""P x K batches: which faces make up the global batch of a step, and which of them each rank holds.

The global batch is a pure function of (seed, step) and is the same for every number of ranks. This makes it possible
to resume exactly in the middle of an epoch, and with a different number of ranks. Loading pictures is in ``loader``.
"""

# N: rows of the catalogue, M: rows that can be drawn, P: people of a batch, F: all faces of these people, B: faces in
# the batch.

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from metric_core import counter
from metric_core.errors import TooFewImages
from metric_core.sampling.sharding import share

Weight = Literal["uniform", "sqrt-images", "images"]

_EXPONENT: dict[str, float] = {"sqrt-images": 0.5, "images": 1.0}


@dataclass(frozen=True, eq=False)
class BatchSampler:
    """Identity-balanced batches over a catalogue's rows."""

    code_N: np.ndarray
    """int64 (N,), the identity of each row, numbered from 0."""
    face_id_N: np.ndarray
    """int64 (N,)"""
    identities: int
    """P, people per global batch; fewer if fewer people in the catalogue can be drawn."""
    images: int
    """K, pictures per person; of a person with fewer all are taken, so that no picture occurs twice in a batch."""
    seed: int
    weight: Weight = "uniform"
    """How often a person is drawn. uniform: once per epoch. images and sqrt-images: a step's people are drawn one after
    another without replacement, with probability proportional to the number of pictures or to its square root."""
    view_N: np.ndarray | None = None
    """int64 (N,), the view of each row, -1 for none. If given, a person's pictures are spread over the views as
    evenly as possible; rows without a view, and people with only one view, are not drawn."""

    def __post_init__(self) -> None:
        if self.images < 2 or self.identities < 2:
            raise ValueError(
                f"a batch needs at least 2 people with 2 pictures each; got {self.identities} x {self.images}"
            )
        if len(self.people) < 2:
            found = f"{len(np.unique(self.code_N))} people with {len(self.code_N)} pictures; {len(self.people)} have "
            if self.view_N is None:
                needs = "two or more; training compares a person's pictures with each other and with other people's"
            else:
                needs = "pictures of two views or more; cross-view training compares a person's views with each other"
            raise TooFewImages(f"{found}{needs}, so at least 2 such people are needed")

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        # Rows sorted by (identity, face_id), so that the draw does not depend on the order of the rows.
        row_M = np.arange(len(self.code_N)) if self.view_N is None else np.flatnonzero(self.view_N >= 0)
        order_M = row_M[np.lexsort((self.face_id_N[row_M], self.code_N[row_M]))]
        edges = np.searchsorted(self.code_N[order_M], np.arange(self.code_N.max(initial=-1) + 2))
        return order_M, edges

    @cached_property
    def people(self) -> np.ndarray:
        """Codes of the people who can be drawn: those with two or more pictures or, with ``view_N``, views."""
        if self.view_N is None:
            return np.flatnonzero(np.bincount(self.code_N) >= 2)
        row_M, views = self._sorted[0], self.view_N.max(initial=0) + 1
        seen = np.unique(self.code_N[row_M] * views + self.view_N[row_M])  # one number for each (person, view)
        return np.flatnonzero(np.bincount(seen // views) >= 2)

    @property
    def people_per_batch(self) -> int:
        """P, or the number of people who can be drawn if that is lower."""
        return min(self.identities, len(self.people))

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which uniform weights draw everybody once, except for a remainder smaller than a batch."""
        return len(self.people) // self.people_per_batch

    def people_of(self, step: int) -> np.ndarray:
        """int64 (P,): the distinct people of a step's global batch, in random order.

        With weights they are the people with the smallest -ln(u) / weight for a uniform u: Efraimidis and Spirakis,
        "Weighted random sampling with a reservoir", Information Processing Letters 97, 2006, in logarithms.
        """
        if self.weight == "uniform":
            epoch, within = divmod(step, self.steps_per_epoch)
            start = within * self.people_per_batch
            return self._epoch_order(epoch)[start : start + self.people_per_batch]
        draw = counter.uniform(self.seed, step, self.people, "person", 1)[:, 0]
        wait = -np.log1p(-draw) * self._mean_wait
        chosen_P = self.people[np.argpartition(wait, self.people_per_batch - 1)[: self.people_per_batch]]
        # Shuffled, because argpartition puts the largest weights first, and the first rank would get them all.
        return chosen_P[np.argsort(counter.uniform(self.seed, step, chosen_P, "order", 1)[:, 0])]

    def rows(self, step: int, rank: int = 0, size: int = 1) -> np.ndarray:
        """int64 (B,): a rank's rows of the step's global batch, grouped by person; no person is on two ranks.

        Concatenated in rank order, the ranks' rows are ``rows(step)``.
        """
        order_M, edges = self._sorted
        mine = self.people_of(step)[share(self.people_per_batch, rank, size)]
        person_F = np.repeat(np.arange(len(mine)), edges[mine + 1] - edges[mine])
        row_F = order_M[edges[mine][person_F] + _position(person_F)]
        draw_F = counter.uniform(self.seed, step, self.face_id_N[row_F], "picture", 1)[:, 0]
        turn_F = np.zeros_like(row_F)
        if self.view_N is not None:
            # A person's views take turns: first the first drawn face of each view, then the second of each, …
            view_F = self.view_N[row_F]
            by_view_F = np.lexsort((draw_F, view_F, person_F))
            turn_F[by_view_F] = _position(person_F[by_view_F] * (view_F.max(initial=0) + 1) + view_F[by_view_F])
        picked_F = np.lexsort((draw_F, turn_F, person_F))
        drawn_B: np.ndarray = row_F[picked_F][_position(person_F) < self.images]
        return drawn_B

    def _epoch_order(self, epoch: int) -> np.ndarray:
        cached = self.__dict__.get("_epoch")
        if cached is None or cached[0] != epoch:
            order = counter.generator(self.seed, "epoch", epoch).permutation(self.people)
            cached = self.__dict__["_epoch"] = (epoch, order)
        return cached[1]

    @cached_property
    def _mean_wait(self) -> np.ndarray:
        edges = self._sorted[1]
        wait_P: np.ndarray = np.diff(edges)[self.people] ** -_EXPONENT[self.weight]
        return wait_P


def _position(group_n: np.ndarray) -> np.ndarray:
    """int64 (n,): the position of each entry in its group, from 0; ``group_n`` must be sorted."""
    return np.arange(len(group_n)) - np.searchsorted(group_n, group_n)
