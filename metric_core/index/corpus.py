"""The rows of a Collection as an index build reads them: as arrays, one part at a time, each file once.

``sample`` reads some of them; what is built from the rows is left to the callers.

Shape letters: N rows, D components, P parts.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from metric_core import counter
from metric_core.artefacts import embeddings, ids
from metric_core.artefacts.collection import Collection, Layer
from metric_core.errors import Corrupt

CODED = ("identity", "view")
"""Columns that are kept as dictionaries: a Python string per row would cost more than the vectors' arithmetic."""
IDS_AT_ONCE = 200_000_000
"""face_ids that are compared at once, in 3.2 GB; for more, the column is read several times."""
_NAMES = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Rows:
    """Some rows as arrays."""

    face_id_N: np.ndarray
    """int64 (N,), not negative"""
    identity: pa.DictionaryArray
    """N codes (int32) of strings; the dictionary has no other names than those of the rows."""
    view: pa.DictionaryArray | None
    """The same; None if no row has a view."""
    embedding_ND: np.ndarray
    """float32 or float16 (N, D), unit length"""

    def __len__(self) -> int:
        return len(self.face_id_N)

    @property
    def code_N(self) -> np.ndarray:
        """int32 (N,): the position of each row's identity in the dictionary; -1 where the identity is null."""
        code_N: np.ndarray = self.identity.indices.fill_null(-1).to_numpy()
        return code_N

    @property
    def group_N(self) -> np.ndarray:
        """int32 (N,): ``code_N`` with a negative number of its own for each row without a name, which may show
        anybody."""
        code_N = self.code_N
        return np.where(code_N < 0, -1 - np.arange(len(code_N), dtype=np.int32), code_N)

    def take(self, at_M: np.ndarray) -> "Rows":
        """The rows at some positions."""
        view = None if self.view is None else _view(_take(self.view, at_M))
        return Rows(self.face_id_N[at_M], _take(self.identity, at_M), view, self.embedding_ND[at_M])


@dataclass(frozen=True)
class Part:
    """One file of rows."""

    layer: int
    """The number of its artefact in the Collection, from 0."""
    name: str
    rows: int
    """Rows in the file, hidden ones included."""
    sha256: str

    @property
    def entry(self) -> dict[str, str | int]:
        """The part as the artefact's manifest lists it."""
        return {"name": self.name, "rows": self.rows, "sha256": self.sha256}


@dataclass(frozen=True)
class Corpus:
    """The inputs of an index."""

    collection: Collection
    parts: list[Part]
    """All parts with rows, in the Collection's order."""

    @classmethod
    def of(cls, collection: Collection) -> "Corpus":
        """The parts of a Collection; nothing is read."""
        listed = [(number, part) for number, layer in enumerate(collection.layers) for part in layer.source.parts]
        return cls(collection, [Part(number, p["name"], p["rows"], p["sha256"]) for number, p in listed if p["rows"]])

    @property
    def dim(self) -> int:
        """Components per vector."""
        return self.collection.dim

    @property
    def rows(self) -> int:
        """Rows that are read, hidden ones left out."""
        return self.collection.rows

    def layer(self, part: Part) -> Layer:
        """The artefact that a part is of, and its hidden faces."""
        return self.collection.layers[part.layer]

    def address(self, part: Part) -> str:
        """Where a part's file is."""
        return self.layer(part).source.address(part.entry)

    def runs(self, shards: int) -> list[list[Part]]:
        """The parts in consecutive runs, the largest of which has as few rows as is possible.

        There are ``shards`` runs, or one per part if there are fewer parts.
        """
        if shards < 1:
            raise ValueError(f"shards must be at least 1, got {shards}")
        edge_P = np.cumsum([0, *(part.rows for part in self.parts)])
        count = min(shards, len(self.parts))
        low, high = 0, int(edge_P[-1])  # the smallest limit that is enough is in (low, high]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if _ends(edge_P, count, middle)[-1:] == [len(self.parts)] else (middle, high)
        ends = _ends(edge_P, count, high)
        return [self.parts[start:stop] for start, stop in zip([0, *ends], ends)]

    def read(self, part: Part) -> Rows:
        """A part's rows without hidden faces; the whole file is read once, and its bytes are checked.

        Raises:
            Corrupt: the file is not the one that the manifest lists, a vector is not of unit length, a face_id is
                negative or in the file twice.
            SchemaMismatch: the columns are not those of ``schema.embeddings``.
        """
        return self.visible(part, self.layer(part).source.read_part(part.entry, CODED))[0]

    def visible(self, part: Part, table: pa.Table) -> tuple[Rows, np.ndarray]:
        """Rows of a part without hidden faces, and bool (N,): which of the table's rows they are.

        Args:
            part: the part.
            table: ``Embeddings.read_part`` or ``read_groups`` with ``CODED``.

        Raises:
            Corrupt: a face_id is negative or in the table twice.
        """
        id_N = table["face_id"].to_numpy()
        if (id_N < 0).any():
            raise Corrupt(f"{self.address(part)}: face_id {id_N.min()} is negative; {embeddings.REMEDY}")
        if (twice := _twice(id_N.copy())) is not None:
            raise Corrupt(f"{self.address(part)}: face_id {twice} is in it twice; {embeddings.REMEDY}")
        identity, view = (table[name].combine_chunks() for name in CODED)
        rows = Rows(id_N, identity, _view(view), embeddings.components(table))
        visible_N = ~ids.within(id_N, self.layer(part).hidden_M)
        return (rows if visible_N.all() else rows.take(np.flatnonzero(visible_N))), visible_N

    def require_distinct(self) -> None:
        """Check that no face_id is in two rows; only the ids are read.

        Raises:
            Corrupt: names such an id and the parts that it is in.
        """
        ranges = max(1, -(-self.rows // IDS_AT_ONCE))
        for number in range(ranges):
            found = [ids.NONE]
            for table in self.collection.iter_columns(["face_id"]):
                id_N = table["face_id"].to_numpy()
                if ranges > 1:  # ids need not be evenly spread, but their hashes are
                    id_N = id_N[counter.uniform(0, 0, id_N, "index-distinct", 1)[:, 0] * ranges // 1 == number]
                found.append(id_N)
            if (twice := _twice(np.concatenate(found))) is not None:
                raise Corrupt(
                    f"face_id {twice} is in two rows, in {' and in '.join(self._parts_with(twice))}; embed again to "
                    f"another --out, and give no vectors twice"
                )

    def _parts_with(self, face_id: int) -> list[str]:
        tables = zip(self.parts, self.collection.iter_columns(["face_id"]))
        counts = [(self.address(part), int((table["face_id"].to_numpy() == face_id).sum())) for part, table in tables]
        return [address for address, count in counts for _ in range(count)][:2]


def concatenate(blocks: Iterable[Rows], most: int, dim: int, dtype: str) -> Rows:
    """The rows of all blocks in one.

    Args:
        blocks: of vectors with ``dim`` components; each is dropped when it is copied, so that there is memory for
            the result only.
        most: rows in all blocks, at most.
        dim: components per vector.
        dtype: of the result's vectors.
    """
    embedding_ND = np.empty((most, dim), dtype)
    face_ids, names, views, count = [ids.NONE], [_none(0)], [_none(0)], 0
    for block in blocks:
        embedding_ND[count : count + len(block)] = block.embedding_ND
        face_ids.append(block.face_id_N)
        names.append(block.identity)
        views.append(_none(len(block)) if block.view is None else block.view)
        count += len(block)
    identity, view = (pa.chunked_array(c, _NAMES).unify_dictionaries().combine_chunks() for c in (names, views))
    return Rows(np.concatenate(face_ids), identity, _view(view), embedding_ND[:count])


def _ends(edge_P: np.ndarray, count: int, limit: int) -> list[int]:
    """Where up to ``count`` runs end that have at most ``limit`` rows each and are as long as can be, while there are
    parts left for the others."""
    ends: list[int] = []
    for left in reversed(range(count)):
        start = ends[-1] if ends else 0
        end = int(np.searchsorted(edge_P, edge_P[start] + limit, side="right")) - 1
        ends.append(min(end, len(edge_P) - 1 - left))
    return ends


def _twice(id_N: np.ndarray) -> int | None:
    """The smallest id that is there twice, if any; the array is sorted in place."""
    id_N.sort()
    same_N = id_N[1:] == id_N[:-1]
    return int(id_N[1:][same_N.argmax()]) if same_N.any() else None


def _take(names: pa.DictionaryArray, at_M: np.ndarray) -> pa.DictionaryArray:
    """The names at some positions; the dictionary loses the others, which may be those of people who were erased."""
    return names.take(pa.array(at_M)).dictionary_decode().dictionary_encode()


def _view(view: pa.DictionaryArray) -> pa.DictionaryArray | None:
    return None if view.null_count == len(view) else view


def _none(count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.nulls(count, pa.int32()), pa.array([], pa.string()))
