"""Removes erased faces from a version without manifest: what holds one of them goes, and its job makes it again."""

import re

from metric_core import storage
from metric_core.index import layout, truth
from metric_core.index import version as versions
from metric_core.index.erase_common import Changes, Search, hit, receipts
from metric_core.index.truth import Probes
from metric_core.index.version import Version

STARTED = re.compile(r"(shard-\d+\.(json|arrow)|.*\.(arrow|npy|faiss|parquet)|choice\.json)")
"""Files of a version's own folder that are made from faces."""


def undo(version: Version, search: Search, changes: Changes) -> bool:
    """Remove what holds erased faces; whether there was anything. Without the probes that its choice names, and if one
    of these is erased, all begins again: the choice is removed last."""
    target, probes = search.target, _probes(version)
    over = probes is None or bool(hit(probes.to_table(), target).any())
    kept: set[str] = set() if over else {layout.CHOICE}
    for number, shard in {} if over else receipts(version).items():
        near = truth.parse_best(version.read(versions.near_name(number)) or b"")
        if not len(search.gone(version, shard)) and not target.has(near.face_id_QW.ravel()).any():
            kept |= {versions.receipt_name(number), versions.near_name(number)}
    names = [name for name in storage.names(version.uri) if STARTED.fullmatch(name) and name not in kept]
    for name in sorted(names, key=lambda name: (name == layout.CHOICE, name)):
        changes.remove(version.file(name))
    return bool(names)


def _probes(version: Version) -> Probes | None:
    """The probes of a version without manifest; None if its choice names none that are there."""
    address = version.decided().get(layout.PROBES)
    if address is None or not storage.exists(address):
        return None
    return Probes.parse(storage.read_bytes(address))
