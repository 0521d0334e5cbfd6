"""Faces that are in the shards of a version and must not be found in the next one: which they are, and their file.

Only ids and names of the rows are read, mapped, and no vectors. Who is replaced or gone is left to the callers.
"""

# N: rows of a shard, M: sorted ids, P: identities of the version.

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metric_core.artefacts import ids
from metric_core.artefacts.tombstones import Tombstones
from metric_core.index import layout
from metric_core.index.layout import Content
from metric_core.index.shard import read_rows
from metric_core.index.version import Version


def visible(version: Version, content: Content) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """The ``rows`` file of each shard of a version, mapped, and bool (N,): which of its faces may be found.

    Raises:
        Missing, Corrupt: a file is not there, or not what it was.
    """
    for one, masked_M in zip(content.shards, version.read_masks(content)):
        with version.local_file(one, "rows") as path:
            rows = read_rows(path)
            yield rows, ~ids.within(rows["face_id"].to_numpy(), masked_M)


def present(version: Version, content: Content, wanted_M: np.ndarray) -> np.ndarray:
    """int64, sorted: those of some sorted face_ids that a version finds. Raises Missing or Corrupt as
    ``visible``."""
    found = [ids.NONE]
    for rows, visible_N in visible(version, content):
        id_N = rows["face_id"].to_numpy()
        found.append(id_N[ids.within(id_N, wanted_M) & visible_N])
    return np.sort(np.concatenate(found))


def erased(version: Version, content: Content, lists: Sequence[Tombstones]) -> np.ndarray:
    """int64, sorted: the faces that a version finds and that are erased, or show a person who is. Raises Missing or
    Corrupt as ``visible``."""
    found = [ids.NONE]
    for rows, visible_N in visible(version, content) if lists else ():
        table = pa.Table.from_batches([rows.select(["face_id", "identity"])])
        erased_N = np.any([one.erased(table, content.namespace) for one in lists], axis=0)
        found.append(rows["face_id"].to_numpy()[erased_N & visible_N])
    return np.sort(np.concatenate(found))


def store(version: Version, id_M: np.ndarray, why: str, shards: int) -> dict[str, Any]:
    """Store a list of faces beside the versions; returns its entry for ``Content.masks``.

    Args:
        version: any of the index.
        id_M: int64, sorted; each is found in one of the first ``shards`` shards until now.
        why: replaced, gone or erased.
        shards: the number of the first shards that the mask is about.
    """
    stored = version.share(layout.MASK, file(id_M))
    return {"name": layout.MASK, "rows": len(id_M), "sha256": stored.sha256, "why": why, "shards": shards}


def file(id_M: np.ndarray) -> bytes:
    """The file of a list of faces, int64 (M,)."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"face_id": id_M}), sink, compression="zstd")
    return sink.getvalue()


def people(version: Version, content: Content, names: pa.Array) -> int:
    """Distinct identities of the faces that may be found. Raises Missing or Corrupt as ``visible``."""
    if not content.masks:
        return len(names)
    there_P = np.zeros(len(names), bool)
    for rows, visible_N in visible(version, content):
        own = rows["identity"]
        code_N = own.indices.fill_null(-1).to_numpy()[visible_N]
        used_M = np.bincount(code_N[code_N >= 0], minlength=len(own.dictionary)) > 0
        there_P[pc.index_in(own.dictionary, names).to_numpy()[used_M]] = True
    return int(there_P.sum())
