"""The identities of face_ids: a sorted table per shard, joined to search results by binary search.

Names are stored once and rows refer to them, so ten million faces need 12 bytes each and not a string each.
"""

# N: rows of the table.

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core.errors import Corrupt

SCHEMA = pa.schema(
    [
        pa.field("face_id", pa.int64(), nullable=False),
        pa.field("identity", pa.dictionary(pa.int32(), pa.string()), nullable=False),
    ]
)


def to_table(face_id_N: np.ndarray, identity_N: np.ndarray) -> pa.Table:
    """The rows sorted by face_id, in ``SCHEMA``."""
    order = np.argsort(face_id_N, kind="stable")
    name_M, code_N = np.unique(identity_N[order].astype(str), return_inverse=True)
    coded = pa.DictionaryArray.from_arrays(code_N.astype(np.int32), pa.array(name_M.tolist(), pa.string()))
    return pa.Table.from_arrays([pa.array(face_id_N[order], pa.int64()), coded], schema=SCHEMA)


@dataclass(frozen=True)
class Identities:
    """All rows of an index version, sorted by face_id."""

    face_id_N: np.ndarray
    """int64 (N,), strictly increasing"""
    code_N: np.ndarray
    """int32 (N,), positions in ``names``"""
    names: pa.Array
    """distinct identities, in byte order"""

    @classmethod
    def of(cls, tables: list[pa.Table]) -> "Identities":
        """The union of the shards' tables.

        Raises:
            Corrupt: a face_id occurs twice.
        """
        table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        face_id_N = table["face_id"].to_numpy()
        order = np.argsort(face_id_N, kind="stable")
        face_id_N = face_id_N[order]
        if (np.diff(face_id_N) == 0).any():
            twice = int(face_id_N[1:][np.diff(face_id_N) == 0][0])
            raise Corrupt(f"face_id {twice} is in the index twice; build the index again")
        if not len(face_id_N):
            return cls(face_id_N, np.empty(0, np.int32), pa.array([], pa.string()))
        coded = table["identity"].chunk(0)
        rank = pc.sort_indices(coded.dictionary).to_numpy()
        new_code = np.empty(len(rank), np.int32)
        new_code[rank] = np.arange(len(rank), dtype=np.int32)
        return cls(face_id_N, new_code[coded.indices.to_numpy()][order], coded.dictionary.take(pa.array(rank)))

    def codes(self, face_id: np.ndarray) -> np.ndarray:
        """int32 of the same shape: the identity of each face_id; -1 where the id is -1.

        Raises:
            Corrupt: an id is not in the table.
        """
        if not len(self.face_id_N):
            at = np.zeros(face_id.shape, np.int64)
            known = np.zeros(face_id.shape, bool)
        else:
            at = np.minimum(np.searchsorted(self.face_id_N, face_id), len(self.face_id_N) - 1)
            known = self.face_id_N[at] == face_id
        lost = ~known & (face_id >= 0)
        if lost.any():
            raise Corrupt(f"face_id {int(face_id[lost][0])} has no row in the index's identity table; build it again")
        code = np.full(face_id.shape, -1, np.int32)
        code[known] = self.code_N[at[known]]
        return code
