"""Counts the faces and people of each split while rows are written, and checks that nobody is in two splits or has two
spellings.

People are kept as hashes of their names, so that a hundred million rows fit in memory. Who gets which split is decided
in ``catalogue``.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core import counter
from metric_core.errors import DataError
from metric_core.sources import naming


class Census:
    """Running counts over catalogue rows."""

    def __init__(self) -> None:
        self.unnamed = 0
        """Faces without a name."""
        self._rows: Counter[str | None] = Counter()
        self._people: dict[str | None, list[np.ndarray]] = {}
        self._folded: list[np.ndarray] = []
        """Of people whose name differs from ``naming.folded``: int64 (2, M), hashes of that form and of the name."""

    def add(self, table: pa.Table) -> None:
        """Count a table's rows."""
        counted = table.group_by(["split", "identity"]).aggregate([([], "count_all")])
        names: dict[str | None, list[str]] = {}
        for split, identity, rows in zip(*(counted[n].to_pylist() for n in ("split", "identity", "count_all"))):
            self._rows[split] += rows
            known = names.setdefault(split, [])
            if identity is None:
                self.unnamed += rows
            else:
                known.append(identity)
        for split, people in names.items():
            self._people.setdefault(split, []).append(_hashes(people))
            forms = [(name, form) for name in people if (form := naming.folded(name)) != name]
            if forms:
                self._folded.append(
                    np.stack([_hashes([form for _, form in forms]), _hashes([name for name, _ in forms])])
                )

    def check_splits(self, tables: Iterable[pa.Table]) -> None:
        """Check that each person is in one split. ``tables`` are the same rows again, read only to find the
        name of a person in two splits.

        Raises:
            DataError: a person is in two splits.
        """
        hash_P = np.concatenate([np.empty(0, np.int64), *self._by_split().values()])
        sorted_P = np.sort(hash_P)
        in_two = sorted_P[1:][sorted_P[1:] == sorted_P[:-1]]
        if not len(in_two):
            return
        first: dict[str, str | None] = {}
        for table in tables:
            named = table.filter(pc.is_valid(table["identity"]))
            people = named.group_by(["identity", "split"]).aggregate([])
            suspect_P = np.isin(_hashes(people["identity"].to_pylist()), in_two)
            for row in people.filter(suspect_P).to_pylist():
                split = first.setdefault(row["identity"], row["split"])
                if split != row["split"]:
                    raise DataError(
                        f"{row['identity']} is in split {split} and in {row['split']}; a person must be in one split"
                    )

    def alike(self, tables: Iterable[pa.Table]) -> list[tuple[str, str]]:
        """Pairs of identities that differ only in case or in their Unicode form. ``tables`` are the same rows again,
        read only if there are such."""
        hash_FM = np.unique(np.concatenate([np.empty((2, 0), np.int64), *self._folded], axis=1), axis=1)
        plain_P = np.concatenate([np.empty(0, np.int64), *self._by_split().values()])
        # Names that are their own form have a hash among all names that is the form's.
        form_F, count_F = np.unique(hash_FM[0], return_counts=True)
        alike_F = form_F[(count_F > 1) | np.isin(form_F, plain_P)]
        if not len(alike_F):
            return []
        first: dict[str, str] = {}
        pairs: dict[tuple[str, str], None] = {}
        for table in tables:
            names = pc.unique(table["identity"]).drop_null().to_pylist()
            forms = [naming.folded(name) for name in names]
            for at in np.flatnonzero(np.isin(_hashes(forms), alike_F)):
                if (other := first.setdefault(forms[at], names[at])) != names[at]:
                    pairs[other, names[at]] = None
        return list(pairs)

    def summary(self) -> dict[str, Any]:
        """{rows, identities, splits: {name: {rows, identities}}}"""
        people = {split: len(hash_P) for split, hash_P in self._by_split().items()}
        splits = {n: {"rows": self._rows[n], "identities": people[n]} for n in sorted(n for n in people if n)}
        return {"rows": self._rows.total(), "identities": sum(people.values()), "splits": splits}

    def _by_split(self) -> dict[str | None, np.ndarray]:
        for split, held in self._people.items():
            self._people[split] = [np.unique(np.concatenate(held))]
        return {split: hashes for split, (hashes,) in self._people.items()}


def _hashes(names: list[str]) -> np.ndarray:
    return np.array([counter.hash63("identity", name, 0) for name in names], dtype=np.int64)
