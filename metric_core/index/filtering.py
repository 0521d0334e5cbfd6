"""Which rows of a shard a filtered search may find. FAISS skips the others while it scans: no answer is lost."""

# N: rows of the shard, M: distinct identities of the version.

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core.index.opened import OpenShard


def allowed(
    shard: OpenShard,
    before_N: np.ndarray | None,
    names: pa.Array,
    identities: Sequence[str] | None,
    face_ids: Sequence[int] | np.ndarray | None,
    views: Sequence[str] | None,
) -> np.ndarray | None:
    """bool (N,): the rows of a shard that were allowed before and meet all conditions given; None for all rows.

    Args:
        shard: an open shard.
        before_N: bool (N,), the rows that were allowed before; None for all.
        names: the version's distinct identities.
        identities: names of people; those that the index does not have match nothing.
        face_ids: ids of faces.
        views: views.
    """
    met = [] if before_N is None else [before_N]
    if identities is not None:
        code = pc.index_in(pa.array(identities, pa.string()), names).drop_null().to_numpy()
        wanted_M = np.zeros(len(names) + 1, bool)  # the last for rows without a name, whose code is -1
        wanted_M[code] = True
        met.append(wanted_M[shard.identity_N])
    if face_ids is not None:
        met.append(np.isin(shard.face_id_N, np.asarray(face_ids, np.int64)))
    if views is not None:
        met.append(_in_views(shard, views))
    return np.logical_and.reduce(met) if met else None


def _in_views(shard: OpenShard, views: Sequence[str]) -> np.ndarray:
    if pa.types.is_null(shard.view.type):
        return np.zeros(shard.rows, bool)
    allowed_N: np.ndarray = pc.is_in(shard.view, pa.array(views, pa.string())).to_numpy(zero_copy_only=False)
    return allowed_N
