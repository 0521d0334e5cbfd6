"""Checks whether an Embeddings artefact matches its manifest: bytes, vectors, order and counts.

A damaged artefact is not repaired: restore it from a copy, or embed again to another folder. Checking several
artefacts read as one, or against a catalogue, is left to the callers.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from metric_core.artefacts import ids
from metric_core.artefacts.embeddings import Embeddings
from metric_core.errors import ArtefactError, SchemaMismatch


def problems(source: Embeddings) -> Iterator[str]:
    """Everything that is wrong with an artefact, one line per problem; all its bytes are read, one part at a time."""
    found = [ids.NONE]
    for part in source.parts:
        try:
            table = source.read_part(part)
        except (ArtefactError, SchemaMismatch) as error:
            yield str(error)
            continue
        id_N, norm_N = table["face_id"].to_numpy(), table["norm"].to_numpy()
        found.append(id_N)
        if (np.diff(id_N) <= 0).any():
            yield f"{part['name']}: rows are not sorted by face_id, or a face occurs twice"
        if not (np.isfinite(norm_N) & (norm_N > 0)).all():
            yield f"{part['name']}: a norm is not a positive number"
    id_M, count_M = np.unique(np.concatenate(found), return_counts=True)
    if (count_M > 1).any():
        yield f"{int((count_M > 1).sum())} faces occur more than once, such as {id_M[count_M > 1][0]}"
    read: dict[str, np.ndarray] = {}
    for name, tables in (("tags", source.iter_tags), ("quarantine", source.iter_quarantine)):
        try:
            read[name] = _ids(tables)
        except (ArtefactError, SchemaMismatch) as error:
            yield str(error)
    try:
        gone_M = source.gone()
    except (ArtefactError, SchemaMismatch) as error:
        yield str(error)
    else:
        if ids.within(gone_M, id_M).any():
            yield "faces are both embedded and listed as gone"
    if len(read) == 2:
        yield from _count_problems(source, id_M, read["tags"], read["quarantine"])


def _ids(tables: Callable[[], Iterable[pa.Table]]) -> np.ndarray:
    return np.sort(np.concatenate([ids.NONE, *(table["face_id"].to_numpy() for table in tables())]))


def _count_problems(
    source: Embeddings, embedded_M: np.ndarray, input_M: np.ndarray, rejected_M: np.ndarray
) -> Iterator[str]:
    stated = {name: source.manifest.content[name] for name in ("inputs", "embedded", "quarantined", "erased")}
    found = {"embedded": len(embedded_M), "quarantined": len(rejected_M), "inputs": len(input_M) + stated["erased"]}
    for name, count in found.items():
        if stated[name] != count:
            yield f"{name}: the manifest says {stated[name]}, the files {count}"
    if stated["inputs"] != stated["embedded"] + stated["quarantined"] + stated["erased"]:
        yield f"the manifest's counts do not add up: {stated}"
    if not np.array_equal(input_M, np.sort(np.concatenate([embedded_M, rejected_M]))):
        yield "the faces listed in tags are not those that were embedded or quarantined"
