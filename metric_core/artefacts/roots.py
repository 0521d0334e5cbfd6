"""Where the rows of a catalogue may point: below the root of its source, or below further roots that a list led to.

A catalogue names all of them in its manifest, so that a row that points elsewhere (to another host, or to a file that
is nobody's picture) is recognised before anything is opened.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from metric_core import storage

MOST = 100
"""Folders that a catalogue lists; where there are more, their common parents stand for the deepest of them."""

_CHAINED = re.compile(r"::.*://")
"""fsspec opens the address behind ``::``."""


class Root(str):
    """The root of a finished catalogue: a text, the address that rows are relative to, with the further roots."""

    further: tuple[str, ...] | None
    """Normal addresses of folders and hosts; None for Faces of format 1, which did not record them."""

    def __new__(cls, address: str, further: Iterable[str] | None = ()) -> "Root":
        """See the fields."""
        root = super().__new__(cls, address)
        root.further = None if further is None else tuple(further)
        return root


def address(root: str, uri: str) -> str | None:
    """The address of a row's file; None if the row points out of the roots.

    ``root``: of a finished catalogue; or a plain text, the root of a source that is only now being scanned, whose
    readers may lead anywhere.
    """
    found = storage.resolve(root, uri)
    if "\0" in found:  # no file has such a name, and none can be asked for
        return None
    further = root.further if isinstance(root, Root) else None
    return found if further is None or _is_below(found, [root, *further]) else None


class Elsewhere:
    """Collects the folders and hosts that the rows of a source point to and that are not below its root."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._found: set[str] = set()

    def over(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The same tables; their rows are looked at as they pass."""
        for table in tables:
            uris = pc.unique(table["uri"])
            leads_out = pc.match_substring_regex(uris, r"^/|://|(^|/)\.\.(/|$)")
            for uri in uris.filter(leads_out).to_pylist():
                found = storage.resolve(self._root, uri)
                if not _is_below(found, [self._root]):
                    self._found.add(_place(found))
            yield table

    @property
    def roots(self) -> list[str]:
        """What was found so far, without those below others; at most ``MOST`` folders."""
        hosts = {place for place in self._found if not storage.is_local(place)}
        folders = self._found - hosts
        while len(folders) > MOST and (deepest := max(folder.count("/") for folder in folders)) > 1:
            folders = {posixpath.dirname(one) if one.count("/") == deepest else one for one in folders}
        return sorted(hosts) + sorted(one for one in folders if not _is_below(one, folders - {one}))


def _place(address: str) -> str:
    """The folder of a local file; the scheme and host (or bucket) of another address."""
    if storage.is_local(address):
        return posixpath.dirname(_normal(address))
    scheme, _, path = address.partition("://")
    return f"{scheme}://{path.partition('/')[0]}"


def _is_below(address: str, roots: Iterable[str]) -> bool:
    if _CHAINED.search(address):
        return False
    inside = f"{_normal(address)}/"
    return any(inside.startswith(_beginning(root)) for root in roots)


@lru_cache(MOST * 10)
def _beginning(root: str) -> str:
    """Of all normal addresses below a root; roots are few, and asked for again with every row."""
    return f"{_normal(root).rstrip('/')}/"


def _normal(address: str) -> str:
    """The address without ``.`` and ``..``, so that comparing its beginning says where it leads."""
    if storage.is_local(address):
        path = os.path.normpath(address.removeprefix("file://"))
        return f"/{path.lstrip('/')}" if path.startswith("/") else path
    scheme, _, path = address.partition("://")
    return f"{scheme}://{posixpath.normpath(path)}"
