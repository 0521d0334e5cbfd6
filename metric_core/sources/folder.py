"""An image tree: one folder a person, any nesting above it."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath

from metric_core import storage
from metric_core.errors import DataError
from metric_core.sources.found import Found, Source, some

IMAGE_ENDINGS = frozenset(
    [
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
    ]
)


def scan(root: str) -> Source:
    """The faces under a folder in byte order of their paths; the innermost folder's name is the identity.

    Raises:
        DataError: an image lies directly in the root, two folders in different places share a person's name, or images
            have names that are not UTF-8, or differ in their ending only, so that a face_id could go from one to the
            other; these are counted.
    """
    return Source(root=root, name=PurePosixPath(root).name or "faces", shards=[partial(_faces, root)])


def _faces(root: str, ignored: Counter[str]) -> Iterator[Found]:
    folder_of: dict[str, str] = {}
    taken: set[str] = set()
    alike: list[str] = []
    undecoded: list[str] = []
    for path, tag in storage.walk(root):
        place = PurePosixPath(path)
        if place.suffix.lower() not in IMAGE_ENDINGS:
            ignored[place.suffix.lower() or "(none)"] += 1
            continue
        try:
            path.encode()
        except UnicodeEncodeError:
            undecoded.append(ascii(path))
            continue
        folder = str(place.parent)
        if folder == ".":
            raise DataError(
                f"{root}/{path} lies in no person's folder; expected {root}/PERSON/{place.name}, or pass a "
                f"CSV list with columns path,identity as --source"
            )
        identity = place.parent.name
        if folder_of.setdefault(identity, folder) != folder:
            raise DataError(
                f"{root} holds two folders named {identity!r} ({folder_of[identity]} and {folder}): one person or "
                f"two? Rename one, or pass a CSV list with columns path,identity as --source"
            )
        key = str(place.with_suffix(""))
        if key in taken:
            alike.append(path)
            continue
        taken.add(key)
        yield Found(identity=identity, key=key, uri=path, content_tag=tag)
    if undecoded:
        raise DataError(
            f"{root} holds {len(undecoded)} pictures whose names are not UTF-8 ({some(undecoded)}): rename them, "
            f"convmv does that for whole folders"
        )
    if alike:
        raise DataError(
            f"{root} holds {len(alike)} pictures beside which another one differs in its ending only ({some(alike)}); "
            f"a face_id goes by the path without the ending, and these would share theirs: rename or remove one of "
            f"each, or pass a CSV list with columns path,identity,key as --source"
        )
