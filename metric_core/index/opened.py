"""A shard opened for searching: its codes are in memory or mapped; its records for reranking may stay in their file."""

# Q: queries, D: components, K: candidates per query, N: rows of the shard, L: lists, R: positions, P: lists per query.

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metric_core.errors import Corrupt
from metric_core.index import codec, merging, template
from metric_core.index.engine import faiss
from metric_core.index.nearest import flat_search
from metric_core.index.records import Records
from metric_core.index.shard import decoded, read_rows
from metric_core.index.spec import IndexSpec

FEW, SHARE = 10_000, 4
"""Rows, at most so many and one in so many, that a filter may leave to be compared one by one by their stored vectors:
a scan of the lists would walk all rows for them, and compare codes."""
_BLOCK = 16384  # rows of an exact scan that are converted to float32 at a time


class OpenShard:
    """One shard, or several that are searched as one. Searching does not change it, so any number of threads may search
    it."""

    def __init__(
        self,
        index: Any,
        rows: pa.RecordBatch,
        spec: IndexSpec,
        code_M: np.ndarray,
        vectors: Path | None,
        where: str,
        mapped: bool = False,
        ids: Path | None = None,
    ) -> None:
        """See ``open`` for how it is made of files; ``ids`` is the FAISS file if ``index`` has none of its ids.

        Raises:
            Corrupt: the parts do not fit together.
        """
        self._scanned, self._ids, self._rows, self._spec, self._where = index, ids, rows, spec, where
        self.lists: int | None = getattr(faiss.try_extract_index_ivf(index), "nlist", None)
        self._unnamed = rows["identity"].null_count
        # A face without a name has the local code -1: the last entry.
        self._code_M = np.append(code_M, np.int32(-1)) if self._unnamed else code_M
        self._parts = [self]
        # FAISS makes the tables of such sub-vectors for all queries by one product, and their last bits depend on the
        # other queries then (ProductQuantizer::compute_inner_prod_tables).
        self._wide = spec.M is not None and spec.fast_scan and spec.dim // spec.M >= 16
        self._records = None if vectors is None else Records(vectors, spec, where, mapped)
        held = self.rows if self._records is None else self._records.rows
        if not int(index.ntotal) == self.rows == held or len(self.names) != len(code_M):
            raise Corrupt(f"{where}: its files do not have equally many rows; start the job that built the index again")

    @classmethod
    def open(
        cls, paths: Mapping[str, Path], spec: IndexSpec, code_M: np.ndarray, where: str, *, mapped: bool = False
    ) -> "OpenShard":
        """Open local files that are known to be ours.

        Args:
            paths: the local files, by ending.
            spec: of the version.
            code_M: int32 (M,), the version's code of each of the shard's identities.
            where: the shard's address, for messages.
            mapped: map the records for reranking into memory instead of reading those of a moment.

        Raises:
            Corrupt: the files do not fit together.
        """
        # FAISS copies mapped fast-scan lists into memory and keeps the pages as well, which takes twice their size.
        file, ids = paths["faiss"], None
        if spec.fast_scan:
            index = codec.read_file(file)
        elif "codes" in paths:
            index, ids = codec.map_codes(file, paths["codes"]), file
        else:
            index = codec.map_file(file)
        return cls(index, read_rows(paths["rows"]), spec, code_M, paths.get("vectors"), where, mapped, ids)

    def join(self, other: "OpenShard") -> None:
        """Take over another shard, of a spec that reranks fast-scan codes: its rows are numbered after these, its codes
        come to the same lists, which are scanned once. FAISS holds such codes in memory, so they can be changed."""
        codec.merge(self._scanned, other._scanned)
        other._scanned = None
        self._parts.append(other)

    @cached_property
    def index(self) -> Any:
        """The FAISS index, whose ids are positions."""
        return self._scanned if self._ids is None else codec.map_file(self._ids)

    @property
    def centroid_MD(self) -> np.ndarray | None:
        """float32 (lists, D): the lists' centroids, a view of the FAISS index's own; None if there are no lists."""
        return template.centroids(self._scanned, copy=False)

    @cached_property
    def _local_N(self) -> np.ndarray:
        """int32 (N,): the shard's code of each row's identity. Only filters read it, and searches without records."""
        code: np.ndarray = self._rows["identity"].indices.fill_null(-1).to_numpy()
        return code

    @property
    def rows(self) -> int:
        """Vectors in it."""
        return self.spans[-1].stop

    @property
    def spans(self) -> list[range]:
        """The rows of each shard in it."""
        edges = np.cumsum([0, *(part._rows.num_rows for part in self._parts)]).tolist()
        return [range(first, last) for first, last in pairwise(edges)]

    @cached_property
    def face_id_N(self) -> np.ndarray:
        """int64 (N,)."""
        columns = [part._rows["face_id"].to_numpy() for part in self._parts]
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    @property
    def names(self) -> pa.Array:
        """Its distinct identities, in byte order."""
        return self._rows["identity"].dictionary

    @property
    def unnamed(self) -> int:
        """Rows without a name."""
        return sum(part._unnamed for part in self._parts)

    @property
    def view(self) -> pa.Array:
        """The view of each row, strings or a dictionary array; of type null where no row has one."""
        views = [part._rows["view"] for part in self._parts]
        if len(views) == 1 or all(pa.types.is_null(view.type) for view in views):
            return pa.concat_arrays(views)
        return pa.concat_arrays([view.cast(pa.string()) for view in views])

    @property
    def identity_N(self) -> np.ndarray:
        """int32 (N,): the version's code of each row's identity; -1 for a row without a name."""
        return np.concatenate([part._code_M[part._local_N] for part in self._parts])

    def candidates(
        self, query_QD: np.ndarray, probed: tuple[np.ndarray, np.ndarray] | None, k: int, allowed_N: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` rows with the highest scores by their codes, best first. Equal ones are by face_id, or by
        position where candidates are reranked.

        Args:
            query_QD: float32 (Q, D), unit length.
            probed: int64 lists to scan and float32 scores of their centroids, (Q, P); None if there are no lists.
            k: rows per query.
            allowed_N: bool (N,), the rows that may be found; None for all.

        Returns:
            float32 scores and int64 positions, (Q, k), padded with -inf and -1.
        """
        if not self.rows:
            return merging.empty(len(query_QD), k)
        if probed is None:
            return flat_search(query_QD, self._blocks(), k, allowed_N)
        selector = None
        if allowed_N is not None:
            few_R = np.flatnonzero(allowed_N)
            if self._records is not None and len(few_R) <= min(FEW, self.rows // SHARE):
                score_QK, at_QK = flat_search(query_QD, [(0, self.vectors_at(few_R))], k)
                return score_QK, np.where(at_QK < 0, -1, few_R[at_QK] if len(few_R) else -1)
            bits = np.packbits(allowed_N, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
        if self._records is not None:  # more candidates are reranked than are asked for: ties at the end do not matter
            return merging.padded(*self._scan(query_QD, probed, min(k, self.rows), selector), k)
        return merging.with_ties(lambda fetch: self._scan(query_QD, probed, fetch, selector), k, self.face_id_N)

    def rows_at(self, position_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 face_ids and the version's int32 codes of identities, (R,)."""
        return self.face_id_N[position_R], self._code_M[self._local_N[position_R]]

    def vectors_at(self, position_R: np.ndarray) -> np.ndarray:
        """float32 (R, D): the stored vectors at ascending positions, as exact as they are stored."""
        if self._records is not None:
            found = [decoded(records.at(at_R)) for _, records, at_R in self._divided(position_R)]
            return np.concatenate([np.empty((0, self._spec.dim), np.float32), *found])
        vector_RD = np.empty((len(position_R), self._spec.dim), np.float32)
        if self.lists is None:
            for start, block_BD in self._blocks():
                here_R = (position_R >= start) & (position_R < start + len(block_BD))
                vector_RD[here_R] = block_BD[position_R[here_R] - start]
            return vector_RD
        ivf = faiss.try_extract_index_ivf(self._scanned)
        for row, at in enumerate(position_R.tolist()):
            number = int(np.searchsorted(self._first_L, at, side="right")) - 1
            ivf.reconstruct_from_offset(number, at - int(self._first_L[number]), faiss.swig_ptr(vector_RD[row]))
        return vector_RD

    @cached_property
    def _first_L(self) -> np.ndarray:
        """int64 (L,): the position of each list's first row."""
        return np.cumsum([0, *codec.list_sizes(faiss.try_extract_index_ivf(self._scanned))[:-1]])

    def compared(
        self, query_QD: np.ndarray, query_R: np.ndarray, position_R: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As ``Records.compared``, with the version's codes of identities. There must be records."""
        columns, start = [], 0
        for part, records, at_R in self._divided(position_R):
            end = start + len(at_R)
            score_R, face_id_R, local_R = records.compared(query_QD, query_R[start:end], at_R)
            columns.append((score_R, face_id_R, part._code_M[local_R]))
            start = end
        if len(columns) == 1:
            return columns[0]
        score_R, face_id_R, code_R = (np.concatenate(column) for column in zip(*columns))
        return score_R, face_id_R, code_R

    def _divided(self, position_R: np.ndarray) -> Iterator[tuple["OpenShard", Records, np.ndarray]]:
        """The parts that ascending positions are in, their records, and the positions there."""
        for part, span in zip(self._parts, self.spans):
            begin, end = np.searchsorted(position_R, (span.start, span.stop))
            if begin < end:
                assert part._records is not None
                yield part, part._records, position_R[begin:end] - span.start

    def _scan(
        self, query_QD: np.ndarray, probed: tuple[np.ndarray, np.ndarray], k: int, selector: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        score_QK, position_QK = np.empty((len(query_QD), k), np.float32), np.empty((len(query_QD), k), np.int64)
        query_QD = np.ascontiguousarray(query_QD, dtype=np.float32)
        how = faiss.SearchParametersIVF(nprobe=probed[0].shape[1], sel=selector)
        arrays = (query_QD, *probed, score_QK, position_QK)
        index, paired = (self.index, False) if selector is not None else (self._scanned, self._ids is not None)
        step = 1 if self._wide else max(1, len(query_QD))
        for start in range(0, len(query_QD), step):
            part = [array[start : start + step] for array in arrays]
            x, lists, near, scores, positions = (faiss.swig_ptr(array) for array in part)
            index.search_preassigned_c(len(part[0]), x, k, lists, near, scores, positions, paired, how)
        none_QK = position_QK < 0
        if paired:  # a list in the upper half, a place in it in the lower one (FAISS, ``lo_build``)
            position_QK[...] = self._first_L[position_QK >> 32] + (position_QK & 0xFFFFFFFF)
            position_QK[none_QK] = -1
        score_QK[none_QK] = -np.inf
        return score_QK, position_QK

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The vectors of an index without lists, from the mapped codes: the first position and float32 (B, D)."""
        dim, codes = self._spec.dim, self._scanned.codes
        byte_N = faiss.rev_swig_ptr(codes.data(), codes.size())
        if self._spec.code == "Flat":
            for start in range(0, self.rows, _BLOCK):
                yield start, byte_N.view(np.float32).reshape(-1, dim)[start : start + _BLOCK]
        elif self._spec.code == "SQfp16":
            for start in range(0, self.rows, _BLOCK):
                yield start, byte_N.view(np.float16).reshape(-1, dim)[start : start + _BLOCK].astype(np.float32)
        else:
            low_D, range_D = faiss.vector_to_array(self._scanned.sq.trained).reshape(2, dim)
            for start in range(0, self.rows, _BLOCK):
                # as FAISS decodes QT_8bit: the middle of each of 255 steps
                step_BD = byte_N.reshape(-1, dim)[start : start + _BLOCK].astype(np.float32) + np.float32(0.5)
                yield start, low_D + step_BD * (range_D / np.float32(255))
