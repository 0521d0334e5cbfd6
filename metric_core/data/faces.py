"""The Faces artefact opened for reading, and the identifiers every other artefact joins on.

How a catalogue is made from a source is in ``catalogue``; how an image is fetched is in ``readers``.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metric_core import manifest, schema, storage
from metric_core.errors import ConfigError, Corrupt
from metric_core.manifest import Manifest

ROWS = "faces.parquet"


def face_id(namespace: str, key: str, salt: int = 0) -> int:
    """BLAKE2b-64 of ``namespace NUL key NUL salt`` shifted right by one, so that it fits a signed int64.

    The same corpus gets the same ids anywhere, and nobody coordinates. ``salt`` is 0 but for collisions.
    """
    text = f"{namespace}\0{key}\0{salt}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def rows_digest(table: pa.Table) -> str:
    """sha256 over the rows' values in order; independent of how Parquet laid them out."""
    digest = hashlib.sha256()
    for batch in table.combine_chunks().to_batches(max_chunksize=65536):
        digest.update(json.dumps(batch.to_pydict(), separators=(",", ":"), ensure_ascii=False).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Faces:
    """A finished catalogue. Rows stay in source order."""

    manifest: Manifest

    @classmethod
    def open(cls, uri: str) -> "Faces":
        """Raises Missing, Unfinished, Corrupt or SchemaMismatch as ``manifest.read`` does."""
        return cls(manifest.read(storage.absolute(uri), "faces"))

    @property
    def uri(self) -> str:
        """The artefact's folder."""
        return self.manifest.uri

    @property
    def root(self) -> str:
        """The address that the rows' ``uri`` column is relative to."""
        return str(self.manifest.content["root"])

    @property
    def namespace(self) -> str:
        """The namespace of the face_ids."""
        return str(self.manifest.content["namespace"])

    @cached_property
    def table(self) -> pa.Table:
        """All rows, checked against the schema and the manifest's row count."""
        address = storage.join(self.uri, ROWS)
        with storage.open_read(address) as f:
            table = schema.check(pq.read_table(f), schema.FACES, address)
        if table.num_rows != self.manifest.content["rows"]:
            raise Corrupt(f"{address}: {table.num_rows} rows, the manifest says {self.manifest.content['rows']}")
        return table

    def select(self, split: str | None) -> pa.Table:
        """The rows of one split; all rows when ``split`` is None.

        Raises:
            ConfigError: there is no such split.
        """
        if split is None:
            return self.table
        chosen = self.table.filter(pc.equal(self.table["split"], split))
        if not chosen.num_rows:
            there = sorted(s for s in pc.unique(self.table["split"]).to_pylist() if s) or ["none"]
            raise ConfigError(f"{self.uri} has no split {split!r}; it has: {', '.join(there)}")
        return chosen


def identity_codes(table: pa.Table) -> np.ndarray:
    """int64 (N,): identities numbered in byte order of their names, so that codes do not depend on row order."""
    names, code_N = np.unique(np.array(table["identity"].to_pylist(), dtype=object).astype(str), return_inverse=True)
    del names
    return code_N.astype(np.int64)
