"""Embeddings artefacts made without a model or Ray: any vectors, committed as the embed job commits them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core.artefacts import manifest, schema
from metric_core.artefacts.embeddings import to_table
from metric_core.artefacts.rows import Part
from workflows.embed import units
from workflows.embed.done import DoneUnits
from workflows.embed.store import UnitStore
from workflows.embed.units import Reject, UnitResult


def unit_vectors(rows: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    """float32 (rows, dim) of unit length."""
    vector_ND = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


def embeddings(
    out: Path,
    ids: Sequence[int],
    vector_ND: np.ndarray,
    *,
    identities: Sequence[str | None] | None = None,
    views: Sequence[str | None] | None = None,
    rejected: Sequence[int] = (),
    gone: Sequence[int] = (),
    unit: int = 5,
    tags: pa.Table | None = None,
    **content: object,
) -> str:
    """Write an artefact of these faces; their identities are ``p<id // 3>`` unless given; with None among them, the
    corpus is unlabelled. Returns its address.

    ``tags``: the faces' ``schema.TAGS``, if they matter to the test.
    """
    names: list[str | None] = list(identities or [f"p{number // 3}" for number in ids])
    store = UnitStore(str(out))
    todo = units.cut([Part("faces-000000.parquet", len(ids), "")], unit)
    for one in todo:
        at = slice(one.first, one.last)
        rejects = [Reject(number, f"{number}.jpg", "missing", "gone") for number in rejected if one is todo[-1]]
        inputs = sorted([*ids[at], *(reject.face_id for reject in rejects)])
        columns = [pa.array(inputs, pa.int64()), pa.array(["tag"] * len(inputs)), pa.array(inputs, pa.int64())]
        unit_tags = pa.Table.from_arrays(columns, schema=schema.TAGS)
        if tags is not None:
            unit_tags = tags.filter(pc.is_in(tags["face_id"], columns[0])).sort_by("face_id")
        here = np.array(ids[at], np.int64)
        seen = list(views[at]) if views else [None] * len(here)
        table = to_table(here, names[at], seen, vector_ND[at], np.ones(len(here)), unlabelled=None in names)
        store.commit(one, UnitResult(unit_tags, table, rejects, {}))
    written = {
        "plan_id": out.name,
        "fingerprint": "f" * 64,
        "namespace": "n",
        "dim": vector_ND.shape[1],
        "dtype": str(vector_ND.dtype),
        "split": None,
        "salts": {},
        "since": [],
        "gone": store.put_gone(np.array(sorted(gone), np.int64)),
        "inputs": len(ids) + len(rejected),
        "embedded": len(ids),
        "quarantined": len(rejected),
        "erased": 0,
        "reasons": {"missing": len(rejected)} if rejected else {},
        **({"unlabelled": True} if None in names else {}),
        **DoneUnits(store, todo).content(),
    }
    manifest.write(str(out), "embeddings", written | content, {"faces": str(out.parent / "faces")})
    return str(out)
