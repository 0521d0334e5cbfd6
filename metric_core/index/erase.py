"""Removes erased faces from an index: from every version, finished or not, and from every file beside the versions.

At once, each finished version gets a mask, so that whoever opens it from then on does not find the faces. Then each
shard that holds one of them is written again without them, and with it the names, probes and neighbours that a version
has of them. A new generation of its manifest lists the new files and no mask. What no version lists any more is
removed, with this machine's copies of it. ``CURRENT`` and the ids of versions stay.

A version without manifest loses what holds one of the faces, and its job does that again without them.

A run that was killed is completed by the same call, to the same files. Whoever calls it holds the index's lease: files
that no version lists are removed, and a build would have some.
"""

# N: rows of a shard, M: erased faces, Q: probes, W: neighbours per probe.

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import erasing, ids, manifest
from metric_core.artefacts.erasing import FileChange, Target
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ConfigError, Corrupt, Unfinished
from metric_core.index import erase_lists, erase_shard, layout, masks, threads
from metric_core.index import version as versions
from metric_core.index.erase_common import Changes, Search, hit, receipts
from metric_core.index.erase_lists import Changed
from metric_core.index.erase_unfinished import STARTED, undo
from metric_core.index.erase_version import WHY, Rewriting
from metric_core.index.layout import Content, Shard
from metric_core.index.store import IndexStore
from metric_core.index.version import Version

_OWN = re.compile(r"[0-9a-f]{32}\..+")
"""Names of files beside the versions."""


def erase(
    index_uri: str,
    face_ids: np.ndarray,
    identities: Sequence[str],
    tell: Callable[[str], object] = lambda line: None,
    *,
    request: str = "",
    finished: str = "",
) -> list[FileChange]:
    """Remove faces and people.

    Args:
        index_uri: folder or object-store address of the index.
        face_ids: int64 (M,), sorted: single faces.
        identities: names of people of whom all faces are removed, whatever ids these have.
        tell: is called with one line for each step.
        request: keyed hash of what was asked for, which the provenance names; files that earlier runs of the same
            request have changed are in the answer too.
        finished: when, as the provenance has times.

    Returns:
        What was done to which file. Nothing if the index has none of the faces.

    Raises:
        Missing: there is no index.
        ConfigError: a version of the first format holds one of the faces; nothing was touched.
        SchemaMismatch: a newer version of Likeness wrote a version; nothing was touched.
        Corrupt: a file that must be read is missing or damaged; mend the index first.
        Occupied: another job changed a version meanwhile.
        IndexBuildError: what a manifest says of its rows does not add up.
    """
    target = Target(np.unique(face_ids), frozenset(identities), request=request, finished=finished)
    return _Erasure(IndexStore(storage.absolute(index_uri)), target, tell, Search(target)).run()


@dataclass
class _Finished:
    """A version with a manifest."""

    version: Version
    before: Manifest
    content: Content


@dataclass
class _Erasure:
    store: IndexStore
    target: Target
    tell: Callable[[str], object]
    search: Search
    finished: list[_Finished] = field(default_factory=list)
    unfinished: list[Version] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)

    def run(self) -> list[FileChange]:
        self._list_versions()
        self.target = self.search.complete(self._all_shards())
        for one in self.finished:
            self._mask(one)
        with threads.one():
            new, changed = self._shards()
        for one in self.finished:
            self._recall(one.before)
            content = Rewriting(self.search, self.changes).content(one.version, one.content, new, changed)
            if content != one.content:
                self._switch(one, content)
        for version in self.unfinished:
            if undo(version, self.search, self.changes):
                told = "is unfinished; its job makes what held erased faces again without them"
                self.tell(f"version {version.id} {told}")
        self._sweep()
        return sorted(self.changes.by_address.values(), key=lambda change: change.address)

    def _recall(self, before: Manifest) -> None:
        """Take over what earlier runs of the same request noted."""
        if not self.target.request:
            return
        for change in erasing.recorded(before, self.target.request).files:
            address = change.address.removeprefix(f"{before.uri}/")
            address = storage.join(self.store.uri, address)
            self.changes.by_address.setdefault(address, replace(change, address=address))

    def _list_versions(self) -> None:
        """Raises ConfigError for a version of the first format that holds an erased face."""
        manifest.require_own(self.store.uri)
        for info in self.store.versions():
            version = Version(self.store.uri, info.id)
            try:
                found = version.manifest()
            except (Corrupt, Unfinished):
                self.unfinished.append(version)
                continue
            if found.format > 1:
                self.finished.append(_Finished(version, found, Content.parse(found.content)))
            elif self._in_first_format(version, found.content):
                raise ConfigError(
                    f"{version.uri} is of the first format, whose files are not written again, and it holds erased "
                    f"faces; build the index again, remove that version, and erase then; nothing was touched"
                )

    def _in_first_format(self, version: Version, content: Mapping[str, Any]) -> bool:
        for shard in content["shards"]:
            data = storage.read_bytes(version.file(f"identities-{shard['number']:03d}.parquet"))
            if hit(pq.read_table(pa.BufferReader(data)), self.target).any():
                return True
        return False

    def _all_shards(self) -> list[tuple[Version, Shard]]:
        """The shards that a version lists or has a receipt of."""
        shards = [(one.version, shard) for one in self.finished for shard in one.content.shards]
        return shards + [(version, shard) for version in self.unfinished for shard in receipts(version).values()]

    def _mask(self, one: _Finished) -> None:
        """Hide the faces of a finished version from whoever opens it from now on."""
        for mask in one.content.masks:
            if mask.get("why") == WHY:  # of a run that was killed; it goes in the end, as if it had never been
                self.changes.passing.add(one.version.mask(one.content, mask))
        masked = one.version.read_masks(one.content)
        hidden, found = 0, [ids.NONE]
        for shard, masked_M in zip(one.content.shards, masked):
            own = self.search.gone(one.version, shard).face_id_E
            found.append(own)
            hidden += int((~ids.within(own, masked_M)).sum())
        if not hidden:
            return
        id_M, shards = np.unique(np.concatenate(found)), len(one.content.shards)
        entry = masks.store(one.version, id_M, WHY, shards) | {"rows": hidden}  # others are hidden already
        content = replace(one.content, rows=one.content.rows - hidden, masks=[*one.content.masks, entry])
        if not content.shared:  # a version whose other masks and files are in its own folder reads this one there too
            one.version.put(layout.MASK, masks.file(id_M))
        self.changes.passing |= {one.version.mask(content, entry), one.version.shared(layout.MASK, entry["sha256"])}
        self.tell(f"version {one.version.id}: {hidden} faces are not found any more")
        self._replace(one, content, one.before.provenance)

    def _shards(self) -> tuple[dict[str, Shard], dict[str, Changed]]:
        """What takes the place of each shard that is written again, by its digest; and the templates that change."""
        old = {shard.digest: (one, shard) for one in self.finished for shard in one.content.shards}
        seen: dict[str, erase_lists.Seen] = {}
        for digest, (one, shard) in sorted(old.items()):
            at_E = self.search.gone(one.version, shard).at_E
            if len(at_E) and one.content.spec.nlist:
                with one.version.local_files(shard) as paths:
                    seen[digest] = erase_lists.look(paths, one.content.spec, at_E, shard.template)
        changed = erase_lists.changed(seen, [(one.version, one.content, shard) for one, shard in old.values()])
        new: dict[str, Shard] = {}
        for digest, (one, shard) in sorted(old.items()):
            at_E, change = self.search.gone(one.version, shard).at_E, changed.get(shard.template)
            if len(at_E):
                self.tell(f"shard {digest}: {len(at_E)} of {shard.rows} rows are removed")
            if change is not None:
                self.tell(f"shard {digest}: {len(change.centroids)} lists get other centroids")
            if not len(at_E) and change is None:
                continue
            with self._folder() as folder, one.version.local_files(shard) as paths:
                if change is not None and not len(at_E):
                    built = erase_lists.with_centroids(paths, one.content.spec, shard, change, Path(folder))
                else:
                    gone_N = np.zeros(shard.rows, bool)
                    gone_N[at_E] = True
                    built = erase_shard.without(paths, one.content.spec, gone_N, Path(folder), change)
                trained = shard.template if change is None else change.sha256
                new[digest] = one.version.put_files(built, trained)
        return new, changed

    def _folder(self) -> "tempfile.TemporaryDirectory[str]":
        return tempfile.TemporaryDirectory(prefix="likeness-")

    def _switch(self, one: _Finished, content: Content) -> None:
        """Replace the manifest; its provenance tells which files took the place of which."""
        files, now = one.version.listed(one.content), one.version.listed(content)
        for address in sorted(files.keys() - now.keys()):
            self.changes.note(address, files[address], None)
        for address in sorted(now.keys() - files.keys()):
            self.changes.note(address, None, now[address])
        own = [*files.keys() ^ now.keys()]
        folder = f"{one.version.uri}/"
        changes = [c for c in self.changes.by_address.values() if c.address in own or c.address.startswith(folder)]
        told = {
            "rows": {"shards": sum(s.rows for s in one.content.shards) - sum(s.rows for s in content.shards)},
            "files": [
                asdict(c) | {"address": c.address.removeprefix(f"{self.store.uri}/")}
                for c in sorted(changes, key=lambda change: change.address)
            ],
        }
        self._replace(one, content, erasing.told_of(one.before, self.target, told))
        self.tell(f"version {one.version.id}: {content.rows} faces of {content.people} people remain")

    def _replace(self, one: _Finished, content: Content, provenance: Mapping[str, Any]) -> None:
        address = one.version.file(manifest.NAME)
        was = storage.sha256(address)
        one.before = manifest.replace(one.before, asdict(content), provenance, one.before.files, erased=True)
        one.content = content
        self.changes.note(address, was, storage.sha256(address))

    def _sweep(self) -> None:
        """Remove the files beside the versions that no version lists, and what killed writers left."""
        kept: set[str] = set()
        for one in self.finished:
            kept |= one.version.listed(one.content).keys()
            count = range(len(one.content.shards))
            own = {layout.CHOICE, *map(versions.receipt_name, count), *map(versions.near_name, count)}
            for name in storage.names(one.version.uri):
                address = one.version.file(name)
                if STARTED.fullmatch(name) and name not in own and address not in kept:
                    self.changes.remove(address)
            storage.remove(f"{one.version.file(manifest.NAME)}.lock")  # of a run that was killed
        for version in self.unfinished:
            kept |= version.made()
        for folder in (layout.SHARDS, layout.FILES):
            for name in storage.names(storage.join(self.store.uri, folder)):
                address = storage.join(self.store.uri, folder, name)
                if _OWN.fullmatch(name) and address not in kept:
                    self.changes.remove(address)
        own_folders = [version.uri for version in [*(one.version for one in self.finished), *self.unfinished]]
        beside = [storage.join(self.store.uri, folder) for folder in (layout.SHARDS, layout.FILES)]
        for folder in [self.store.uri, *own_folders, *beside]:
            storage.remove_unfinished(folder)
