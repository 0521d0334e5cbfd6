"""The Embeddings artefact: parts of unit vectors sorted by face_id, and the quarantine beside them.

A part is written once and atomically and is described in the manifest by its rows and sha256; planning which faces
go into which part, and when a part counts as done, is left to the embed job.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import manifest, schema, storage
from metric_core.errors import Corrupt
from metric_core.manifest import Manifest

UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Vectors:
    """Columns of some Embeddings rows as arrays."""

    face_id_N: np.ndarray
    """int64 (N,)"""
    identity_N: np.ndarray
    """object (N,), str"""
    embedding_ND: np.ndarray
    """float32 (N, D), unit length"""

    def __len__(self) -> int:
        return len(self.face_id_N)


def part_name(number: int, retry: int = 0) -> str:
    """``part-000042.parquet``; ``part-000042-1.parquet`` for what a first retry of its rejects brought."""
    return f"part-{number:06d}{f'-{retry}' if retry else ''}.parquet"


def to_table(
    face_id_N: np.ndarray, identity: list[str], view: list[str | None], embedding_ND: np.ndarray, norm_N: np.ndarray
) -> pa.Table:
    """An Embeddings table sorted by face_id, in the dtype of ``embedding_ND`` (float32 or float16).

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
    return pa.Table.from_arrays(columns, schema=schema.embeddings(embedding_ND.shape[1], flat.type))


def from_table(table: pa.Table) -> Vectors:
    """The table's columns as arrays; float16 vectors are widened to float32."""
    list_type = table.schema.field("embedding").type
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Vectors(
        face_id_N=table["face_id"].to_numpy(),
        identity_N=np.array(table["identity"].to_pylist(), dtype=object),
        embedding_ND=flat.reshape(-1, list_type.list_size).astype(np.float32, copy=False),
    )


def check_unit(embedding_ND: np.ndarray, what: str) -> None:
    """Raises ValueError unless every row is finite and of length 1 within ``UNIT_TOLERANCE`` (float16: 2e-3)."""
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
        """Raises Missing, Unfinished, Corrupt or SchemaMismatch as ``manifest.read`` does."""
        return cls(manifest.read(storage.absolute(uri), "embeddings"))

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that made the vectors."""
        return str(self.manifest.content["fingerprint"])

    @property
    def dim(self) -> int:
        """Components a vector."""
        return int(self.manifest.content["dim"])

    @property
    def namespace(self) -> str:
        """The namespace that the face_ids were derived in."""
        return str(self.manifest.content["namespace"])

    @property
    def rows(self) -> int:
        """Faces embedded."""
        return int(self.manifest.content["embedded"])

    @property
    def parts(self) -> list[dict]:
        """One {name, rows, sha256} a part, in order."""
        return list(self.manifest.content["parts"])

    def read_part(self, part: dict) -> pa.Table:
        """One part's rows, its bytes, schema and vectors checked.

        Raises:
            Corrupt: the bytes differ from the manifest's digest, or a vector is not of unit length.
        """
        address = storage.join(self.manifest.uri, part["name"])
        if storage.sha256(address) != part["sha256"]:
            raise Corrupt(f"{address}: its sha256 is not the manifest's; embed again with the same arguments")
        with storage.open_read(address) as f:
            table = pq.read_table(f)
        dtype = {"float32": pa.float32(), "float16": pa.float16()}[self.manifest.content["dtype"]]
        schema.check(table, schema.embeddings(self.dim, dtype), address)
        try:
            check_unit(from_table(table).embedding_ND, address)
        except ValueError as error:
            raise Corrupt(str(error)) from error
        return table

    def iter_vectors(self) -> Iterator[Vectors]:
        """The artefact's rows, a part at a time."""
        for part in self.parts:
            if part["rows"]:
                yield from_table(self.read_part(part))

    def load(self) -> Vectors:
        """All rows at once: for galleries that fit in memory."""
        parts = list(self.iter_vectors())
        if not parts:
            return Vectors(np.empty(0, np.int64), np.empty(0, object), np.empty((0, self.dim), np.float32))
        return Vectors(
            np.concatenate([p.face_id_N for p in parts]),
            np.concatenate([p.identity_N for p in parts]),
            np.concatenate([p.embedding_ND for p in parts]),
        )
