"""``likeness embeddings check``: every byte, vector and count of embeddings, and whether they cover a catalogue, with
the identities that it has now."""

from typing import Any

import numpy as np
import pyarrow as pa

from metric_core import counter
from metric_core.artefacts import audit, delta, ids, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.faces import Faces
from metric_core.errors import Corrupt, DataError
from workflows.embeddings.config import CheckConfig


def run(config: CheckConfig) -> dict[str, Any]:
    """Check.

    Returns:
        {rows, parts, inputs, embedded, quarantined, erased} and, with ``faces``, coverage: {faces, embedded,
        quarantined, erased, missing, surplus}

    Raises:
        Corrupt: it lists everything that is wrong, one line per problem; or a part of the catalogue is damaged, or a
            face has another identity in it.
        DataError: nothing is wrong, but the embeddings do not cover the catalogue.
    """
    collection = Collection.open(config.embeddings)
    problems = [f"{one.manifest.uri}: {text}" for one in collection.sources for text in audit.problems(one)]
    if problems:
        raise Corrupt("\n".join(problems))
    contents = [source.manifest.content for source in collection.sources]
    totals = {
        name: sum(content[name] for content in contents) for name in ("inputs", "embedded", "quarantined", "erased")
    }
    answer = {"rows": collection.rows, "parts": sum(len(content["parts"]) for content in contents), **totals}
    return answer | {"coverage": _coverage(config, config.faces, collection)} if config.faces else answer


def _coverage(config: CheckConfig, address: str, collection: Collection) -> dict[str, int]:
    faces, split = Faces.open(address), collection.sources[-1].manifest.content["split"]
    erased = tombstones.of(address, config.tombstones)
    selection = delta.select(faces, split, collection.require_whole(), erased)
    quarantined = len(set(collection.quarantined().tolist()) - set(selection.gone_M.tolist()))
    whole = faces.count(split)
    found = {
        "faces": whole,
        "embedded": selection.unchanged,
        "quarantined": quarantined,
        "erased": len(selection.erased_M),
        "missing": selection.count(whole) - len(selection.erased_M) - quarantined,
        "surplus": len(selection.gone_M),
    }
    if found["missing"] or found["surplus"]:
        raise DataError(
            f"{collection.uri} does not cover {address}: {found['missing']} of {whole} faces are new or changed, "
            f"{found['surplus']} are gone or erased; embed the difference with --since {collection.uri}"
        )
    _require_same_identities(faces, collection)
    return found


def _require_same_identities(faces: Faces, collection: Collection) -> None:
    """Raises Corrupt if a face's identity is not the one in the catalogue."""
    columns = ["face_id", "identity"]
    known = [(table["face_id"].to_numpy(), _hashes(table)) for table in faces.iter_columns(columns)]
    id_M = np.concatenate([ids.NONE, *(id_N for id_N, _ in known)])
    order_M = np.argsort(id_M)
    id_M, hash_M = id_M[order_M], np.concatenate([ids.NONE, *(hash_N for _, hash_N in known)])[order_M]
    count, first = 0, ""
    for table in collection.iter_columns(columns):
        table = table.filter(ids.within(table["face_id"].to_numpy(), id_M))
        other_N = hash_M[np.searchsorted(id_M, table["face_id"].to_numpy())] != _hashes(table)
        count += int(other_N.sum())
        if other_N.any() and not first:
            first = "face {face_id} is {identity!r}".format(**table.filter(other_N).slice(0, 1).to_pylist()[0])
    if count:
        raise Corrupt(
            f"{collection.uri}: {count} faces have another identity than in {faces.uri}, such as {first} here; embed "
            f"again to another --out"
        )


def _hashes(table: pa.Table) -> np.ndarray:
    """int64 (N,): a hash of each row's identity."""
    people = table["identity"].combine_chunks().dictionary_encode()
    hash_P = np.array([counter.hash63("identity", name, 0) for name in people.dictionary.to_pylist()], np.int64)
    # The last entry is for rows without a name, whose index becomes -1; no hash is negative.
    hash_N: np.ndarray = np.append(hash_P, -1)[people.indices.fill_null(-1).to_numpy()]
    return hash_N
