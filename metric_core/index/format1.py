"""Reads finished versions of format 1, which was written before shards were of whole parts.

    versions/<id>/shard-000.faiss          IDMap2 of Flat, or IVF<n>,Flat; its ids are face_ids
                  identities-000.parquet   face_id -> identity of the same rows, by face_id

They are searched as today's: the ids become positions, and the other columns are put in their order. Such a version is
not mended; the same command builds one of today's format beside it.
"""

# N: rows of a shard, M: its identities.

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.errors import Corrupt
from metric_core.index import codec
from metric_core.index.engine import faiss
from metric_core.index.opened import OpenShard
from metric_core.index.spec import IndexSpec

_REMEDY = "build the index again"


def require_whole(uri: str, content: Mapping[str, Any]) -> None:
    """Raises Missing or Corrupt if a file of a version is not there or not what it was."""
    for shard in content["shards"]:
        address, size = _faiss(uri, shard["number"]), shard["bytes"]
        if not storage.exists(address) or storage.size(address) != size:
            raise Corrupt(f"{address} is missing or not the {size} bytes of its manifest; {_REMEDY}")
        for address, name in ((_faiss(uri, shard["number"]), "sha256"), (_names(uri, shard), "identities_sha256")):
            storage.require_stored(address, shard[name])


def opened(uri: str, content: Mapping[str, Any], *, verify: bool) -> tuple[list[OpenShard], pa.Array]:
    """The shards of a version, and the distinct identities in byte order.

    Args:
        uri: the version's folder.
        content: of its manifest.
        verify: hash its files again.

    Raises:
        Missing, Corrupt: a file is not there, or not what it was.
    """
    found = [_read(uri, shard, verify) for shard in content["shards"]]
    dictionary = pa.chunked_array([pa.array([], pa.string()), *(rows["identity"].dictionary for _, rows in found)])
    names = dictionary.unique().sort()
    spec = IndexSpec(content["spec"]["dim"], content["spec"]["factory"])
    shards = []
    for number, (index, rows) in enumerate(found):
        code_M = pc.index_in(rows["identity"].dictionary, names).to_numpy().astype(np.int32)
        shards.append(OpenShard(index, rows, spec, code_M, None, _faiss(uri, number)))
    return shards, names


def _read(uri: str, shard: Mapping[str, Any], verify: bool) -> tuple[Any, pa.RecordBatch]:
    """A shard's index, its ids replaced by positions, and its rows in their order."""
    address, beside = _faiss(uri, shard["number"]), _names(uri, shard)
    with storage.verified(address, shard["sha256"], again=verify) as path:
        index = codec.read_file(path)
    with storage.verified(beside, shard["identities_sha256"], again=verify) as path:
        table = pq.read_table(path, read_dictionary=["identity"])
    index, id_N = _positioned(index)
    if not np.array_equal(np.sort(id_N), table["face_id"].to_numpy()):
        raise Corrupt(f"{beside} does not have the face_ids of {address}; {_REMEDY}")
    table = table.take(pa.array(np.searchsorted(table["face_id"].to_numpy(), id_N)))
    columns = [table["face_id"].combine_chunks(), table["identity"].combine_chunks(), pa.nulls(len(id_N))]
    return index, pa.RecordBatch.from_arrays(columns, ["face_id", "identity", "view"])


def _positioned(index: Any) -> tuple[Any, np.ndarray]:
    """The index with positions, list by list, in place of its ids; and int64 (N,), the id at each position."""
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is None:
        id_N = faiss.vector_to_array(index.id_map)
        flat = faiss.IndexFlat(index.d, index.metric_type)
        flat.add(faiss.downcast_index(index.index).reconstruct_n(0, index.ntotal)[np.argsort(id_N)])
        return flat, np.sort(id_N)
    found, start = [np.empty(0, np.int64)], 0
    for number in range(ivf.nlist):
        if size := ivf.invlists.list_size(number):
            there = faiss.rev_swig_ptr(ivf.invlists.get_ids(number), size)
            found.append(there.copy())
            there[:] = np.arange(start, start + size)
            start += size
    return index, np.concatenate(found)


def _names(uri: str, shard: Mapping[str, Any]) -> str:
    return storage.join(uri, f"identities-{shard['number']:03d}.parquet")


def _faiss(uri: str, number: int) -> str:
    return storage.join(uri, f"shard-{number:03d}.faiss")
