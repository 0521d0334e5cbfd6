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

import hashlib
import io
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import erasing, ids, manifest
from metric_core.artefacts.erasing import FileChange, Target
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ConfigError, Corrupt, IndexBuildError, Unfinished
from metric_core.index import erase_lists, erase_shard, truth, tuning
from metric_core.index import version as versions
from metric_core.index.erase_lists import Changed
from metric_core.index.search import Index
from metric_core.index.shard import File, read_rows
from metric_core.index.store import IndexStore
from metric_core.index.truth import Probes, Truth
from metric_core.index.version import Content, Shard, Version

_WHY = "erased"
_FEW = 0.01
"""Share of the probes that may be affected by erasures before recall is measured again, which takes longer than writing
the shards of one person."""
_OWN = re.compile(r"[0-9a-f]{32}\..+")
"""Names of files beside the versions."""
_STARTED = re.compile(r"(shard-\d+\.(json|arrow)|.*\.(arrow|npy|faiss|parquet)|choice\.json)")
"""Files of a version's own folder that are made from faces."""


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
    return _Erasure(IndexStore(storage.absolute(index_uri)), target, tell).run()


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
    finished: list[_Finished] = field(default_factory=list)
    unfinished: list[Version] = field(default_factory=list)
    changes: dict[str, FileChange] = field(default_factory=dict)
    """By address."""
    passing: set[str] = field(default_factory=set)
    """Addresses of files that an erasure makes and removes again."""

    def run(self) -> list[FileChange]:
        self._list_versions()
        self._complete_target()
        for one in self.finished:
            self._mask(one)
        new, changed = self._shards()
        for one in self.finished:
            self._recall(one.before)
            self._rewrite(one, new, changed)
        for version in self.unfinished:
            self._undo(version)
        self._sweep()
        return sorted(self.changes.values(), key=lambda change: change.address)

    def _recall(self, before: Manifest) -> None:
        """Take over what earlier runs of the same request noted."""
        if not self.target.request:
            return
        for change in erasing.recorded(before, self.target.request).files:
            address = change.address.removeprefix(f"{before.uri}/")
            address = storage.join(self.store.uri, address)
            self.changes.setdefault(address, replace(change, address=address))

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
            if self._hit(pq.read_table(pa.BufferReader(data))).any():
                return True
        return False

    def _complete_target(self) -> None:
        """Add the ids of all faces of the people, which neighbours and masks are known by."""
        found = [self.target.face_id_M]
        if self.target.identities:
            for address, sha256 in self._all_rows().items():
                with storage.verified(address, sha256) as path:
                    rows = read_rows(path)
                    found.append(rows["face_id"].to_numpy()[self._hit(rows)])
        self.target = replace(self.target, face_id_M=np.unique(np.concatenate(found)))

    def _all_rows(self) -> dict[str, str]:
        """Addresses of the ``rows`` of all shards that a version lists, and their sha256."""
        shards = [(one.version, shard) for one in self.finished for shard in one.content.shards]
        shards += [(version, shard) for version in self.unfinished for shard in _receipts(version).values()]
        return {version.address(shard, "rows"): shard.files["rows"].sha256 for version, shard in shards}

    def _hit(self, rows: pa.RecordBatch | pa.Table) -> np.ndarray:
        """bool (N,): which rows with face_id and identity are erased."""
        gone_N = self.target.has(rows["face_id"].to_numpy())
        if self.target.identities:
            whose = rows["identity"] if isinstance(rows, pa.RecordBatch) else rows["identity"].combine_chunks()
            gone_N |= named(whose, self.target.names)
        return gone_N

    def _gone(self, version: Version, shard: Shard) -> np.ndarray:
        """bool (N,): which rows of a shard are erased."""
        with version.local_file(shard, "rows") as path:
            return self._hit(read_rows(path))

    def _mask(self, one: _Finished) -> None:
        """Hide the faces of a finished version from whoever opens it from now on."""
        for mask in one.content.masks:
            if mask.get("why") == _WHY:  # of a run that was killed; it goes in the end, as if it had never been
                self.passing.add(one.version.mask(one.content, mask))
        masked = one.version.read_masks(one.content)
        hidden, found = 0, [ids.NONE]
        for shard, masked_M in zip(one.content.shards, masked):
            with one.version.local_file(shard, "rows") as path:
                rows = read_rows(path)
                gone = rows["face_id"].to_numpy()[self._hit(rows)]
            found.append(gone)
            hidden += int((~ids.within(gone, masked_M)).sum())
        if not hidden:
            return
        data = mask_file(np.unique(np.concatenate(found)))
        file = one.version.share(versions.MASK, data)
        entry = {
            "name": versions.MASK,
            "rows": hidden,
            "sha256": file.sha256,
            "why": _WHY,
            "shards": len(one.content.shards),
        }
        content = replace(one.content, rows=one.content.rows - hidden, masks=[*one.content.masks, entry])
        if not content.shared:  # a version whose other masks and files are in its own folder reads this one there too
            storage.write_bytes(one.version.file(versions.MASK), data)
        self.passing |= {one.version.mask(content, entry), one.version.shared(versions.MASK, file.sha256)}
        self.tell(f"version {one.version.id}: {hidden} faces are not found any more")
        self._replace(one, content, one.before.provenance)

    def _shards(self) -> tuple[dict[str, Shard], dict[str, Changed]]:
        """What takes the place of each shard that is written again, by its digest; and the templates that change."""
        old = {shard.digest: (one, shard) for one in self.finished for shard in one.content.shards}
        new: dict[str, Shard] = {}
        seen: list[erase_lists.Seen] = []
        for digest, (one, shard) in sorted(old.items()):
            gone_N = self._gone(one.version, shard)
            if gone_N.any():
                self.tell(f"shard {digest}: {int(gone_N.sum())} of {shard.rows} rows are removed")
                with self._folder() as folder, one.version.local_files(shard) as paths:
                    if one.content.spec.nlist:
                        seen.append(erase_lists.look(paths, one.content.spec, gone_N, shard.template))
                    built = erase_shard.without(paths, one.content.spec, gone_N, Path(folder))
                    new[digest] = one.version.put_files(built, shard.template)
        held = [(one.version, one.content, new.get(digest, shard)) for digest, (one, shard) in old.items()]
        changed = erase_lists.changed(seen, held)
        for digest, (one, _) in sorted(old.items()):
            shard = new.get(digest, old[digest][1])
            if (change := changed.get(shard.template)) is not None:
                self.tell(f"shard {digest}: {len(change.centroids)} lists get other centroids")
                with self._folder() as folder, one.version.local_files(shard) as paths:
                    if shard is not old[digest][1]:
                        self.passing |= {one.version.address(shard, ending) for ending in shard.files}
                    built = erase_lists.with_centroids(paths, one.content.spec, shard, change, Path(folder))
                    new[digest] = one.version.put_files(built, change.sha256)
        return new, changed

    def _folder(self) -> "tempfile.TemporaryDirectory[str]":
        return tempfile.TemporaryDirectory(prefix="likeness-")

    def _rewrite(self, one: _Finished, new: Mapping[str, Shard], changed: Mapping[str, Changed]) -> None:
        """Write a version's own files without the faces, then switch to the new files in one step."""
        before, content = one.content, one.content
        content = replace(content, shards=[new.get(shard.digest, shard) for shard in content.shards])
        content = self._masks(one.version, content)
        files = {name: one.version.read_checked(before, name) for name in (versions.PROBES, versions.TRUTH)}
        probes, known = Probes.parse(files[versions.PROBES]), Truth.parse(files[versions.TRUTH])
        kept_Q = ~self._hit(probes.to_table())
        self._receipts(one.version, content, kept_Q)
        if content.masks == before.masks and content.shards == before.shards and not self._concerns(known):
            return
        files = self._own_files(one, content, probes, known, kept_Q, changed)
        if not content.shared:
            names = [name for name in before.files if name not in (*files, versions.CHOICE)]
            files |= {name: one.version.read_checked(before, name) for name in names}
        listed = {name: one.version.share(name, data) for name, data in sorted(files.items())}
        same = {name: file for name, file in before.files.items() if name not in (*listed, versions.CHOICE)}
        content = replace(
            content,
            template=listed[versions.TEMPLATE].sha256 if versions.TEMPLATE in listed else before.template,
            files=dict(sorted((same | listed).items())),
            people=len(pa.ipc.open_file(files[versions.NAMES]).read_all())
            if versions.NAMES in files
            else before.people,
            choice=_renamed(before.choice, before.files, listed),
            shared=True,
        )
        if problems := content.problems():
            raise IndexBuildError(f"{one.version.uri}: {'; '.join(problems)}; build the index again")
        if versions.TRUTH in files:
            content = self._measured(one.version, content, self._affected(known))
        self._choice(one.version, before, content)
        self._switch(one, content)

    def _concerns(self, known: Truth) -> bool:
        """Whether probes or their neighbours are erased."""
        gone = self.target.has(known.best.face_id_QW.ravel()).any()
        return bool(gone or self._hit(known.probes.to_table()).any())

    def _masks(self, version: Version, content: Content) -> Content:
        """The content with masks that do not list erased faces."""
        masks = []
        for mask in content.masks:
            data = versions.checked(version.mask(content, mask), mask["sha256"])
            listed = pq.read_table(pa.BufferReader(data))["face_id"].to_numpy()
            gone = self.target.has(listed)
            if mask.get("why") == _WHY and gone.all():
                continue
            if gone.any():
                data = mask_file(listed[~gone])
                mask = mask | {"rows": mask["rows"] - int(gone.sum()), "sha256": versions.digest(data)}
            if not gone.all():
                version.share(mask["name"], data)
                masks.append(mask)
        return replace(content, masks=masks)

    def _receipts(self, version: Version, content: Content, kept_Q: np.ndarray) -> None:
        """Write the receipts of a version again: those of the new shards, and the neighbours without erased faces."""
        for number, shard in enumerate(content.shards):
            own = [version.file(name(number)) for name in (versions.receipt_name, versions.near_name)]
            was = [storage.sha256(address) if storage.exists(address) else None for address in own]
            near = self._near(version, number, kept_Q)
            if near is None:  # missing or damaged, which ``check`` tells and the job that built it mends
                for address in own:
                    storage.remove(address)
            elif not (all(was) and version.receipt(number) == (shard, near)):
                storage.remove(own[0])  # not to be there with the neighbours that it is not about
                version.put_receipt(number, shard, near)
            for address, sha256 in zip(own, was):
                self._note(address, sha256, storage.sha256(address) if storage.exists(address) else None)

    def _near(self, version: Version, number: int, kept_Q: np.ndarray) -> bytes | None:
        """The file of the probes' neighbours in a shard, without erased ones; None if it is missing or damaged. Without
        a receipt, it was written by a run that was killed."""
        try:
            version.receipt(number)
            data = version.read(versions.near_name(number))
            best = None if data is None else truth.parse_best(data)
        except (Corrupt, ValueError, KeyError, OSError, pa.ArrowException):
            return None
        if best is None:
            return None
        if len(best.face_id_QW) == len(kept_Q):
            best = truth.taken(best, kept_Q)
        return versions.ipc(truth.best_table(truth.without(best, self.target.face_id_M)))

    def _own_files(
        self,
        one: _Finished,
        content: Content,
        probes: Probes,
        known: Truth,
        kept_Q: np.ndarray,
        changed: Mapping[str, Changed],
    ) -> dict[str, bytes]:
        """The files of a version that change, by name."""
        files: dict[str, bytes] = {}
        if content.shards != one.content.shards:
            names = []
            for shard in content.shards:
                with one.version.local_file(shard, "rows") as path:
                    names.append(read_rows(path)["identity"].dictionary)
            files |= dict(zip((versions.NAMES, versions.CODES), versions.named(names)))
        if self._concerns(known):
            probes = probes.take(kept_Q)
            best = truth.without(truth.taken(known.best, ~self._hit(known.probes.to_table())), self.target.face_id_M)
            files[versions.PROBES] = versions.ipc(probes.to_table())
            files[versions.TRUTH] = versions.ipc(Truth(probes, best).to_table())
        if (change := changed.get(one.content.template)) is not None:
            files[versions.TEMPLATE] = change.template
        return files

    def _affected(self, known: Truth) -> int:
        """Probes that are erased, or one of whose nearest neighbours is."""
        near_QT = known.best.face_id_QW[:, : tuning.NEIGHBOURS]
        gone_Q = self.target.has(near_QT.ravel()).reshape(near_QT.shape).any(axis=1)
        return int((gone_Q | self._hit(known.probes.to_table())).sum())

    def _measured(self, version: Version, content: Content, affected: int) -> Content:
        """The content with what the remaining probes find of their neighbours now. For few of them, recall stays as it
        was measured: it cannot be off by more than their share. The curve of the tuning always stays."""
        known = Truth.parse(version.read_checked(content, versions.TRUTH))
        affected += content.recall.get(versions.AFFECTED, 0)
        counts = {"probes": len(known.probes), "counted": int(known.counted_Q.sum()), versions.AFFECTED: affected}
        if affected <= _FEW * len(known.probes) or not len(known.probes):
            return replace(content, recall=content.recall | counts)
        point = asdict(tuning.measure(Index.load(version, content), known, content.nprobe, content.depth))
        return replace(content, recall=content.recall | point | counts | {versions.AFFECTED: 0})

    def _choice(self, version: Version, before: Content, content: Content) -> None:
        """The file by which a build continues names the new probes and the new template."""
        data = version.read(versions.CHOICE)
        if data is None or before.choice == content.choice:
            return
        new = versions.choice_file(content.choice)
        version.put(versions.CHOICE, new)
        self._note(version.file(versions.CHOICE), versions.digest(data), versions.digest(new))

    def _switch(self, one: _Finished, content: Content) -> None:
        """Replace the manifest; its provenance tells which files took the place of which."""
        files, now = _listed(one.version, one.content), _listed(one.version, content)
        for address in sorted(files.keys() - now.keys()):
            self._note(address, files[address], None)
        for address in sorted(now.keys() - files.keys()):
            self._note(address, None, now[address])
        own = [*files.keys() ^ now.keys()]
        folder = f"{one.version.uri}/"
        changes = [c for c in self.changes.values() if c.address in own or c.address.startswith(folder)]
        entry = {
            "request": self.target.request,
            "finished": self.target.finished,
            "rows": {"shards": sum(s.rows for s in one.content.shards) - sum(s.rows for s in content.shards)},
            "files": [
                asdict(c) | {"address": c.address.removeprefix(f"{self.store.uri}/")}
                for c in sorted(changes, key=lambda change: change.address)
            ],
        }
        made = dict(one.before.provenance)
        if isinstance(command := made.get("command"), str):
            said = frozenset(name for name in self.target.identities if name in command)  # of ten thousand, few or none
            made["command"] = replace(self.target, identities=said).without_words(command)
        self._replace(one, content, made | {erasing.ERASURES: [*erasing.entries(one.before), entry]})
        self.tell(f"version {one.version.id}: {content.rows} faces of {content.people} people remain")

    def _replace(self, one: _Finished, content: Content, provenance: Mapping[str, Any]) -> None:
        address = one.version.file(manifest.NAME)
        was = storage.sha256(address)
        one.before = manifest.replace(one.before, asdict(content), provenance, one.before.files, erased=True)
        one.content = content
        before = self.changes[address].before if address in self.changes else was
        self.changes[address] = FileChange(address, before, hashlib.sha256(manifest.body(one.before)).hexdigest())

    def _undo(self, version: Version) -> None:
        """Remove what holds erased faces of a version without manifest. Without the probes that its choice names, and
        if one of these is erased, all begins again: the choice is removed last."""
        receipts, probes = _receipts(version), _probes(version)
        over = probes is None or bool(self._hit(probes.to_table()).any())
        kept: set[str] = set() if over else {versions.CHOICE}
        for number, shard in {} if over else receipts.items():
            near = version.read(versions.near_name(number)) or b""
            if not self._gone(version, shard).any() and not self.target.has(_neighbours(near)).any():
                kept |= {versions.receipt_name(number), versions.near_name(number)}
        gone = [name for name in storage.names(version.uri) if _STARTED.fullmatch(name) and name not in kept]
        for name in sorted(gone, key=lambda name: (name == versions.CHOICE, name)):
            self._remove(version.file(name))
        if gone:
            self.tell(f"version {version.id} is unfinished; its job makes what held erased faces again without them")

    def _sweep(self) -> None:
        """Remove the files beside the versions that no version lists, and what killed writers left."""
        kept: set[str] = set()
        for one in self.finished:
            kept |= _listed(one.version, one.content).keys()
            count = range(len(one.content.shards))
            own = {versions.CHOICE, *map(versions.receipt_name, count), *map(versions.near_name, count)}
            for name in storage.names(one.version.uri):
                address = one.version.file(name)
                if _STARTED.fullmatch(name) and name not in own and address not in kept:
                    self._remove(address)
            storage.remove(f"{one.version.file(manifest.NAME)}.lock")  # of a run that was killed
        for version in self.unfinished:
            for shard in _receipts(version).values():
                kept |= {version.address(shard, ending) for ending in shard.files}
            kept |= set(_decided(version).values())
        for folder in (versions.SHARDS, versions.FILES):
            for name in storage.names(storage.join(self.store.uri, folder)):
                address = storage.join(self.store.uri, folder, name)
                if _OWN.fullmatch(name) and address not in kept:
                    self._remove(address)
        own_folders = [version.uri for version in [*(one.version for one in self.finished), *self.unfinished]]
        beside = [storage.join(self.store.uri, folder) for folder in (versions.SHARDS, versions.FILES)]
        for folder in [self.store.uri, *own_folders, *beside]:
            storage.remove_unfinished(folder)

    def _remove(self, address: str) -> None:
        noted = self.changes.get(address)
        sha256 = noted.before if noted is not None and noted.before is not None else storage.sha256(address)
        storage.remove(address)
        storage.forget([sha256])
        self._note(address, sha256, None)

    def _note(self, address: str, before: str | None, after: str | None) -> None:
        """Note what was done to a file; of several things, the first state and the last."""
        if address in self.changes:
            before = self.changes[address].before
        if before == after or address in self.passing:
            self.changes.pop(address, None)
        else:
            self.changes[address] = FileChange(address, before, after)


def named(identity: pa.Array, names: pa.Array) -> np.ndarray:
    """bool (N,): whose names are among some; False for a face without a name."""
    coded = identity if isinstance(identity, pa.DictionaryArray) else identity.dictionary_encode()
    wanted_M = pc.is_in(coded.dictionary, value_set=names).to_numpy(zero_copy_only=False)
    found_N: np.ndarray = np.append(wanted_M, False)[coded.indices.fill_null(-1).to_numpy()]
    return found_N


def mask_file(face_id_M: np.ndarray) -> bytes:
    """The file of a mask of some faces, int64 (M,)."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"face_id": pa.array(face_id_M, pa.int64())}), sink)
    return sink.getvalue()


def _listed(version: Version, content: Content) -> dict[str, str]:
    """Addresses of all files that a content lists, and their sha256."""
    found = {version.place(content, name): file.sha256 for name, file in content.files.items()}
    if not content.shared:
        found.pop(version.file(versions.CHOICE), None)
    found |= {version.mask(content, mask): mask["sha256"] for mask in content.masks}
    for shard in content.shards:
        found |= {version.address(shard, ending): file.sha256 for ending, file in shard.files.items()}
    return found


def _receipts(version: Version) -> dict[int, Shard]:
    """The shards of a version that have a sound receipt and whose rows are there, by number."""
    found = {}
    for name in storage.names(version.uri):
        if number := re.fullmatch(r"shard-(\d+)\.json", name):
            try:
                receipt = version.receipt(int(number[1]))
            except Corrupt:  # it is made again
                continue
            if receipt is not None and storage.exists(version.address(receipt[0], "rows")):
                found[int(number[1])] = receipt[0]
    return found


def _neighbours(near: bytes) -> np.ndarray:
    """int64 (Q W,): the face_ids in a file of neighbours."""
    return truth.parse_best(near).face_id_QW.ravel()


def _decided(version: Version) -> dict[str, str]:
    """Addresses of the template and the probes of a version without manifest, by name; none without a sound choice."""
    try:
        choice = json.loads(version.read(versions.CHOICE) or b"")["choice"]
        sha256 = {versions.TEMPLATE: str(choice["template"]), versions.PROBES: str(choice["probes"])}
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: version.shared(name, digest) for name, digest in sha256.items()}


def _probes(version: Version) -> Probes | None:
    """The probes of a version without manifest; None if its choice names none that are there."""
    address = _decided(version).get(versions.PROBES)
    if address is None or not storage.exists(address):
        return None
    return Probes.parse(storage.read_bytes(address))


def _renamed(choice: Mapping[str, Any], before: Mapping[str, File], now: Mapping[str, File]) -> dict[str, Any]:
    """The choice with the digests of the new probes and the new template."""
    new = dict(choice)
    for key, name in (("template", versions.TEMPLATE), ("probes", versions.PROBES)):
        if name in now and choice.get(key) == before[name].sha256:
            new[key] = now[name].sha256
    return new
