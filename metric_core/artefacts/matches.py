"""The file of Matches, and removing erased people from it; see ``erasing``.

What a search writes is decided in its job.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import erasing, manifest, partial
from metric_core.artefacts.erasing import Erased, Target
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import Corrupt

FILE = "matches.parquet"
"""In a first generation."""
REMEDY = "search again"


def file(found: Manifest) -> str:
    """The name of the file; the first Matches did not record its digest. Raises Corrupt if it cannot be one."""
    name = next(iter(found.files), FILE)
    if "/" in name or not name.endswith(".parquet"):
        raise Corrupt(f"{found.uri}/{manifest.NAME} names {name[:60]!r}, which is no file of Matches; {REMEDY}")
    return name


def read(found: Manifest) -> pa.Table:
    """The rows. Raises Missing, or Corrupt if the file is not what was written."""
    address = storage.join(found.uri, file(found))
    data = storage.read_bytes(address)
    noted = found.files.get(file(found))
    if noted is not None and noted != {"sha256": hashlib.sha256(data).hexdigest()}:
        raise Corrupt(f"{address} is not what was written; {REMEDY}")
    with partial.parsed(address, REMEDY):
        return pq.read_table(io.BytesIO(data))


def erase(found: Manifest, target: Target) -> Erased:
    """Write the rows again without those of erased people: their own probes, and where they are the answer. The other
    ranks stay what they were. Their names are dropped from the conditions of the search as well.

    Raises:
        Missing, Corrupt: the file is damaged.
        Occupied, ConfigError: as ``erasing.switch``.
    """
    erased, name, table = Erased(), file(found), read(found)
    erased_N = rows_of(table, target)
    content = _conditions_without(found.content, target)
    if erased_N.any() or content != found.content:
        new = erasing.generation_name(name, found)
        sink = io.BytesIO()
        pq.write_table(table.filter(~erased_N), sink, compression="zstd")
        data = sink.getvalue()
        sha256 = hashlib.sha256(data).hexdigest()
        storage.write_bytes(storage.join(found.uri, new), data)
        erased.rows["matches"] += int(erased_N.sum())
        before = storage.sha256(storage.join(found.uri, name))
        erased.wrote(found.uri, name, before, new, sha256)
        if "rows" in content:
            content["rows"] = table.num_rows - int(erased_N.sum())
        found = erasing.switch(found, content, {new: {"sha256": sha256}}, erased, target)
    erasing.sweep(found.uri, [file(found)])
    _erase_plan(found.uri, target)
    return erased


def rows_of(table: pa.Table, target: Target) -> np.ndarray:
    """bool (N,): which rows of Matches name an erased person: as the answer, or as the probe, by its face_id, name, key
    or address."""
    erased_N: np.ndarray = target.has(table["face_id"].to_numpy())
    for name, words in (("identity", target.names), ("key", target.pictures), ("query", target.queries)):
        if name in table.column_names and len(words):
            erased_N = erased_N | pc.is_in(table[name], value_set=words).fill_null(False).to_numpy()
    return erased_N


def _conditions_without(content: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """A plan or a content whose conditions name nobody who is erased."""
    conditions = content.get("conditions")
    if not isinstance(conditions, dict):
        return dict(content)
    left = dict(conditions)
    if isinstance(names := left.get("identities"), list):
        left["identities"] = [name for name in names if name not in target.identities]
    if isinstance(listed := left.get("face_ids"), list):
        left["face_ids"] = [number for number in listed if not target.has(np.array([number]))[0]]
    return {**content, "conditions": left}


def _erase_plan(uri: str, target: Target) -> None:
    """The plan's conditions as well: no digest covers it, and finished Matches are read without it."""
    address = storage.join(uri, manifest.PLAN)
    if not storage.exists(address):
        return
    try:
        body = json.loads(storage.read_bytes(address, most=manifest.MOST))
        left = _conditions_without(body["plan"], target)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{address} is no plan ({error}); {REMEDY}") from error
    if left != body["plan"]:
        storage.write_bytes(address, manifest.plan_file("matches", left))
