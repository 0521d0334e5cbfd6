"""Some of a Corpus's rows: whole row groups from all of its stretches, as few bytes as that takes.

An artefact's order is that of its source, where a person's pictures are next to each other: whole row groups have
people with most of their pictures (all, where a part is one row group), and groups of one stretch only would have
people of one kind. All choices are drawn from a seed by ``counter``, and none depends on shards.

Shape letters: N rows, P parts, S strata, G row groups, M chosen rows.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import counter
from metric_core.artefacts import ids, partial
from metric_core.index import corpus
from metric_core.index.corpus import Corpus, Part, Rows

STRATA = 32
"""Row groups that are read at least, if there are so many."""
MARGIN = 1.5
"""Rows that are read per row that is wanted: some are left out because they are of one person, and groups differ."""
LARGE, FRACTION = 10_000_000, 10
"""Of so many rows or more, at most a tenth is read."""
GROUP_ROWS = 8192
"""Rows of a row group, if its part has as many; only a first guess."""


@dataclass(frozen=True)
class Sample:
    """All rows of some row groups, in the corpus's order."""

    rows: Rows
    """float32"""
    group_N: np.ndarray
    """int32 (N,): the row group that each row is from, counted from 0 among those of the sample"""
    read: int
    """Rows of the row groups, hidden ones included."""
    seed: int

    def training(self, wanted: int, per_identity: int, without_M: np.ndarray = ids.NONE) -> np.ndarray:
        """Rows to train lists and codes on.

        People with many pictures would draw lists to themselves. So an identity gives ``per_identity`` rows, and more
        only if there were less than ``wanted`` otherwise: then all get the same next number of rows.

        Args:
            wanted: number of rows; all, if there are fewer.
            per_identity: rows per identity that are taken first.
            without_M: int64, positions of rows that are not taken.

        Returns:
            int64 (M,): their positions, ascending.
        """
        draw_N, rank_N, _ = self._ranked("index-training", without_M)
        order_N = np.lexsort((draw_N, np.maximum(rank_N, per_identity - 1)))
        return np.sort(order_N[: min(wanted, len(order_N) - len(without_M))])

    def probes(self, count: int) -> np.ndarray:
        """int64 (M,): ascending positions of ``count`` rows of different identities, or of all identities if there are
        fewer. Those that have another row in the sample come first: only they can be found by their own pictures. A row
        without a name is an identity of its own, which counts as found with its nearest row: it comes first, too."""
        _, rank_N, size_N = self._ranked("index-probes", ids.NONE)
        draw_N = counter.uniform(self.seed, 0, self.rows.face_id_N, "index-probes-order", 1)[:, 0]
        alone_N = (size_N < 2) & (self.rows.code_N >= 0)
        order_N = np.lexsort((draw_N, alone_N, rank_N > 0))
        return np.sort(order_N[: min(count, int((rank_N == 0).sum()))])

    def whole(self, limit: int) -> np.ndarray:
        """int64 (M,): ascending positions of all rows of as many whole row groups as have at most ``limit`` rows
        together; of one, if all are larger. They keep a person's pictures together, for trials in memory."""
        size_G = np.bincount(self.group_N)
        order_G = np.argsort(counter.uniform(self.seed, 0, np.arange(len(size_G)), "index-whole", 1)[:, 0])
        fits = max(1, int(np.searchsorted(np.cumsum(size_G[order_G]), limit, side="right")))
        return np.flatnonzero(np.isin(self.group_N, order_G[:fits]))

    def _ranked(self, purpose: str, without_M: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each row's draw, its rank (int64, from 0) by draw among the rows of its identity, and how many those are.
        Rows to leave out come last everywhere."""
        draw_N = counter.uniform(self.seed, 0, self.rows.face_id_N, purpose, 1)[:, 0]
        draw_N[without_M] = np.inf
        code_N = self.rows.group_N
        order_N = np.lexsort((draw_N, code_N))
        _, start_K, size_K = np.unique(code_N[order_N], return_index=True, return_counts=True)
        rank_N, size_N = np.empty(len(code_N), np.int64), np.empty(len(code_N), np.int64)
        rank_N[order_N] = np.arange(len(code_N)) - np.repeat(start_K, size_K)
        size_N[order_N] = np.repeat(size_K, size_K)
        rank_N[without_M] = len(code_N)
        return draw_N, rank_N, size_N


def draw(source: Corpus, wanted: int, seed: int) -> Sample:
    """Row groups with ``MARGIN`` times ``wanted`` rows: the one of a random row from each of equal stretches of rows.

    Every row of the corpus has about the same chance to be in the sample. Only the footers of the parts that were
    drawn and the row groups themselves are read, so that the sha256 of the parts is not checked.

    Raises:
        Corrupt: a part does not have the rows that its manifest says, or a vector is not of unit length.
        SchemaMismatch: the columns are not those of ``schema.embeddings``.
    """
    chosen = _Choice(source, seed).groups(wanted)
    read = sum(choice.rows for choice in chosen)
    numbers: list[np.ndarray] = [np.empty(0, np.int32)]

    def fetch(choice: "_Groups") -> tuple["_Groups", pa.Table]:
        embeddings = source.layer(choice.part).source
        return choice, embeddings.read_groups(choice.part.entry, choice.footer, choice.numbers, corpus.CODED)

    def block(choice: "_Groups", table: pa.Table) -> Rows:
        rows, visible_N = source.visible(choice.part, table)
        size_G = [choice.footer.row_group(number).num_rows for number in choice.numbers]
        numbers.append(np.repeat(choice.first + np.arange(len(size_G), dtype=np.int32), size_G)[visible_N])
        return rows

    blocks = (block(choice, table) for choice, table in partial.ahead(fetch, chosen))
    rows = corpus.concatenate(blocks, read, source.dim, "float32")
    _, group_N = np.unique(np.concatenate(numbers), return_inverse=True)  # a group may have hidden rows only
    return Sample(rows, group_N.astype(np.int32), read, seed)


@dataclass(frozen=True)
class _Groups:
    """Row groups of a part."""

    part: Part
    footer: pq.FileMetaData
    numbers: list[int]
    """Of the groups in the part, ascending."""
    first: int
    """The number of the first one in the sample."""

    @property
    def rows(self) -> int:
        return sum(self.footer.row_group(number).num_rows for number in self.numbers)


@dataclass(frozen=True)
class _Choice:
    """Chooses row groups; keeps the footers that were read."""

    source: Corpus
    seed: int
    footers: dict[int, pq.FileMetaData] = field(default_factory=dict)

    def groups(self, wanted: int) -> list[_Groups]:
        """The groups that are read for ``wanted`` rows, in the corpus's order."""
        total = sum(part.rows for part in self.source.parts)
        if not total:
            return []
        most = total if total < LARGE else total // FRACTION
        target = min(most, int(MARGIN * wanted))
        typical = min(GROUP_ROWS, -(-total // len(self.source.parts)))
        strata = min(total, max(STRATA, -(-target // typical)))
        chosen = self._of(total, strata)
        # Two strata may have drawn the same group, or groups may be smaller than was guessed.
        while (rows := sum(choice.rows for choice in chosen)) < target:
            strata = min(total, 1 + int(strata * max(1.25, target / rows)))
            chosen = self._of(total, strata)
        while (rows := sum(choice.rows for choice in chosen)) > most and strata > 1:
            strata = max(1, min(strata - 1, strata * most // rows))
            chosen = self._of(total, strata)
        return chosen

    def _of(self, total: int, strata: int) -> list[_Groups]:
        """The groups of one random row per stratum; at one stratum per row, all groups."""
        draw_S = counter.uniform(self.seed, strata, np.arange(strata), "index-sample", 1)[:, 0]
        row_S = np.minimum(((np.arange(strata) + draw_S) * (total / strata)).astype(np.int64), total - 1)
        row_S = row_S if strata < total else np.arange(total)
        edge_P = np.cumsum([0, *(part.rows for part in self.source.parts)])
        part_S = np.searchsorted(edge_P, row_S, side="right") - 1
        drawn, start_S = np.unique(part_S, return_index=True)
        self._read_footers([int(number) for number in drawn if number not in self.footers])
        chosen: list[_Groups] = []
        first = 0
        for number, rows in zip(drawn.tolist(), np.split(row_S - edge_P[part_S], start_S[1:])):
            footer = self.footers[number]
            ends = np.cumsum([footer.row_group(n).num_rows for n in range(footer.num_row_groups)])
            groups = np.unique(np.searchsorted(ends, rows, side="right")).tolist()
            chosen.append(_Groups(self.source.parts[number], footer, groups, first))
            first += len(groups)
        return chosen

    def _read_footers(self, numbers: list[int]) -> None:
        parts = [self.source.parts[number] for number in numbers]
        found = partial.ahead(lambda part: self.source.layer(part).source.footer(part.entry), parts)
        self.footers.update(zip(numbers, found))
