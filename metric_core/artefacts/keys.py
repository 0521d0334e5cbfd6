"""What a picture is called in its corpus: its key, of which the face_id is a hash.

Formats without keys of their own derive them from paths, by the rule in ``of``. How a key becomes an id is in
``faces``; which files of a source are pictures is left to its reader.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

IMAGE_ENDINGS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".apng",
    ".bmp",
    ".gif",
    ".ico",
    ".mpo",
    ".pbm",
    ".pgm",
    ".ppm",
    ".pnm",
    ".tif",
    ".tiff",
    ".webp",
    ".jp2",
    ".avif",
)
"""Endings of pictures, in lower case. Ids follow from their order (see ``of``): it never changes, and new ones come
last."""

NAMED_BY = ("key", "kind", "uri")
"""Columns of a catalogue that say what other keys a row's picture has as twins come and go."""

SPELLINGS = tuple(
    spelling for ending in IMAGE_ENDINGS for spelling in (ending, ending.upper(), f".{ending[1:].capitalize()}")
)
"""How those endings are usually spelled: ``.jpg``, ``.JPG`` and ``.Jpg``."""

_RANK = {ending: rank for rank, ending in enumerate(IMAGE_ENDINGS)}


def ending(path: str) -> str:
    """``.jpg`` of ``a/b.c.jpg``; empty where the file's name has no ending, as in ``a/.b`` and ``a.b/c``."""
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[dot:] if 0 < dot < len(name) - 1 else ""


def plain(path: str) -> str:
    """The path without its ending: the key of a picture that has no twin."""
    return path[: len(path) - len(ending(path))]


def of(paths: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """The keys of pictures, by their paths below the root of their source.

    The key of a picture is its path without the ending, ``ann/IMG_1``. Pictures of one folder whose names differ in
    the ending only (``IMG_1.jpg``, ``IMG_1.webp``, ``IMG_1.JPG``) are twins, and one of them has that key: the one
    whose ending, in lower case, comes first in ``IMAGE_ENDINGS`` (any other ending comes after those), and of several
    such the first in byte order. The key of every other twin is its path with the ending, ``ann/IMG_1.webp``.

    A path with its ending can be the plain key of another picture: ``ann/IMG_1.jpg`` is that of ``IMG_1.jpg.png``,
    which keeps it. The twin ``IMG_1.jpg`` then has the key ``ann/IMG_1.jpg/``; no path ends in a slash, so that keys
    differ where paths do.

    Whatever is added beside it, a picture without a twin keeps its key. That of a twin can change when a twin whose
    ending comes first is added or removed, or a picture whose plain key it has.

    Args:
        paths: in normal form; every picture that may be a twin of one of them must be among them.
        taken: keys that other pictures were given by name.
    """
    first: dict[str, str] = {}
    for path in paths:
        other = first.setdefault(plain(path), path)
        if other != path and _rank(path) < _rank(other):
            first[plain(path)] = path
    keys = []
    for path in paths:
        if first[plain(path)] == path:
            keys.append(plain(path))
        else:
            keys.append(f"{path}/" if path in first or path in taken else path)
    return keys


def carry_ending(paths: Sequence[str], keys: Sequence[str]) -> int:
    """How many of these pictures are twins that do not have the plain key."""
    return sum(key != plain(path) for path, key in zip(paths, keys))


def tags(paths: Sequence[str], keys: Sequence[str], tags: Sequence[str]) -> list[str]:
    """The content tags of pictures that are files of their own, after ``of`` gave them keys.

    A twin can take over the id of another one while their tags, size and time of the file, are equal; a delta would
    then take it for the other. The tag of a twin therefore carries its ending, unless the twin has the plain key and a
    tag that none of its twins has: it need not be embedded again only because a twin came.
    """
    alike = Counter(zip(map(plain, paths), tags))
    return [
        tag + ending(path) if key != plain(path) or alike[key, tag] > 1 else tag
        for path, key, tag in zip(paths, keys, tags)
    ]


def others(key: str, kind: str, uri: str) -> list[str]:
    """The other keys that the picture of a catalogue's row has as twins come and go; none where the row does not say
    the path that its key was derived from."""
    path = _path(key, kind, uri)
    return [] if path is None else [other for other in (plain(path), path, path + "/") if other != key]


def hides_ending(key: str, kind: str) -> bool:
    """Whether only the file itself says how a row's picture ends: it is in a tar, and the key is plain."""
    return kind == "tar" and not ending(key)


def plain_of_twin(key: str, kind: str, uri: str) -> str | None:
    """The plain key that another twin has, of a row whose key carries its ending; None for other rows."""
    path = _path(key, kind, uri)
    return None if path is None or key == plain(path) else plain(path)


def _rank(path: str) -> tuple[int, str]:
    return _RANK.get(ending(path).lower(), len(_RANK)), path


def _path(key: str, kind: str, uri: str) -> str | None:
    """The path that a row's key was derived from; None where the row does not say, or the key was given by name."""
    known = key.removesuffix("/")
    if kind == "tar":  # the names of samples end before their first dot
        return known if ending(known) else None
    if kind != "file":
        return None
    if uri in (key + ending(uri), known):
        return uri
    uri = str(PurePosixPath(uri))  # of a list: as it is written there, and perhaps absolute
    return next((path for path in (key + ending(uri), known) if uri == path or uri.endswith(f"/{path}")), None)
