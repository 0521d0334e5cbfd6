"""Whether an Embeddings artefact is what it says: bytes, vectors, order, and books.

Nothing repairs one: what is damaged is restored from a copy, or embedded again to another folder. What is in several
artefacts read as one, and what a catalogue has beyond them, is left to the callers.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from metric_core.artefacts import ids
from metric_core.artefacts.embeddings import Embeddings
from metric_core.errors import ArtefactError, SchemaMismatch


def problems(source: Embeddings) -> Iterator[str]:
    """Everything that is wrong with an artefact, a line each; every byte of it is read, a part at a time."""
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
            yield f"{part['name']}: rows are not sorted by face_id, or a face stands twice"
        if not (np.isfinite(norm_N) & (norm_N > 0)).all():
            yield f"{part['name']}: a norm is not a positive number"
    id_M, twice = np.unique(np.concatenate(found), return_counts=True)
    if (twice > 1).any():
        yield f"{int((twice > 1).sum())} faces stand more than once, such as {id_M[twice > 1][0]}"
    beside: dict[str, np.ndarray] = {}
    for name, tables in (("tags", source.iter_tags), ("quarantine", source.iter_quarantine)):
        try:
            beside[name] = _ids(tables)
        except (ArtefactError, SchemaMismatch) as error:
            yield str(error)
    try:
        gone_M = source.gone()
    except (ArtefactError, SchemaMismatch) as error:
        yield str(error)
    else:
        if ids.within(gone_M, id_M).any():
            yield "faces are both embedded and listed as gone"
    if len(beside) == 2:
        yield from _books(source, id_M, beside["tags"], beside["quarantine"])


def _ids(tables: Callable[[], Iterable[pa.Table]]) -> np.ndarray:
    return np.sort(np.concatenate([ids.NONE, *(table["face_id"].to_numpy() for table in tables())]))


def _books(source: Embeddings, embedded_M: np.ndarray, in_M: np.ndarray, rejected_M: np.ndarray) -> Iterator[str]:
    said = {name: source.manifest.content[name] for name in ("inputs", "embedded", "quarantined", "erased")}
    there = {"embedded": len(embedded_M), "quarantined": len(rejected_M), "inputs": len(in_M) + said["erased"]}
    for name, count in there.items():
        if said[name] != count:
            yield f"{name}: the manifest says {said[name]}, the files {count}"
    if said["inputs"] != said["embedded"] + said["quarantined"] + said["erased"]:
        yield f"the books do not balance: {said}"
    if not np.array_equal(in_M, np.sort(np.concatenate([embedded_M, rejected_M]))):
        yield "what went in, by the tags, is not what was embedded and quarantined"
