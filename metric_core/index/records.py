"""The ``vectors`` file of a shard, opened for comparing candidates again: mapped into memory, or read range by range
into one buffer, so that only the candidates of a moment take memory.
"""

# R: positions, D: components, Q: queries, U: ranges of the file, V: times that the buffer is filled.

import os
from itertools import pairwise
from pathlib import Path

import numpy as np

from metric_core.errors import Corrupt
from metric_core.index.engine import faiss
from metric_core.index.shard import decoded, record_type
from metric_core.index.spec import IndexSpec

_GAP_BYTES = 12 << 10
"""Records that are closer than this are read as one range: a further call costs as much as copying 10 KB."""
_STRETCH_BYTES = 256 << 10
"""No range leaves its stretch of the file; the buffer holds two."""


class Records:
    """Searching does not change it, so any number of threads may read it."""

    def __init__(self, path: Path, spec: IndexSpec, where: str, mapped: bool) -> None:
        """
        Args:
            path: the local file.
            spec: of the version, with a Refine.
            where: the shard's address, for messages.
            mapped: map the file into memory.
        """
        record = record_type(spec)
        assert record is not None
        self._record, self._where = record, where
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  closed with the shard
        self.rows = os.fstat(self._file.fileno()).st_size // record.itemsize
        self._mapped_N = np.memmap(self._file, record, "r").view(np.ndarray) if mapped and self.rows else None

    def at(self, position_R: np.ndarray) -> np.ndarray:
        """The records (R,) at ascending positions.

        Raises:
            Corrupt: the file ends early.
        """
        if self._mapped_N is not None:
            return np.take(self._mapped_N, position_R)
        record_R, size = np.empty(len(position_R), self._record), self._record.itemsize
        if not len(position_R):
            return record_R
        stretch = max(1, _STRETCH_BYTES // size)  # rows
        gap_R = np.diff(position_R, prepend=-1)
        begin_U = np.flatnonzero((gap_R * size > size + _GAP_BYTES) | (position_R % stretch < gap_R))
        end_U = np.append(begin_U[1:], len(position_R))
        first_U, length_U = position_R[begin_U], position_R[end_U - 1] + 1 - position_R[begin_U]
        last_U = np.cumsum(length_U)  # of all that is read; ranges that end in the same stretch of it fill the buffer
        from_U = last_U - length_U
        at_R = position_R + np.repeat(from_U - first_U, end_U - begin_U)
        buffer_N = np.empty(2 * stretch, self._record)
        memory, handle = buffer_N.view(np.uint8).data, self._file.fileno()
        begin_V, fill_U = np.unique(last_U // stretch, return_index=True, return_inverse=True)[1:]
        low_U = from_U - from_U[begin_V][fill_U]  # in the buffer
        ranges = list(zip(*((a_U * size).tolist() for a_U in (first_U, low_U, low_U + length_U))))
        for begin, end in pairwise([*begin_V.tolist(), len(first_U)]):
            for at, low, high in ranges[begin:end]:
                if os.preadv(handle, [memory[low:high]], at) != high - low:
                    raise Corrupt(f"{self._where}: its records end early; it was changed while it was open")
            part = slice(begin_U[begin], end_U[end - 1])
            np.take(buffer_N, at_R[part] - from_U[begin], out=record_R[part], mode="clip")
        return record_R

    def compared(
        self, query_QD: np.ndarray, query_R: np.ndarray, position_R: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """float32 inner products of pairs of a query and a record; the records' int64 face_ids and int32 codes, (R,).

        A product's bits depend on the two vectors alone.

        Args:
            query_QD: float32 (Q, D), contiguous.
            query_R: int64 (R,), rows of ``query_QD``.
            position_R: int64 (R,), ascending.
        """
        record_R = self.at(position_R)
        vector_RD, every_R = decoded(record_R), np.arange(len(record_R))
        score_R = np.empty(len(record_R), np.float32)
        x, ix, y, iy, out = map(faiss.swig_ptr, (query_QD, query_R, vector_RD, every_R, score_R))
        faiss.pairwise_indexed_inner_product(query_QD.shape[1], len(record_R), x, ix, y, iy, out)
        return score_R, record_R["face_id"], record_R["identity"]
