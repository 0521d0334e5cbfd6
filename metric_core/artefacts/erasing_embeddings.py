"""Removes erased faces from Embeddings, finished or not; see ``erasing``.

Shape letters: N rows of a file.
"""

import hashlib
import json
import re
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import erasing, partial
from metric_core.artefacts.embeddings import GONE, REJECTS, REMEDY, Embeddings
from metric_core.artefacts.erasing import Erased, FileChange, Target
from metric_core.artefacts.faces import face_id
from metric_core.artefacts.layout import to_parquet
from metric_core.errors import Corrupt

FOLDERS = {"parts": "", "tags": "tags/", "quarantine": "quarantine/"}
"""Where the files are that the manifest lists, by its field."""
_ROWS = {"parts": "vectors", "tags": "tags", "quarantine": "quarantine", "gone": "gone"}
"""What their rows are called in receipts."""


def erase(source: Embeddings, target: Target) -> Erased:
    """Write the files again that hold erased faces, and switch to them. Of parts whose unit has none, nothing is read.

    ``inputs`` stays what it was, and ``erased`` counts the faces that went in and are not there any more.

    Raises:
        Corrupt, SchemaMismatch: a file is damaged.
        Occupied, ConfigError: as ``erasing.switch``.
    """
    work, before = _Work(source, target), source.manifest.content
    content = dict(before)
    content["tags"] = [new for file in before["tags"] for new in work.rewritten("tags", file)]
    content["parts"] = [new for file in before["parts"] for new in work.part(file)]
    content["quarantine"] = [new for file in before["quarantine"] for new in work.rewritten("quarantine", file)]
    if before["gone"]:
        content["gone"] = next(iter(work.rewritten("gone", before["gone"])), None)
    if work.erased.files:
        removed = work.erased.rows
        content["embedded"] -= removed["vectors"]
        content["quarantined"] -= removed["quarantine"]
        content["erased"] += removed["vectors"] + removed["quarantine"]
        left = Counter(before["reasons"]) - work.reasons if "reasons" in before else None
        content |= {} if left is None else {"reasons": dict(sorted(left.items()))}
        content["salts"] = {
            key: salt
            for key, salt in before["salts"].items()
            if not target.has(np.array([face_id(source.namespace, key, salt)]))[0]
        }
        erasing.switch(source.manifest, content, source.manifest.files, work.erased, target)
    for field, folder in FOLDERS.items():
        gone = [content["gone"]["name"]] if field == "parts" and content["gone"] else []
        erasing.sweep(storage.join(source.manifest.uri, folder), [*gone, *(file["name"] for file in content[field])])
    return work.erased


def erase_unfinished(uri: str, target: Target) -> Erased:
    """Remove every unit of an unfinished artefact that holds erased faces; the job that writes it does it again,
    without them. Whoever calls it holds the artefact's lease.

    Raises:
        Corrupt, SchemaMismatch: a file is damaged.
    """
    erased = Erased()
    for name in storage.names(storage.join(uri, "tags")):
        tags = storage.join(uri, "tags", name)
        number = re.fullmatch(r"part-(\d+)\.parquet", name)
        if number and target.has(_face_ids(tags)).any():
            erased.rows["units"] += 1
            _remove_unit(uri, number[1], erased)
            _remove(tags, erased)  # last: until then, the next run finds it here
    if storage.exists(gone := storage.join(uri, GONE)) and target.has(_face_ids(gone)).any():
        _remove(gone, erased)
    for folder in ("", "tags", "quarantine", "done"):
        storage.remove_unfinished(storage.join(uri, folder))
    return erased


def _remove_unit(uri: str, number: str, erased: Erased) -> None:
    for folder in ("", "done", "quarantine"):
        for name in storage.names(storage.join(uri, folder)):
            if re.fullmatch(rf"(part-)?{number}(-\d+)?\.(parquet|json)", name):
                _remove(storage.join(uri, folder, name), erased)


def _remove(address: str, erased: Erased) -> None:
    erased.files.append(FileChange(address, storage.sha256(address), None))
    storage.remove(address)


def _face_ids(address: str) -> np.ndarray:
    """int64 (N,): the face_ids in a file. Raises Missing or Corrupt."""
    with partial.opened(address, REMEDY) as file:
        id_N: np.ndarray = file.read(["face_id"])["face_id"].to_numpy()
        return id_N


class _Work:
    """The files that hold erased faces, and what they hold besides."""

    def __init__(self, source: Embeddings, target: Target) -> None:
        self._source, self._target = source, target
        self.erased = Erased()
        self.reasons: Counter[str] = Counter()
        """Rejects that were removed, by reason."""
        self._units: set[str] = set()
        """Numbers of the units that erased faces went into."""

    def part(self, file: dict[str, Any]) -> list[dict[str, Any]]:
        """As ``rewritten``, for vectors; the unit's tags come first."""
        found = re.match(r"part-(\d+)", file["name"])
        if found and found[1] not in self._units:
            return [file]
        return self.rewritten("parts", file)

    def rewritten(self, field: str, file: dict[str, Any]) -> list[dict[str, Any]]:
        """The file as the manifest lists it, or the one without erased faces that takes its place; none if nothing
        remains."""
        uri, folder = self._source.manifest.uri, FOLDERS.get(field, "")
        address = storage.join(uri, folder + file["name"])
        table = self._read(address, file)
        erased_N = self._target.has(table["face_id"].to_numpy())
        rejects = self._rejects(table, address) if field == "parts" else None
        if not erased_N.any() and rejects is None:
            return [file]
        if field == "tags":
            self._units.update(re.findall(r"^part-(\d+)", file["name"]))
        if field == "quarantine":
            self.reasons.update(table["reason"].filter(erased_N).to_pylist())
        self.erased.rows[_ROWS[field]] += int(erased_N.sum())
        table = table.filter(~erased_N)
        if not table.num_rows:
            self.erased.wrote(uri, folder + file["name"], file["sha256"], None, None)
            return []
        if rejects is not None:
            table = table.replace_schema_metadata({REJECTS: json.dumps(rejects)})
        data, name = to_parquet(table), erasing.generation_name(file["name"], self._source.manifest)
        sha256 = hashlib.sha256(data).hexdigest()
        storage.write_bytes(storage.join(uri, folder + name), data)
        self.erased.wrote(uri, folder + file["name"], file["sha256"], folder + name, sha256)
        return [{"name": name, "rows": table.num_rows, "sha256": sha256}]

    def _read(self, address: str, file: dict[str, Any]) -> pa.Table:
        data = storage.read_bytes(address)
        if hashlib.sha256(data).hexdigest() != file["sha256"]:
            raise Corrupt(f"{address}: its sha256 is not the manifest's; {REMEDY}")
        with partial.parsed(address, REMEDY):
            return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)

    def _rejects(self, table: pa.Table, address: str) -> list[Any] | None:
        """The rejects that stay in a part's metadata; None if all of them do. Raises Corrupt."""
        try:
            listed = json.loads((table.schema.metadata or {}).get(REJECTS, b"[]"))
            stay = [one for one in listed if not self._target.has(np.array([one[0]]))[0]]
        except (ValueError, TypeError, IndexError, KeyError) as error:
            raise Corrupt(f"{address} does not list the faces that were rejected ({error}); {REMEDY}") from error
        return None if len(stay) == len(listed) else stay
