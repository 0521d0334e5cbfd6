"""``likeness embeddings export``: vectors as one .npy or .fvecs file, and beside it their face_ids, and their keys."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.faces import Faces
from metric_core.errors import ConfigError, DataError
from workflows.embeddings.config import ExportConfig
from workflows.shared import erasures

KEYS = ("key", "uri", "identity")
"""Columns of the Faces that are written beside the face_ids."""


def run(config: ExportConfig) -> dict[str, Any]:
    """Export, one part at a time. The file of vectors is completed last: if it exists, the others do, too.

    Returns:
        {vectors, ids, rows, dim, dtype}, and with ``keys`` {keys}

    Raises:
        DataError: there are no vectors, or the Faces do not have all their faces.
        ConfigError: it is not known where the Faces are, for their keys.
    """
    collection = erasures.without_erased(Collection.open(config.embeddings))
    if not collection.rows:
        raise DataError(f"{collection.uri} holds no vectors to export")
    faces = _faces(config, collection) if config.keys else None
    vectors = storage.absolute(config.out)
    stem, ending = vectors.rsplit(".", 1)
    ids = f"{stem}.ids.npy"
    dtype = np.dtype("float32" if ending == "fvecs" else collection.first.manifest.content["dtype"])
    with storage.new_file(vectors) as temp:
        write = _write_fvecs if ending == "fvecs" else _write_npy
        id_N = write(temp, collection, dtype)
        table = _keys(faces, id_N, collection.uri) if faces else None
        with storage.new_file(ids) as beside, open(beside, "wb") as f:
            np.save(f, id_N)
        if table is not None:
            with storage.new_file(f"{stem}.keys.parquet") as beside:
                pq.write_table(table, beside, compression="zstd")
    answer = {"vectors": vectors, "ids": ids, "rows": len(id_N), "dim": collection.dim, "dtype": dtype.name}
    return answer | ({"keys": f"{stem}.keys.parquet"} if faces else {})


def _faces(config: ExportConfig, collection: Collection) -> Faces:
    address = config.faces or collection.faces
    if not address:
        raise ConfigError(f"{collection.uri} does not say where its Faces are; give --faces for --keys")
    return Faces.open(address)


def _keys(faces: Faces, id_N: np.ndarray, of: str) -> pa.Table:
    """face_id, key, uri and identity of some faces, in their order. Raises DataError if one is not in the Faces."""
    table = faces.find(id_N, KEYS)
    if lost := table["face_id"].null_count:
        raise DataError(
            f"{faces.uri} does not have {lost} of the {len(id_N)} faces of {of}, so their keys are not known; give "
            f"--faces the Faces that were embedded, or bring the embeddings up to date with embed --since"
        )
    return table


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
