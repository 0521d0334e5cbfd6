"""How members of tars are called. A row of a catalogue records where the data of a member is, not how its name ends.

The name is in the header in front of the data. Which names matter is left to ``tombstones``.
"""

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from metric_core import storage
from metric_core.artefacts import roots
from metric_core.errors import Missing

COLUMNS = ("key", "uri", "offset", "content_tag")
"""Columns of a catalogue that ``names`` needs."""
_UNCUT = 99
"""Writers cut a long name to the first 99 or 100 bytes of its field; shorter ones are whole."""


def names(root: str, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
    """For each row of a tar whose key is plain, the path of its member, ``ann/1.jpg``.

    None where that cannot be found out: the tar is not there, may not be read, is not below the catalogue's roots or
    has changed since it was catalogued, or the name is long and therefore in a header of its own, farther to the front.

    Args:
        root: the address that the rows' ``uri`` is relative to.
        rows: with ``COLUMNS``.

    Raises:
        OSError: the storage failed, which may be over at the next try.
    """
    address_N = [roots.address(root, row["uri"]) for row in rows]
    tags = {address: _tag(address) for address in set(address_N) if address is not None}
    there = [at for at, address in enumerate(address_N) if address and tags[address] == rows[at]["content_tag"]]
    size = tarfile.BLOCKSIZE
    headers = storage.read_many([(address_N[at] or "", rows[at]["offset"] - size, size) for at in there])
    found: list[str | None] = [None] * len(rows)
    for at, header in zip(there, headers):
        found[at] = _name(header, rows[at]["key"])
    return found


def _tag(address: str) -> str | None:
    try:
        return storage.content_tag(address)
    except (Missing, *storage.FILE_ERRORS):
        return None


def _name(header: storage.ReadResult, key: str) -> str | None:
    if not isinstance(header, bytes) or b"\0" not in header[:_UNCUT]:
        return None
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
    except tarfile.TarError:  # no header: a long map of holes can lie between it and the data
        return None
    name = str(PurePosixPath(member.name))
    return name if name.startswith(f"{key}.") else None
