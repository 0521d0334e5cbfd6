"""Physical removal of erased faces from finished artefacts: what is common to all kinds.

A file that holds erased faces is written again without them, under the name of a new generation and beside the old one.
The manifest then switches to the new files in one step, and the old ones are removed. After a kill, the artefact is
whole as it was before or as it is now, and the same call completes the removal. Each kind has a module of its own,
``erasing_faces`` and so on; who is erased is decided by ``tombstones``, and that nothing remains is shown by
``erasing_proof``.

Shape letters: M erased faces, N rows.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from metric_core import storage
from metric_core.artefacts import ids, manifest
from metric_core.artefacts.manifest import Manifest

ERASURES = "erasures"
"""Field of the provenance that has one entry per erasure: {request, finished, rows, before, files}."""
HIDDEN = "(erased)"
"""What stands for an erased person's name or a face_id in a recorded command line."""


@dataclass(frozen=True)
class FileChange:
    """What an erasure did to one file."""

    address: str
    before: str | None
    """sha256 of its bytes before; None for a file that the erasure made."""
    after: str | None
    """sha256 of its bytes now; None for a file that was removed."""


@dataclass(frozen=True)
class Target:
    """What is to be removed, wherever it is."""

    face_id_M: np.ndarray
    """int64, sorted: every face_id that is erased or that an erased picture could have."""
    identities: frozenset[str] = frozenset()
    """Names of erased people, in every spelling that they are stored in."""
    keys: frozenset[str] = frozenset()
    """Keys and uris of erased pictures, each in a file of its own."""
    request: str = ""
    """Keyed hash of what was asked for; the same request continues after a kill."""
    finished: str = ""
    """When, as the provenance has times."""
    before: Mapping[str, Any] = field(default_factory=dict)
    """What a scan found in the artefact before, for its provenance."""

    @cached_property
    def names(self) -> pa.Array:
        """The identities, to look for in a column."""
        return pa.array(sorted(self.identities), pa.string())

    @cached_property
    def pictures(self) -> pa.Array:
        """The keys and uris, to look for in a column."""
        return pa.array(sorted(self.keys), pa.string())

    @cached_property
    def queries(self) -> pa.Array:
        """All that a probe can be called by."""
        return pa.array(sorted({*self.identities, *self.keys, *map(str, self.face_id_M.tolist())}), pa.string())

    def has(self, id_N: np.ndarray) -> np.ndarray:
        """bool (N,): which face_ids are erased."""
        return ids.within(id_N, self.face_id_M)

    def without_words(self, command: str) -> str:
        """A recorded command line in which ``HIDDEN`` stands for every erased name and face_id."""
        hidden = command
        said = [name for name in self.identities if name in command]  # of ten thousand, few or none
        for word in sorted(said, key=len, reverse=True):
            hidden = re.sub(rf"(?<![^\s=,]){re.escape(word)}(?![^\s,])", HIDDEN, hidden)
        return re.sub(r"(?<![^\s=,])\d+(?![^\s,])", self._hidden_id, hidden)

    def _hidden_id(self, found: re.Match[str]) -> str:
        number = int(found[0])
        return HIDDEN if number < 1 << 63 and self.has(np.array([number]))[0] else found[0]


@dataclass
class Erased:
    """What was removed from an artefact."""

    rows: Counter[str] = field(default_factory=Counter)
    """Rows removed, by what they were rows of."""
    files: list[FileChange] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    """What a scan found before, if an earlier run removed it."""

    def wrote(self, uri: str, name: str, before: str, new: str | None, after: str | None) -> None:
        """Note that the file ``new`` takes the place of the file ``name``; None: that nothing does."""
        self.files.append(FileChange(storage.join(uri, name), before, None))
        if new is not None:
            self.files.append(FileChange(storage.join(uri, new), None, after))


def generation_name(name: str, before: Manifest) -> str:
    """The name of a Parquet file in the generation after ``before``: ``part-000042.g2.parquet``."""
    stem = re.sub(r"(\.g\d+)?\.parquet$", "", name)
    return f"{stem}.g{len(before.predecessors) + 2}.parquet"


def switch(
    before: Manifest, content: Mapping[str, Any], files: Mapping[str, Any], erased: Erased, target: Target
) -> Manifest:
    """Replace the manifest by a new generation, whose provenance says what was erased and not whose it was.

    Raises:
        Occupied: another run has replaced it meanwhile.
        ConfigError: a store without conditional writes.
    """
    address = storage.join(before.uri, manifest.NAME)
    was = storage.sha256(address)
    relative = [asdict(one) | {"address": one.address.removeprefix(f"{before.uri}/")} for one in erased.files]
    relative.append({"address": manifest.NAME, "before": was, "after": None})
    told = {"rows": dict(sorted(erased.rows.items())), "before": dict(target.before), "files": relative}
    new = manifest.replace(before, content, told_of(before, target, told), files, erased=True)
    erased.files.append(FileChange(address, was, hashlib.sha256(manifest.body(new)).hexdigest()))
    return new


def told_of(before: Manifest, target: Target, told: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of the generation after ``before``, with one more entry of ``ERASURES``, and without names and
    ids in the command line; ``told``: the entry's rows, files and what a scan found before."""
    made = dict(before.provenance)
    if isinstance(command := made.get("command"), str):
        made["command"] = target.without_words(command)
    entry = {"request": target.request, "finished": target.finished, **told}
    return made | {ERASURES: [*entries(before), entry]}


def entries(found: Manifest) -> list[dict[str, Any]]:
    """{request, finished, rows, before, files} of the erasures that the provenance tells of; no digest covers them, so
    those of another shape are left out."""
    noted = found.provenance.get(ERASURES)
    listed = noted if isinstance(noted, list) else []
    return [
        one
        for one in listed
        if isinstance(one, dict) and isinstance(one.get("rows"), dict) and isinstance(one.get("files"), list)
    ]


def recorded(found: Manifest, request: str) -> Erased:
    """What earlier runs of the same request have removed, by the provenance."""
    erased = Erased()
    listed = entries(found)
    for entry in (one for one in listed if one.get("request") == request):
        erased.before = erased.before or dict(entry.get("before") or {})
        erased.rows.update({str(name): int(count) for name, count in entry["rows"].items()})
        for file in entry["files"]:
            address, after = storage.join(found.uri, str(file["address"])), file["after"]
            if file["address"] == manifest.NAME and entry is listed[-1]:
                after = storage.sha256(address)
            erased.files.append(FileChange(address, file["before"], after))
    return erased


def sweep(folder: str, keep: Iterable[str]) -> None:
    """Remove the Parquet files of a folder that are not of its manifest's generation, and what killed writers left.

    Whoever calls it holds the artefact's lease.
    """
    kept, lock = set(keep), f"{manifest.NAME}.lock"
    for name in storage.names(folder):
        if name == lock or (name.endswith(".parquet") and name not in kept):
            storage.remove(storage.join(folder, name))
    storage.remove_unfinished(folder)
