"""Exact search: the running best of some queries over blocks of vectors, of which only one is in memory at a time.

A result depends on the query and on the set of vectors, to the last bit: not on the other queries, on how the vectors
are cut into blocks, on the order of the blocks, or on the processor that multiplied them.
"""

# Q: queries, D: components, W: results per query, B: rows of a block, R: rows of a tile, C: candidate pairs.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core.index import products


@dataclass(frozen=True)
class Best:
    """The best vectors of every query, by (-score, face_id); where there are fewer than W, the rest is filled."""

    score_QW: np.ndarray
    """float32, inner products; -inf where there is none"""
    face_id_QW: np.ndarray
    """int64; -1 where there is none"""
    same_QW: np.ndarray
    """bool, whether it is of the query's own person; False where there is none or either has no identity"""


class Nearest:
    """The best of the blocks that were added so far; can be pickled, and merged with one of other blocks."""

    def __init__(
        self,
        query_QD: np.ndarray,
        width: int,
        *,
        exclude_face_id_Q: np.ndarray | None = None,
        identity_Q: Sequence[str | None] | None = None,
    ):
        """
        Args:
            query_QD: float32 (Q, D).
            width: W, results per query.
            exclude_face_id_Q: int64 (Q,), the face that each query ignores, -1 for none.
            identity_Q: the queries' persons; None for a query without one.

        Raises:
            ValueError: width < 1, or the numbers of queries, face_ids and identities differ.
        """
        queries = len(query_QD)
        self.query_QD = np.ascontiguousarray(query_QD, np.float32)
        self.width = width
        self.exclude_face_id_Q = np.full(queries, -1) if exclude_face_id_Q is None else np.asarray(exclude_face_id_Q)
        self.identity_Q = [None] * queries if identity_Q is None else list(identity_Q)
        if width < 1:
            raise ValueError(f"the number of results per query must be at least 1, got {width}")
        if not queries == len(self.exclude_face_id_Q) == len(self.identity_Q):
            raise ValueError(
                f"got {queries} queries, {len(self.exclude_face_id_Q)} face_ids and {len(self.identity_Q)} identities; "
                "expected as many of each"
            )
        self._slack_Q = products.slack(self.query_QD)
        self._best = Best(
            np.full((queries, width), -np.inf, np.float32),
            np.full((queries, width), -1, np.int64),
            np.zeros((queries, width), bool),
        )
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def add(
        self, face_id_B: np.ndarray, embedding_BD: np.ndarray, identity_B: pa.DictionaryArray | None = None
    ) -> None:
        """Takes the rows of a block into account.

        Args:
            face_id_B: int64 (B,), >= 0, each added once.
            embedding_BD: (B, D), norm <= 2; what is not float32 is converted tile by tile.
            identity_B: the rows' persons, int32 codes of distinct strings; null for a row without one. None: no row
                has one.
        """
        code_B, own_code_Q = self._codes(identity_B, len(face_id_B))
        rows = products.tile(len(self.query_QD))
        for start in range(0, len(face_id_B), rows):
            part = slice(start, start + rows)
            row_RD, face_id_R = np.asarray(embedding_BD[part], np.float32), face_id_B[part]
            floor_Q, full = self._floor(row_RD, face_id_R)
            row_C, query_C = products.above(row_RD, self.query_QD, floor_Q)
            face_id_C = face_id_R[row_C]
            other_C = face_id_C != self.exclude_face_id_Q[query_C]
            row_C, query_C, face_id_C = row_C[other_C], query_C[other_C], face_id_C[other_C]
            score_C = products.scores(row_RD, row_C, self.query_QD, query_C)
            self._push(query_C, score_C, face_id_C, code_B[part][row_C] == own_code_Q[query_C])
            if not full:
                self._settle()

    def merge(self, other: "Nearest") -> None:
        """Takes the blocks that were added to ``other`` into account; ``other`` stays as it is.

        Raises:
            ValueError: the queries or the numbers of results differ.
        """
        mine, theirs = (
            (n.query_QD.tobytes(), n.exclude_face_id_Q.tolist(), n.identity_Q, n.width) for n in (self, other)
        )
        if mine != theirs:
            raise ValueError("cannot merge the results of different queries: both need the same ones, in one order")
        best = other.best()
        query_C, at_C = np.nonzero(best.face_id_QW >= 0)
        pair = (query_C, at_C)
        self._push(query_C, best.score_QW[pair], best.face_id_QW[pair], best.same_QW[pair])

    def best(self) -> Best:
        """The best so far."""
        self._settle()
        return self._best

    def _codes(self, identity_B: pa.DictionaryArray | None, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """The person of every row and of every query as a code of the block: int32 (B,) and (Q,), none equals none."""
        if identity_B is None:
            return np.full(rows, -1, np.int32), np.full(len(self.query_QD), -2, np.int32)
        own_Q = pa.array(self.identity_Q, identity_B.dictionary.type)
        own_code_Q = pc.fill_null(pc.index_in(own_Q, identity_B.dictionary, skip_nulls=True), -2)
        return pc.fill_null(identity_B.indices, -1).to_numpy(zero_copy_only=False), own_code_Q.to_numpy()

    def _floor(self, row_RD: np.ndarray, face_id_R: np.ndarray) -> tuple[np.ndarray, bool]:
        """float32 (Q,), the product below which a row of the tile cannot be among the best; whether all have W."""
        floor_Q = self._best.score_QW[:, -1] - self._slack_Q
        new_U = np.flatnonzero(np.isneginf(floor_Q))  # the queries with fewer than W results so far
        if len(new_U) and len(row_RD) > self.width:
            product_UR = products.product(self.query_QD[new_U], row_RD)
            product_UR[self.exclude_face_id_Q[new_U, None] == face_id_R] = -np.inf
            at = len(row_RD) - self.width
            floor_Q[new_U] = np.partition(product_UR, at, axis=1)[:, at] - 2 * self._slack_Q[new_U]
        return floor_Q, not len(new_U)

    def _push(self, query_C: np.ndarray, score_C: np.ndarray, face_id_C: np.ndarray, same_C: np.ndarray) -> None:
        self._pending.append((query_C, score_C, face_id_C, same_C))
        # Sorting is dear, and a floor that is a little too low costs little.
        if sum(len(pending[0]) for pending in self._pending) >= self._best.score_QW.size:
            self._settle()

    def _settle(self) -> None:
        """Merges the pending candidates into the best."""
        if not self._pending:
            return
        best = self._best
        query_QW = np.repeat(np.arange(len(self.query_QD)), self.width)
        mine = (query_QW, best.score_QW.ravel(), best.face_id_QW.ravel(), best.same_QW.ravel())
        query_C, score_C, face_id_C, same_C = (np.concatenate(parts) for parts in zip(mine, *self._pending))
        order_C = np.lexsort((face_id_C, -score_C, query_C))
        begin_Q = np.searchsorted(query_C[order_C], np.arange(len(self.query_QD)))
        best_QW = order_C[begin_Q[:, None] + np.arange(self.width)]
        self._best = Best(score_C[best_QW], face_id_C[best_QW], same_C[best_QW])
        self._pending = []


def flat_search(
    query_QD: np.ndarray,
    blocks: Iterable[tuple[int, np.ndarray]],
    k: int,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` vectors with the largest inner products for every query, best first, ties by position.

    Args:
        query_QD: float32 (Q, D).
        blocks: position of the first row, and the rows (B, D), norm <= 2; what is not float32 is converted by tiles.
        k: results per query.
        allowed: bool, one per position: the vectors that may be found; None for all.

    Returns:
        float32 (Q, k) inner products, -inf where there are fewer than k, and int64 (Q, k) positions, -1 there.

    Raises:
        ValueError: k < 1.
    """
    nearest = Nearest(query_QD, k)
    for start, row_BD in blocks:
        position_B = np.arange(start, start + len(row_BD))
        if allowed is not None and not (allowed_B := allowed[start : start + len(row_BD)]).all():
            position_B, row_BD = position_B[allowed_B], row_BD[allowed_B]
        nearest.add(position_B, row_BD)
    best = nearest.best()
    return best.score_QW, best.face_id_QW
