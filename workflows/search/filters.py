"""Restricts a search to some of the index's faces: those of some people, of a list, of some views, of a split."""

# N: rows of the Faces or of a shard.

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core.artefacts.faces import Faces
from metric_core.errors import ConfigError
from metric_core.index.search import Index
from workflows.search.config import SearchConfig

_NAMED = 3  # values that a message names
_COMPARED = 20_000  # names that an unknown one is compared with, which takes less than a second


def restricted(index: Index, config: SearchConfig) -> tuple[Index, dict[str, Any] | None]:
    """The index restricted to the faces that meet all conditions, and the conditions as a plan records them; the index
    itself and None if there are none.

    Raises:
        ConfigError: the index does not have one of the people, faces or views, the Faces do not have the split, or no
            face meets all conditions.
        Missing, Unfinished, Corrupt: of the Faces, if there is a split.
    """
    plan: dict[str, Any] = {}
    problems: list[str] = []
    if config.identities:
        plan["identities"] = sorted(set(config.identities))
        problems += _unknown_people(index, plan["identities"])
    if config.face_ids:
        plan["face_ids"] = sorted(set(config.face_ids))
        problems += _unknown_faces(index, plan["face_ids"])
    if config.views:
        plan["views"] = sorted(set(config.views))
        problems += _unknown_views(index, plan["views"])
    if problems:
        raise ConfigError.of(problems)
    if not plan and config.split is None:
        return index, None
    found = index.only(identities=plan.get("identities"), face_ids=plan.get("face_ids"), views=plan.get("views"))
    if config.split is not None:
        faces = _faces(index, config)
        plan["split"], plan["faces"] = config.split, faces.manifest.origin
        found = found.only(face_ids=_ids_of(faces, config.split))
    if not found.left:
        asked = ", ".join(name.replace("_", "-") for name in plan if name != "faces")
        raise ConfigError(f"{index.version.index_uri}: no face in the index meets the conditions ({asked}); give fewer")
    return found, plan


def _faces(index: Index, config: SearchConfig) -> Faces:
    address = config.faces or index.version.faces()
    if not address:
        raise ConfigError("the index does not say where its Faces are; give --faces for --split")
    return Faces.open(address)


def _ids_of(faces: Faces, split: str) -> np.ndarray:
    """int64 (any number,): the faces of a split. Raises ConfigError if there is none of that name."""
    faces.count(split)
    found = [np.empty(0, np.int64)]
    for table in faces.iter_columns(["face_id", "split"]):
        found.append(table.filter(pc.equal(table["split"], split))["face_id"].to_numpy())
    return np.concatenate(found)


def _unknown_people(index: Index, identities: Sequence[str]) -> list[str]:
    unknown = _missing(identities, index.names)
    if not len(index.names):
        return _line("identities", unknown, "no face in the index has a name; find faces with --face-ids")
    near = difflib.get_close_matches(unknown[0], _alike(index.names, unknown[0]), n=1, cutoff=0.0) if unknown else []
    people = len(index.names)
    return _line(
        "identities", unknown, f"the index has {people} people; the nearest name is {near[0]!r}" if near else ""
    )


def _unknown_faces(index: Index, face_ids: Sequence[int]) -> list[str]:
    there = [shard.face_id_N[np.isin(shard.face_id_N, face_ids)] for shard in index.shards]
    unknown = np.setdiff1d(face_ids, np.concatenate(there)).tolist()
    return _line("face_ids", unknown, f"the index has {index.rows} faces, and not these")


def _unknown_views(index: Index, views: Sequence[str]) -> list[str]:
    there = sorted({view for shard in index.shards for view in pc.unique(shard.view).to_pylist() if view is not None})
    unknown = [view for view in views if view not in there]
    return _line("views", unknown, f"the index has {', '.join(there)}" if there else "no face in the index has a view")


def _missing(values: Sequence[str], known: pa.Array) -> list[str]:
    return [
        value for value, at in zip(values, pc.index_in(pa.array(values, pa.string()), known).to_pylist()) if at is None
    ]


def _alike(names: pa.Array, name: str) -> list[str]:
    """Names to compare with: all of them, or those around it in byte order, as the beginning is mostly right."""
    at = int(pc.sum(pc.less(names, name)).as_py() or 0)
    first = max(0, min(at - _COMPARED // 2, len(names) - _COMPARED))
    near: list[str] = names.slice(first, _COMPARED).to_pylist()
    return near


def _line(option: str, unknown: Sequence[object], known: str) -> list[str]:
    """The problem with an option's unknown values, if there are any."""
    if not unknown:
        return []
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    return [f"{option}: not in the index: {', '.join(map(repr, unknown[:_NAMED]))}{more}; {known}"]
