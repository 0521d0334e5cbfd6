"""``likeness embeddings export``: vectors as one .npy or .fvecs file, and beside it their face_ids."""

from pathlib import Path
from typing import Any

import numpy as np

from metric_core import storage
from metric_core.artefacts.collection import Collection
from metric_core.errors import DataError
from workflows.embeddings.config import ExportConfig
from workflows.shared import erasures


def run(config: ExportConfig) -> dict[str, Any]:
    """Export, one part at a time. The file of vectors is completed last: if it exists, that of the ids does, too.

    Returns:
        {vectors, ids, rows, dim, dtype}

    Raises:
        DataError: there are no vectors.
    """
    collection = erasures.without_erased(Collection.open(config.embeddings))
    if not collection.rows:
        raise DataError(f"{collection.uri} holds no vectors to export")
    vectors = storage.absolute(config.out)
    stem, ending = vectors.rsplit(".", 1)
    ids = f"{stem}.ids.npy"
    dtype = np.dtype("float32" if ending == "fvecs" else collection.first.manifest.content["dtype"])
    with storage.new_file(vectors) as temp:
        write = _write_fvecs if ending == "fvecs" else _write_npy
        id_N = write(temp, collection, dtype)
        with storage.new_file(ids) as beside, open(beside, "wb") as f:
            np.save(f, id_N)
    return {"vectors": vectors, "ids": ids, "rows": len(id_N), "dim": collection.dim, "dtype": dtype.name}


def _write_npy(path: Path, collection: Collection, dtype: np.dtype) -> np.ndarray:
    shape = (collection.rows, collection.dim)
    out_ND = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    id_N = np.empty(collection.rows, np.int64)
    at = 0
    for block in collection.iter_vectors():
        out_ND[at : at + len(block)], id_N[at : at + len(block)] = block.embedding_ND, block.face_id_N
        at += len(block)
    out_ND.flush()
    return id_N


def _write_fvecs(path: Path, collection: Collection, dtype: np.dtype) -> np.ndarray:
    """Each vector after its number of components, as in http://corpus-texmex.irisa.fr."""
    row = np.dtype([("dim", "<i4"), ("vector", "<f4", (collection.dim,))])
    ids = []
    with open(path, "wb") as f:
        for block in collection.iter_vectors():
            rows = np.empty(len(block), row)
            rows["dim"], rows["vector"] = collection.dim, block.embedding_ND
            rows.tofile(f)
            ids.append(block.face_id_N)
    return np.concatenate(ids)
