"""``likeness embeddings stats``: what embeddings hold, read from their small columns."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core import metrics, storage
from metric_core.artefacts.collection import Collection
from workflows.embeddings.config import StatsConfig

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)


def run(config: StatsConfig) -> dict[str, Any]:
    """Count.

    Returns:
        {rows, people, dim, dtype, model, namespace, parts, bytes, bytes_per_face, norm: {quantile: value},
        pictures_per_person: {quantile: count}, quarantined: {reason: count}}; bytes and reasons are of all files, with
        those of faces that a later artefact supersedes.
    """
    collection = Collection.open(config.embeddings)
    norms, people = [np.empty(0, np.float32)], [_counts(pa.table({"identity": pa.array([], pa.string())}))]
    for table in collection.iter_columns(["face_id", "identity", "norm"]):
        norms.append(table["norm"].to_numpy())
        people.append(_counts(table))
    pictures_P = (
        pa.concat_tables(people, promote_options="default")
        .group_by("identity")
        .aggregate([("rows", "sum")])["rows_sum"]
        .to_numpy()
    )
    reasons: Counter[str] = Counter()
    for source in collection.sources:
        reasons.update(source.manifest.content["reasons"])
    addresses = [storage.join(one.manifest.uri, part["name"]) for one in collection.sources for part in one.parts]
    size = sum(storage.size(address) for address in addresses)
    return {
        "rows": collection.rows,
        "people": len(pictures_P),
        "dim": collection.dim,
        "dtype": collection.first.manifest.content["dtype"],
        "model": collection.fingerprint,
        "namespace": collection.namespace,
        "parts": len(addresses),
        "bytes": size,
        "bytes_per_face": round(size / max(1, collection.rows), 1),
        "norm": metrics.quantiles(np.concatenate(norms), QUANTILES),
        "pictures_per_person": metrics.quantiles(pictures_P, QUANTILES),
        "quarantined": dict(sorted(reasons.items())),
    }


def _counts(table: pa.Table) -> pa.Table:
    return (
        table.filter(pc.is_valid(table["identity"]))
        .group_by("identity")
        .aggregate([([], "count_all")])
        .rename_columns(["identity", "rows"])
    )
