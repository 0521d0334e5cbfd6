"""Keys: the name of a picture in its corpus, of which the face_id is a hash.

Formats without keys derive them from paths by the rule in ``of``. How a key becomes an id is in ``faces``; which files
of a source are pictures is decided by its reader.
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
"""Endings of pictures, in lower case. Ids depend on their order (see ``of``), so it never changes and new ones are
added at the end."""

NAMED_BY = ("key", "kind", "uri")
"""Columns of a catalogue that determine which other keys a row's picture can have; see ``others``."""

SPELLINGS = tuple(
    spelling for ending in IMAGE_ENDINGS for spelling in (ending, ending.upper(), f".{ending[1:].capitalize()}")
)
"""How those endings are usually spelled: ``.jpg``, ``.JPG`` and ``.Jpg``."""

_RANK = {ending: rank for rank, ending in enumerate(IMAGE_ENDINGS)}


def ending(path: str) -> str:
    """``.jpg`` of ``a/b.c.jpg``; empty if the file's name has no ending, as in ``a/.b`` and ``a.b/c``."""
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[dot:] if 0 < dot < len(name) - 1 else ""


def plain(path: str) -> str:
    """The path without its ending: the key of a picture that has no twin."""
    return path[: len(path) - len(ending(path))]


def of(paths: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """The keys of pictures, from their paths below the root of their source.

    The key of a picture is its path without the ending, ``ann/IMG_1``. Pictures of one folder whose names differ in
    the ending only (``IMG_1.jpg``, ``IMG_1.webp``, ``IMG_1.JPG``) are twins, and only one of them has that key: the one
    whose ending, in lower case, is first in ``IMAGE_ENDINGS`` (other endings come after those); if several have that
    ending, the first in byte order. The key of every other twin is its path with the ending, ``ann/IMG_1.webp``.

    A path with its ending can be the plain key of another picture: ``ann/IMG_1.jpg`` is the key of ``IMG_1.jpg.png``,
    which keeps it. The twin ``IMG_1.jpg`` then has the key ``ann/IMG_1.jpg/``. No path ends in a slash, so different
    paths have different keys.

    A picture without a twin keeps its key, whatever other pictures are added. The key of a twin can change when a twin
    whose ending has precedence is added or removed, or a picture whose plain key equals it.

    Args:
        paths: in normal form; all twins of a picture must be among them.
        taken: keys that are given explicitly to other pictures.
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


def count_with_ending(paths: Sequence[str], keys: Sequence[str]) -> int:
    """How many of these pictures are twins that do not have the plain key."""
    return sum(key != plain(path) for path, key in zip(paths, keys))


def distinct_tags(paths: Sequence[str], keys: Sequence[str], tags: Sequence[str]) -> list[str]:
    """The content tags of pictures in files of their own, given the keys from ``of``: different for twins.

    A twin can take over the id of another one, and their tags (size and time of the file) can be equal; a delta would
    then not embed it again. So the ending is added to the tag of a twin, unless the twin has the plain key and none of
    its twins has the same tag: such a picture is not embedded again only because a twin was added.
    """
    alike = Counter(zip(map(plain, paths), tags))
    return [
        tag + ending(path) if key != plain(path) or alike[key, tag] > 1 else tag
        for path, key, tag in zip(paths, keys, tags)
    ]


def others(key: str, kind: str, uri: str) -> list[str]:
    """The other keys that a catalogue row's picture has when twins are added or removed; none if the row does not say
    which path its key was derived from."""
    path = _path(key, kind, uri)
    return [] if path is None else [other for other in (plain(path), path, path + "/") if other != key]


def hides_ending(key: str, kind: str) -> bool:
    """Whether only the file itself says how a row's picture ends: it is in a tar, and the key is plain."""
    return kind == "tar" and not _ends_as_picture(key)


def plain_of_twin(key: str, kind: str, uri: str) -> str | None:
    """For a row whose key has the ending, the plain key, which another twin has; None for other rows."""
    path = _path(key, kind, uri)
    return None if path is None or key == plain(path) else plain(path)


def _rank(path: str) -> tuple[int, str]:
    return _RANK.get(ending(path).lower(), len(_RANK)), path


def _ends_as_picture(key: str) -> bool:
    return ending(key).lower() in IMAGE_ENDINGS


def _path(key: str, kind: str, uri: str) -> str | None:
    """The path that a row's key was derived from; None if it cannot be known or the key was given explicitly."""
    known = key.removesuffix("/")
    if kind == "tar":  # a plain key ends before a dot, but for names with several, 0.05 of 0.05.png
        return known if _ends_as_picture(known) else None
    if kind != "file":
        return None
    if uri in (key + ending(uri), known):
        return uri
    uri = str(PurePosixPath(uri))  # from a list: as written there, perhaps absolute
    return next((path for path in (key + ending(uri), known) if uri == path or uri.endswith(f"/{path}")), None)
