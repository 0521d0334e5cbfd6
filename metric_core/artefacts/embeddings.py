"""The Embeddings artefact: parts of unit vectors sorted by face_id, with the list of inputs and the quarantine.

    part-NNNNNN.parquet             the vectors
    tags/part-NNNNNN.parquet        every input face, and the content_tag that its picture had
    quarantine/part-NNNNNN.parquet  input faces that could not be embedded, and why
    gone.parquet                    in a delta: faces of earlier artefacts that the catalogue no longer has

A file is written once and atomically, and the manifest has its rows and sha256. The embed job plans which faces go into
which part, and decides when a part is done. ``collection`` reads several artefacts as one.

Shape letters: N faces, D components.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import ids, manifest, partial, schema
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import Corrupt

UNIT_TOLERANCE = 1e-3
GONE = "gone.parquet"
REJECTS = b"likeness.rejects"
"""Key in a part's metadata, whose value lists the faces of the unit that could not be embedded, as JSON:
[[face_id, uri, reason, detail]]."""
REMEDY = "embed again to another --out"
"""What to do about a damaged artefact, for messages."""


@dataclass(frozen=True)
class Vectors:
    """Columns of some Embeddings rows as arrays."""

    face_id_N: np.ndarray
    """int64 (N,)"""
    identity_N: np.ndarray
    """object (N,), str; None for a face without a name"""
    embedding_ND: np.ndarray
    """float32 (N, D), unit length"""

    def __len__(self) -> int:
        return len(self.face_id_N)


def part_name(number: int, retry: int = 0) -> str:
    """``part-000042.parquet``; ``part-000042-1.parquet`` for the vectors from a first retry of its rejects."""
    return f"part-{number:06d}{f'-{retry}' if retry else ''}.parquet"


def to_table(
    face_id_N: np.ndarray,
    identity: list[str | None],
    view: list[str | None],
    embedding_ND: np.ndarray,
    norm_N: np.ndarray,
    *,
    unlabelled: bool = False,
) -> pa.Table:
    """An Embeddings table sorted by face_id, in the dtype of ``embedding_ND`` (float32 or float16). Identities may be
    None only in an unlabelled corpus.

    Raises:
        ValueError: a vector is not finite or not of unit length.
    """
    check_unit(embedding_ND, "embedding")
    order = np.argsort(face_id_N, kind="stable")
    flat = pa.array(np.ascontiguousarray(embedding_ND[order]).reshape(-1))
    columns = [
        pa.array(face_id_N[order]),
        pa.array([identity[i] for i in order], pa.string()),
        pa.array([view[i] for i in order], pa.string()),
        pa.FixedSizeListArray.from_arrays(flat, embedding_ND.shape[1]),
        pa.array(norm_N[order].astype(np.float32)),
    ]
    expected = schema.embeddings(embedding_ND.shape[1], flat.type)
    return pa.Table.from_arrays(columns, schema=schema.unlabelled(expected) if unlabelled else expected)


def from_table(table: pa.Table) -> Vectors:
    """The table's columns as arrays; float16 vectors are widened to float32."""
    return Vectors(
        face_id_N=table["face_id"].to_numpy(),
        identity_N=np.array(table["identity"].to_pylist(), dtype=object),
        embedding_ND=components(table).astype(np.float32, copy=False),
    )


def components(table: pa.Table) -> np.ndarray:
    """(N, D): the table's vectors, in the dtype in which they are stored."""
    column = table["embedding"]
    whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies even one chunk
    flat = whole.flatten().to_numpy(zero_copy_only=False)
    vector_ND: np.ndarray = flat.reshape(-1, table.schema.field("embedding").type.list_size)
    return vector_ND


def check_unit(embedding_ND: np.ndarray, what: str) -> None:
    """Raise ValueError unless every row is finite and of length 1 within ``UNIT_TOLERANCE`` (float16: twice that)."""
    tolerance = UNIT_TOLERANCE * (2 if embedding_ND.dtype == np.float16 else 1)
    norm_N = np.linalg.norm(embedding_ND.astype(np.float32, copy=False), axis=1)
    bad = ~(np.abs(norm_N - 1) <= tolerance)  # NaN compares false, so it counts as bad
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{what}: {int(bad.sum())} of {len(norm_N)} vectors are not unit length (row {row}: {norm_N[row]:.4g})"
        )


@dataclass(frozen=True)
class Embeddings:
    """A finished Embeddings artefact, opened for reading."""

    manifest: Manifest

    @classmethod
    def open(cls, uri: str) -> "Embeddings":
        """Open an artefact. Raises Missing, Unfinished, Corrupt or SchemaMismatch as ``manifest.read`` does."""
        return cls(manifest.read(storage.absolute(uri), "embeddings"))

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that made the vectors."""
        return str(self.manifest.content["fingerprint"])

    @property
    def dim(self) -> int:
        """Components per vector."""
        return int(self.manifest.content["dim"])

    @property
    def dtype(self) -> str:
        """``float32`` or ``float16``, in which the vectors are stored."""
        return str(self.manifest.content["dtype"])

    @property
    def namespace(self) -> str:
        """The namespace that the face_ids were derived in."""
        return str(self.manifest.content["namespace"])

    @property
    def unlabelled(self) -> bool:
        """Whether faces may have no name."""
        return bool(self.manifest.content.get("unlabelled", False))

    @property
    def rows(self) -> int:
        """The number of embedded faces."""
        return int(self.manifest.content["embedded"])

    @property
    def parts(self) -> list[dict[str, Any]]:
        """{name, rows, sha256} of each part, in order."""
        return list(self.manifest.content["parts"])

    def address(self, part: dict[str, Any]) -> str:
        """Where a part's file is."""
        return storage.join(self.manifest.uri, part["name"])

    @property
    def plan_id(self) -> str:
        """Digest of the plan that it was made by, which deltas name it by."""
        return str(self.manifest.content["plan_id"])

    @property
    def since(self) -> list[str]:
        """The plan ids of the artefacts that this one is a delta of, in order; empty when it is not a delta."""
        return [one["plan_id"] for one in self.manifest.content["since"]]

    @property
    def schema(self) -> pa.Schema:
        """The schema of the parts."""
        labelled = schema.embeddings(self.dim, {"float32": pa.float32(), "float16": pa.float16()}[self.dtype])
        return schema.unlabelled(labelled) if self.unlabelled else labelled

    def read_part(self, part: dict[str, Any], coded: Sequence[str] = ()) -> pa.Table:
        """One part's rows, each column in one piece; its bytes, schema and vectors are checked.

        Args:
            part: of ``parts``.
            coded: columns of strings that are read as dictionaries.

        Raises:
            Corrupt: the bytes or the row count differ from the manifest's, or a vector is not of unit length.
            SchemaMismatch: the columns are not those of ``schema.embeddings``.
        """
        return self._whole(part, self._read(part["name"], part, self.schema, coded))

    def footer(self, part: dict[str, Any]) -> pq.FileMetaData:
        """A part's footer, which lists its row groups; nothing else is fetched.

        Raises:
            Corrupt: it cannot be parsed, or the part's rows are not as many as the manifest says.
        """
        with self._opened(part) as file:
            return file.metadata

    def read_groups(
        self, part: dict[str, Any], footer: pq.FileMetaData, groups: Sequence[int], coded: Sequence[str] = ()
    ) -> pa.Table:
        """The rows of some row groups; only they are fetched, so the sha256 is not checked. Otherwise as
        ``read_part``."""
        with self._opened(part, coded=coded, footer=footer) as file:
            table = file.read_row_groups(list(groups))
        return self._whole(part, schema.check(table, self.schema, self.address(part), coded))

    def iter_vectors(self) -> Iterator[Vectors]:
        """The artefact's rows, one part at a time. Raises as ``read_part``."""
        for part in self.parts:
            if part["rows"]:
                yield from_table(self.read_part(part))

    def iter_columns(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of the rows, one part at a time; only they are fetched, so the sha256 is not checked.

        Raises:
            Corrupt: a part cannot be parsed, or its rows are not as many as the manifest says.
            SchemaMismatch: a column is missing or of another type.
        """
        expected = pa.schema([self.schema.field(name) for name in columns])

        def read(part: dict[str, Any]) -> pa.Table:
            with self._opened(part) as file:
                return schema.check(file.read(columns=list(columns)), expected, self.address(part))

        return partial.ahead(read, [part for part in self.parts if part["rows"]])

    def iter_tags(self) -> Iterator[pa.Table]:
        """``schema.TAGS`` of every input face, one unit at a time.

        Raises:
            Corrupt: as ``read_part``.
        """
        return partial.ahead(
            lambda file: self._read(f"tags/{file['name']}", file, schema.TAGS), self.manifest.content["tags"]
        )

    def iter_quarantine(self) -> Iterator[pa.Table]:
        """``schema.QUARANTINE`` of every face that could not be embedded. Raises Corrupt as ``read_part``."""
        return partial.ahead(
            lambda file: self._read(f"quarantine/{file['name']}", file, schema.QUARANTINE),
            self.manifest.content["quarantine"],
        )

    def gone(self) -> np.ndarray:
        """int64 (M,), sorted: faces of earlier artefacts that the catalogue no longer has. Raises Corrupt."""
        file = self.manifest.content["gone"]
        return self._read(file["name"], file, schema.GONE)["face_id"].to_numpy() if file else ids.NONE

    def load(self) -> Vectors:
        """All rows at once, for galleries that fit in memory."""
        return concatenate(list(self.iter_vectors()), self.dim)

    @contextmanager
    def _opened(self, part: dict[str, Any], **options: Any) -> Iterator[pq.ParquetFile]:
        with partial.opened(self.address(part), REMEDY, **options) as file:
            _require_rows(file.metadata.num_rows, part, self.address(part))
            yield file

    def _whole(self, part: dict[str, Any], table: pa.Table) -> pa.Table:
        """The table with each column in one piece, if its vectors are of unit length. Raises Corrupt."""
        table = table.unify_dictionaries().combine_chunks()
        try:
            check_unit(components(table), self.address(part))
        except ValueError as error:
            raise Corrupt(f"{error}; {REMEDY}") from error
        return table

    def _read(self, name: str, file: dict[str, Any], expected: pa.Schema, coded: Sequence[str] = ()) -> pa.Table:
        address = storage.join(self.manifest.uri, name)
        data = storage.read_bytes(address)
        if hashlib.sha256(data).hexdigest() != file["sha256"]:
            raise Corrupt(f"{address}: its sha256 is not the manifest's; {REMEDY}")
        with partial.parsed(address, REMEDY):
            table = pq.read_table(pa.BufferReader(data), read_dictionary=list(coded))
        _require_rows(table.num_rows, file, address)
        return schema.check(table, expected, address, coded)


def _require_rows(rows: int, file: dict[str, Any], address: str) -> None:
    if rows != file["rows"]:
        raise Corrupt(f"{address}: {rows} rows, the manifest says {file['rows']}; {REMEDY}")


def concatenate(blocks: Sequence[Vectors], dim: int) -> Vectors:
    """The rows of all blocks in one; there may be no block."""
    return Vectors(
        np.concatenate([ids.NONE, *(b.face_id_N for b in blocks)]),
        np.concatenate([np.empty(0, object), *(b.identity_N for b in blocks)]),
        np.concatenate([np.empty((0, dim), np.float32), *(b.embedding_ND for b in blocks)]),
    )
