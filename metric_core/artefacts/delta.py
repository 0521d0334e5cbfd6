"""Selects the rows of a catalogue that an embed job must embed, and finds those that are erased or gone.

Without earlier embeddings that is every row. With them, it is the rows that are new or have changed since then: their
bytes, according to ``content_tag``, or any other column in ``MADE_OF``. Embedding the rows is left to the job.

Shape letters: M sorted ids, N rows.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core.artefacts import ids, keys, rows, schema
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.faces import Faces, face_ids
from metric_core.artefacts.rows import Part
from metric_core.artefacts.tombstones import COLUMNS, Tombstones

MADE_OF = ("content_tag", "identity", "view", "landmarks")
"""Columns of the catalogue that a row of Embeddings depends on."""
_ROWS = 8 * rows.ROW_GROUP


@dataclass(frozen=True)
class Selection:
    """The rows of a catalogue that a job embeds."""

    wanted: dict[str, np.ndarray] | None = None
    """In a delta, for each part of the catalogue, bool (rows,): which rows are new or changed; None: the whole split"""
    erased: dict[str, np.ndarray] = field(default_factory=dict)
    """For each part that has erased rows, int64, sorted: which of the wanted rows are erased."""
    erased_M: np.ndarray = field(default_factory=lambda: ids.NONE)
    """int64, sorted: the face_ids of the erased rows."""
    gone_M: np.ndarray = field(default_factory=lambda: ids.NONE)
    """int64, sorted: inputs of the earlier embeddings that the catalogue no longer has or that are erased."""
    unchanged: int = 0
    """Rows that the earlier embeddings have already."""
    twins: int = 0
    """Pictures that have a new twin and must be embedded again, because the twin may have taken over their id."""

    def count(self, whole: int) -> int:
        """The number of wanted rows, including erased ones; ``whole``: rows in the split."""
        return whole if self.wanted is None else int(sum(wanted_N.sum() for wanted_N in self.wanted.values()))

    @property
    def erased_digest(self) -> str | None:
        """Equal if the same faces are erased; None if no faces are."""
        return ids.digest(self.erased_M) if len(self.erased_M) else None


def tags(table: pa.Table) -> pa.Table:
    """``schema.TAGS`` of some rows of a catalogue."""
    columns = [table["face_id"], table["content_tag"], pa.array(row_hashes(table))]
    return pa.Table.from_arrays(columns, schema=schema.TAGS)


def row_hashes(table: pa.Table) -> np.ndarray:
    """int64 (N,): for each row of a catalogue, a hash of the columns in ``MADE_OF``."""
    named = table.set_column(  # no name is empty, so that nobody is not a person called "None"
        table.schema.get_field_index("identity"), "identity", pc.fill_null(table["identity"], "")
    )
    made_of = zip(*(named[name].to_pylist() for name in MADE_OF))
    texts = ("\0".join(map(str, row)).encode() for row in made_of)
    hashes = (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True) for text in texts)
    return np.fromiter(hashes, np.int64, table.num_rows)


def select(faces: Faces, split: str | None, since: Collection | None, tombstones: Tombstones) -> Selection:
    """The rows of ``split`` (None: all rows) to embed. Reads the catalogue once if any row may be left out.

    Raises:
        Corrupt: a file of the catalogue or of the earlier embeddings is damaged.
    """
    if since is None and not tombstones:
        return Selection()
    known = _Known(since) if since else None
    wanted: dict[str, list[np.ndarray]] = {}
    erased: dict[str, list[np.ndarray]] = {}
    present, erased_ids, changed, plain = [ids.NONE], [ids.NONE], [ids.NONE], [ids.NONE]
    unchanged = 0
    columns = [*COLUMNS, "split", *(MADE_OF if since else ())]
    for part, first, table in _tables(faces, list(dict.fromkeys(columns))):
        id_N = table["face_id"].to_numpy()
        wanted_N = np.ones(len(id_N), bool) if split is None else _filled(pc.equal(table["split"], split))
        erased_N = tombstones.erased(table, faces.namespace, faces.root)
        if known:
            present.append(id_N[wanted_N & ~erased_N])
            same_N = wanted_N & known.unchanged(id_N, row_hashes(table))
            unchanged += int((same_N & ~erased_N).sum())
            wanted_N &= ~same_N
            new_N = ~ids.within(id_N, known.inputs_M)
            changed.append(id_N[wanted_N & ~new_N & ~erased_N])
            plain.append(_plain_ids(table.filter(wanted_N & new_N & ~erased_N), faces.namespace))
        wanted.setdefault(part.name, []).append(wanted_N)
        erased.setdefault(part.name, []).append(first + np.flatnonzero(wanted_N & erased_N))
        erased_ids.append(id_N[wanted_N & erased_N])
    return Selection(
        wanted={name: np.concatenate(some) for name, some in wanted.items()} if known else None,
        erased={name: at_M for name, some in erased.items() if len(at_M := np.concatenate(some))},
        erased_M=np.sort(np.concatenate(erased_ids)),
        gone_M=np.setdiff1d(known.inputs_M, np.concatenate(present)) if known else ids.NONE,
        unchanged=unchanged,
        twins=len(np.intersect1d(np.concatenate(changed), np.concatenate(plain))),
    )


class _Known:
    """The faces in earlier embeddings, 16 bytes per face."""

    def __init__(self, since: Collection) -> None:
        face_ids, hashes = [ids.NONE], [ids.NONE]
        self.inputs_M = ids.NONE
        """int64, sorted: every input face, embedded or not, that was not gone later."""
        for layer in since.layers:
            rejects = [table["face_id"].to_numpy() for table in layer.source.iter_quarantine()]
            without_M = np.unique(np.concatenate([layer.hidden_M, *rejects]))
            self.inputs_M = np.setdiff1d(self.inputs_M, layer.source.gone(), assume_unique=True)
            inputs = [self.inputs_M]
            for table in layer.source.iter_tags():
                id_N = table["face_id"].to_numpy()
                inputs.append(id_N)
                embedded_N = ~ids.within(id_N, without_M)
                face_ids.append(id_N[embedded_N])
                hashes.append(table["row_hash"].to_numpy()[embedded_N])
            self.inputs_M = np.unique(np.concatenate(inputs))
        id_M = np.concatenate(face_ids)
        order_M = np.argsort(id_M)
        self._id_M, self._hash_M = id_M[order_M], np.concatenate(hashes)[order_M]

    def unchanged(self, id_N: np.ndarray, hash_N: np.ndarray) -> np.ndarray:
        """bool (N,): which faces were embedded from the same data."""
        if not len(self._id_M):
            return np.zeros(len(id_N), bool)
        at_N = np.minimum(np.searchsorted(self._id_M, id_N), len(self._id_M) - 1)
        same_N: np.ndarray = (self._id_M[at_N] == id_N) & (self._hash_M[at_N] == hash_N)
        return same_N


def _plain_ids(table: pa.Table, namespace: str) -> np.ndarray:
    """int64: for rows whose key has the ending, the ids of the twins that have the plain keys."""
    found = (keys.plain_of_twin(*row) for row in zip(*(table[name].to_pylist() for name in keys.NAMED_BY)))
    return face_ids(namespace, filter(None, found))


def _tables(faces: Faces, columns: list[str]) -> Iterator[tuple[Part, int, pa.Table]]:
    for part in faces.parts:
        for first in range(0, part.rows, _ROWS):
            last = min(first + _ROWS, part.rows)
            yield part, first, rows.read_range(faces.uri, part, first, last, faces.columns(columns))


def _filled(flags: pa.ChunkedArray) -> np.ndarray:
    flag_N: np.ndarray = flags.fill_null(False).to_numpy()
    return flag_N
