"""The held-out probes of a version and their exact neighbours, which its shards find while they are built."""

# Q: probes, D: components, W: neighbours that are kept per probe.

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from metric_core.artefacts import ids
from metric_core.index.nearest import Best, Nearest

WIDTH = 36
"""Neighbours that are kept per probe: twice the ten that a recall may be of, and some that tie with the last one."""


@dataclass(frozen=True)
class Probes:
    """Faces of the corpus that are looked for, each without itself."""

    face_id_Q: np.ndarray
    """int64 (Q,)"""
    identity_Q: list[str | None]
    query_QD: np.ndarray
    """float32, unit length"""

    def __len__(self) -> int:
        return len(self.face_id_Q)

    def nearest(self) -> Nearest:
        """Finds the exact neighbours in the blocks that it is shown."""
        return Nearest(self.query_QD, WIDTH, exclude_face_id_Q=self.face_id_Q, identity_Q=self.identity_Q)

    def take(self, kept_Q: np.ndarray) -> "Probes":
        """Some of them, by bool (Q,) or by position."""
        at_Q = np.arange(len(self))[kept_Q]
        return Probes(self.face_id_Q[at_Q], [self.identity_Q[at] for at in at_Q.tolist()], self.query_QD[at_Q])

    def to_table(self) -> pa.Table:
        """Columns face_id, identity and embedding."""
        return pa.table(
            {
                "face_id": self.face_id_Q,
                "identity": pa.array(self.identity_Q, pa.string()),
                "embedding": _lists(self.query_QD),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> "Probes":
        """From a file of Arrow IPC with the columns of ``to_table``."""
        table = _table(data)
        return cls(table["face_id"].to_numpy(), table["identity"].to_pylist(), _matrix(table["embedding"]))


@dataclass(frozen=True)
class Truth:
    """Probes with their exact neighbours."""

    probes: Probes
    best: Best

    @property
    def unnamed_Q(self) -> np.ndarray:
        """bool (Q,): the probe has no name, and there is a nearest vector, which is whom a search should find."""
        unnamed_Q = np.array([name is None for name in self.probes.identity_Q], bool)
        found_Q: np.ndarray = unnamed_Q & (self.best.face_id_QW[:, 0] >= 0)
        return found_Q

    @property
    def counted_Q(self) -> np.ndarray:
        """bool (Q,): an exact search puts the probe's person first, or the probe has no name. Only these count for the
        recall of people."""
        counted_Q: np.ndarray = self.best.same_QW[:, 0] | self.unnamed_Q
        return counted_Q

    def to_table(self) -> pa.Table:
        """The probes' columns and those of ``best_table``."""
        table = self.probes.to_table()
        for name, column in zip(("near_score", "near_face_id", "near_same"), best_table(self.best).columns):
            table = table.append_column(name, column)
        return table

    @classmethod
    def parse(cls, data: bytes) -> "Truth":
        """From a file of Arrow IPC with the columns of ``to_table``."""
        table = _table(data)
        best = Best(*(_matrix(table[name]) for name in ("near_score", "near_face_id", "near_same")))
        return cls(Probes.parse(data), best)


def best_table(best: Best) -> pa.Table:
    """Columns score, face_id and same, each a list per probe."""
    return pa.table({"score": _lists(best.score_QW), "face_id": _lists(best.face_id_QW), "same": _lists(best.same_QW)})


def parse_best(data: bytes) -> Best:
    """From a file of Arrow IPC with the columns of ``best_table``."""
    table = _table(data)
    return Best(*(_matrix(table[name]) for name in ("score", "face_id", "same")))


def merged(parts: Sequence[Best]) -> Best:
    """The neighbours among all rows, from those among the rows of each shard."""
    names = ("score_QW", "face_id_QW", "same_QW")
    score_QC, face_id_QC, same_QC = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in names)
    order_QW = np.lexsort((face_id_QC, -score_QC), axis=-1)[:, :WIDTH]
    return Best(*(np.take_along_axis(column, order_QW, 1) for column in (score_QC, face_id_QC, same_QC)))


@dataclass(frozen=True)
class Followed:
    """The truth of a version that faces were added to, or hidden in."""

    truth: Truth
    masked: int
    """probes that do not count any more because their own face is hidden"""
    short: int
    """those that do not because so many of their stored neighbours are hidden that the nearest are not known"""


def followed(before: Truth, rows: int, masked_M: np.ndarray, added: Sequence[Best], least: int) -> Followed:
    """The neighbours of the same probes after faces were hidden and others added.

    Of a probe with hidden neighbours, those are known that are at least as near as the last one that was stored: rows
    that are farther may not have been stored.

    Args:
        before: of the version that is added to.
        rows: its rows that may be found.
        masked_M: int64, sorted: its faces that must not be found any more.
        added: the same probes' neighbours in each new shard.
        least: known neighbours that a probe must have to count, unless there are fewer rows.
    """
    old = before.best
    there_QW = old.face_id_QW >= 0
    # A list that has all rows but the probe itself ends because there are no more.
    whole_Q = there_QW.sum(axis=1) >= rows - 1
    floor_Q = np.where(whole_Q, -np.inf, np.where(there_QW, old.score_QW, np.inf).min(axis=1, initial=np.inf))
    best = merged([without(old, masked_M), *added])
    unknown_QW = best.score_QW < floor_Q[:, None]
    best = Best(
        np.where(unknown_QW, -np.inf, best.score_QW).astype(np.float32),
        np.where(unknown_QW, -1, best.face_id_QW),
        best.same_QW & ~unknown_QW,
    )
    own_Q = ids.within(before.probes.face_id_Q, masked_M)
    short_Q = ~own_Q & ~whole_Q & ((best.face_id_QW >= 0).sum(axis=1) < least)
    left_Q = ~(own_Q | short_Q)
    left = Truth(before.probes.take(left_Q), taken(best, left_Q))
    return Followed(left, int(own_Q.sum()), int(short_Q.sum()))


def taken(best: Best, kept_Q: np.ndarray) -> Best:
    """The neighbours of some of the probes: bool (Q,)."""
    return Best(best.score_QW[kept_Q], best.face_id_QW[kept_Q], best.same_QW[kept_Q])


def without(best: Best, face_id_M: np.ndarray) -> Best:
    """The neighbours without some faces, int64 (M,), sorted; those behind them move up. What is left are still the best
    of the rows that remain, but fewer than there would be room for."""
    gone_QW = ids.within(best.face_id_QW.ravel(), face_id_M).reshape(best.face_id_QW.shape)
    order_QW = np.argsort(gone_QW, axis=1, kind="stable")
    columns = [
        np.where(gone_QW, nothing, column)
        for column, nothing in ((best.score_QW, np.float32(-np.inf)), (best.face_id_QW, -1), (best.same_QW, False))
    ]
    return Best(*(np.take_along_axis(column, order_QW, 1) for column in columns))


def _table(data: bytes) -> pa.Table:
    return pa.ipc.open_file(io.BytesIO(data)).read_all()


def _lists(array_QK: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(array_QK).reshape(-1)), array_QK.shape[1])


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    flat = column.combine_chunks()
    size = column.type.list_size
    matrix: np.ndarray = flat.flatten().to_numpy(zero_copy_only=False).reshape(len(column), size)
    return matrix
