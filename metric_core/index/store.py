"""The Index artefact: versions side by side, and ``CURRENT``, which names the live one.

    INDEX/CURRENT           the live version's id
    INDEX/HISTORY           which versions were live, see ``history``
    INDEX/versions/<id>/    a version; its files are described in ``layout``

The contents of a plan and the time of publishing are left to the job.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ArtefactError, Corrupt, Missing, Occupied, SchemaMismatch, Unfinished
from metric_core.index import format1, history
from metric_core.index.history import Published
from metric_core.index.layout import FILES, KIND, SHARDS, VERSIONS
from metric_core.index.version import Version

CURRENT = "CURRENT"
GENERATION = "generation.txt"
"""File of an unfinished version whose inputs faces were erased from: their digest when it was begun."""


@dataclass(frozen=True)
class VersionInfo:
    """A version, as shown in the list of versions."""

    id: str
    finished: bool
    live: bool
    rows: int | None
    """None if unfinished, or if its manifest is damaged or of a newer format"""
    when: str | None
    """``finished`` in the provenance, as its job wrote it"""
    damaged: bool = False
    """whether there is a manifest that cannot be read"""


@dataclass(frozen=True)
class IndexStore:
    """The folder of an index, which may not exist yet."""

    uri: str

    def require_index_or_nothing(self) -> None:
        """Check that an index can be built here; reads a list of names.

        Raises:
            Occupied: the folder holds something other than an index.
            Corrupt: a link leads out of it.
        """
        manifest.require_own(self.uri)
        inside = [name for name in storage.names(self.uri) if not name.startswith(".")]
        if inside and not {VERSIONS, SHARDS, FILES} & set(inside):
            raise Occupied(
                f"{self.uri} holds {', '.join(inside[:3])} and is no index; give --out an empty or a new folder"
            )

    def begin(
        self, plan: Mapping[str, Any], tell: Callable[[str], object] = lambda line: None
    ) -> tuple[Version, Manifest | None]:
        """Start or continue the version that ``plan`` describes; with its manifest if it is already finished.

        A damaged plan is written again, because the version's folder is named by it. A damaged manifest is removed:
        the job writes it again from what it described. ``tell`` is called with one line for each.

        Raises:
            Occupied, Corrupt: as ``require_index_or_nothing``.
        """
        self.require_index_or_nothing()
        version = Version.of(self.uri, plan)
        if storage.names(version.uri) and (problem := version.plan_problem()):
            tell(f"{problem}; it is written again")
            storage.write_bytes(version.file(manifest.PLAN), manifest.plan_file(KIND, plan))
        try:
            return version, manifest.begin(version.uri, KIND, plan)
        except Corrupt as error:
            tell(f"{str(error).partition(';')[0]}; it is written again")
            storage.remove(version.file(manifest.NAME))
            return version, manifest.begin(version.uri, KIND, plan)

    def forget_plan(self, version: Version) -> None:
        """Remove a version of which nothing but its plan is there."""
        if [name for name in storage.names(version.uri) if not name.startswith(".")] == [manifest.PLAN]:
            storage.remove_tree(version.uri)

    def forget_erased(self, version: Version, generation: str) -> bool:
        """Start an unfinished version over if faces were erased from its inputs since it was begun: what was drawn,
        trained and built holds them. Whoever calls it holds the index's lease.

        Args:
            version: of which the plan is there.
            generation: digest of the inputs if faces were erased from them, else empty.

        Returns:
            Whether anything was removed.
        """
        found = version.read(GENERATION)
        if (b"" if found is None else found) == generation.encode():
            return False
        own = [name for name in storage.names(version.uri) if name not in (manifest.PLAN, GENERATION)]
        made = version.made()
        for info in self.versions():
            other = Version(self.uri, info.id)
            if info.finished and other.manifest().format > 1:
                made -= other.listed(other.content()).keys()
            elif other != version:
                made -= other.made()
        for address in made:
            storage.remove(address)
        for name in own:
            storage.remove(version.file(name))
        storage.write_bytes(version.file(GENERATION), generation.encode())
        return bool(own)

    def version(self, name: str | None = None) -> Version:
        """The version whose id is ``name``, whether it exists or not; None: the live one.

        Raises:
            Missing: ``name`` cannot be a version's id.
            ArtefactError: as ``current``.
        """
        if name is None:
            return self.current()
        if not _is_id(name):
            raise Missing(f"{self.uri} has no version {name!r}; a version's id is 16 hexadecimal digits")
        manifest.require_own(self.uri)
        return Version(self.uri, name)

    def publish(self, version: Version, when: str | None = None, forced: Sequence[str] = ()) -> None:
        """Make a finished version the live one, atomically; the last of several publishers wins.

        Args:
            version: a version of this index.
            when: the time, for the history.
            forced: what speaks against it, for the history.

        Raises:
            Missing, Unfinished, Corrupt: there is no such version, or it is incomplete.
            ArtefactError: other jobs publish all the time.
            ValueError: it is a version of another index.
        """
        self._switch(version)
        history.push(self.uri, Published(version.id, when, list(forced)))

    def earlier(self, name: str | None = None) -> Version:
        """The version that was live before the live one; or the one with this id, if it was live before.

        Raises:
            Missing: no such version was live before, or it was removed since.
        """
        entries, live = history.read(self.uri), self._live() or ""
        there = [one for one in history.before(entries, live) if Version(self.uri, one).finished]
        if not there or (name is not None and name not in there):
            found = f"those that were and are still there: {', '.join(there)}" if there else "no other one is there"
            raise Missing(
                f"{self.uri}: {f'version {name}' if name else 'no version'} was live before {live or 'now'}; {found}; "
                f"`likeness index versions` lists all, and `likeness index publish` makes any of them live"
            )
        return Version(self.uri, name or there[0])

    def roll_back(self, version: Version) -> None:
        """Make a version that was live before, see ``earlier``, the live one again; those after it are no longer part
        of the history. Raises Missing, Unfinished or Corrupt if it is incomplete; the live one stays."""
        self._switch(version)
        history.back_to(self.uri, version.id)

    def _switch(self, version: Version) -> None:
        if version.index_uri != self.uri:
            raise ValueError(f"version {version.id} belongs to {version.index_uri}, not to {self.uri}")
        manifest.require_own(self.uri)
        found = version.manifest()
        if found.format == 1:
            format1.require_whole(version.uri, found.content)
        else:
            version.require_whole()
        if not storage.change(self._current, lambda _: f"{version.id}\n".encode()):
            raise ArtefactError(
                f"{self._current} keeps changing because another job publishes all the time; stop it and publish again"
            )

    def current(self) -> Version:
        """The live version.

        Raises:
            Missing: there is no index.
            Unfinished: no version was published yet.
            Corrupt: ``CURRENT`` names a version that is not there, or something else; a link leads out of the folder.
        """
        manifest.require_own(self.uri)
        name = self._live()
        if name is None:
            if storage.exists(storage.join(self.uri, VERSIONS)):
                raise Unfinished(
                    f"{self.uri} has no {CURRENT}: no version of this index was published yet; start the job that "
                    f"builds it again with the same arguments and it continues"
                )
            raise Missing(
                f"{self.uri}: there is no index (neither {CURRENT} nor {VERSIONS}/); build one or check the address"
            )
        if not _is_id(name) or not Version(self.uri, name).finished:
            raise Corrupt(
                f"{self._current} names version {name!r}, which is not there or not finished; publish another one"
            )
        return Version(self.uri, name)

    def versions(self) -> list[VersionInfo]:
        """All versions: finished ones first, then by the time when they finished, if their jobs wrote it.

        Raises:
            Missing: there is no index.
        """
        folder = storage.join(self.uri, VERSIONS)
        if not storage.exists(folder):
            raise Missing(f"{self.uri}: there is no index (no {VERSIONS}/); build one or check the address")
        live = self._live()
        out = []
        for name in filter(_is_id, storage.names(folder)):
            try:
                found = Version(self.uri, name).manifest()
            except Unfinished:
                out.append(VersionInfo(name, finished=False, live=name == live, rows=None, when=None))
            except (Corrupt, SchemaMismatch):
                out.append(VersionInfo(name, False, name == live, None, None, damaged=True))
            else:
                when = found.provenance.get("finished")
                rows = found.content["rows"]
                out.append(VersionInfo(name, True, name == live, rows, None if when is None else str(when)))
        return sorted(out, key=lambda v: (not v.finished, v.when or "", v.id))

    @property
    def _current(self) -> str:
        return storage.join(self.uri, CURRENT)

    def _live(self) -> str | None:
        """The id in ``CURRENT``, unchecked; None if there is no such file."""
        if not storage.exists(self._current):
            return None
        if not storage.is_file(self._current):
            return ""
        return storage.read_bytes(self._current).decode(errors="replace").strip()


def _is_id(name: str) -> bool:
    """Whether this can be a version's id. Anything else, such as a path, would lead out of the index."""
    return re.fullmatch("[0-9a-f]{16}", name) is not None
