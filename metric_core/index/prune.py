"""Removes versions of an index, and the files beside them that no other version lists.

A version loses its manifest first, so that one which is removed in part does not read as whole; the next run removes
the rest. Whoever prunes holds the index's lease, so nothing is being built meanwhile. Which versions go is decided by
the job.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.errors import Corrupt, Missing
from metric_core.index.layout import FILES, SHARDS
from metric_core.index.store import IndexStore, VersionInfo
from metric_core.index.version import Version


@dataclass(frozen=True)
class Pruned:
    """What was removed, or would be."""

    versions: list[str]
    files: list[str]
    """Addresses of files beside the versions that no version lists any more."""
    bytes: int
    """Of all that is removed, the versions' own files included."""


def prune(store: IndexStore, gone: Collection[str], *, dry: bool = False) -> Pruned:
    """Remove versions and what only they listed; also files that no version lists, which an interrupted run left.

    Args:
        store: the index.
        gone: ids of versions; the live one cannot be among them.
        dry: remove nothing.

    Raises:
        ValueError: the live version is among them.
        Corrupt: the manifest of a version that stays is damaged, so what it lists is unknown.
    """
    versions = store.versions()
    if live := [one.id for one in versions if one.live and one.id in gone]:
        raise ValueError(f"version {live[0]} is the live one")
    kept: set[str] = set()
    for info in versions:
        if info.id not in gone:
            kept |= _listed(store.version(info.id), info)
    left = [(address, size) for address, size in _beside(store.uri) if address not in kept]
    own = {name: list(_files(Version(store.uri, name).uri)) for name in gone}
    if not dry:
        for name in gone:
            version = Version(store.uri, name)
            storage.remove(version.file(manifest.NAME))
            storage.remove_tree(version.uri)
        for address, _ in left:
            storage.remove(address)
    size = sum(size for files in (left, *own.values()) for _, size in files)
    return Pruned(sorted(gone), [address for address, _ in left], size)


def _listed(version: Version, info: VersionInfo) -> set[str]:
    """Addresses of the files beside the versions that this one lists, or that its unfinished build has made."""
    if info.finished:
        found = version.manifest()
        if found.format == 1:
            return set()
        return set(version.listed(version.content()))
    if info.damaged:
        raise Corrupt(
            f"the manifest of version {info.id} is damaged or of a newer format, so what it lists is unknown; start "
            f"the job that built it again, which mends it, or name it among the versions to remove (--version)"
        )
    return version.made()


def _beside(index_uri: str) -> Iterator[tuple[str, int]]:
    for folder in (SHARDS, FILES):
        yield from _files(storage.join(index_uri, folder))


def _files(folder: str) -> Iterator[tuple[str, int]]:
    """The addresses and sizes of a folder's files."""
    for name in storage.names(folder):
        address = storage.join(folder, name)
        try:
            if storage.is_file(address):
                yield address, storage.size(address)
        except Missing:  # removed meanwhile
            continue
