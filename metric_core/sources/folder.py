"""An image tree: one folder per person, at any depth."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

from metric_core import storage
from metric_core.artefacts import keys
from metric_core.errors import DataError
from metric_core.sources.found import TWINS, Found, Source, first_few


class _Picture(NamedTuple):
    uri: str
    place: PurePosixPath
    tag: str


def scan(root: str) -> Source:
    """The faces under a folder in byte order of their paths; the innermost folder's name is the identity.

    Keys are derived from paths by ``keys.of``.

    Raises:
        DataError: an image is directly in the root, two folders have the same name, or names of images are not UTF-8;
            the message counts these.
    """
    return Source(root=root, name=PurePosixPath(root).name or "faces", shards=[partial(_faces, root)])


def _faces(root: str, ignored: Counter[str]) -> Iterator[Found]:
    undecoded: list[str] = []
    for run in _runs(_pictures(root, ignored, undecoded)):
        paths, tags = [str(picture.place) for picture in run], [picture.tag for picture in run]
        names = [keys.plain(path) for path in paths]
        if len(set(names)) < len(names):
            names = keys.of(paths)
            ignored[TWINS] += keys.count_with_ending(paths, names)
            tags = keys.distinct_tags(paths, names, tags)
        for picture, key, tag in zip(run, names, tags):
            yield Found(identity=picture.place.parent.name, key=key, uri=picture.uri, content_tag=tag)
    if undecoded:
        raise DataError(
            f"{root} holds {len(undecoded)} pictures whose names are not UTF-8 ({first_few(undecoded)}); rename "
            f"them, for whole folders with the program convmv"
        )


def _pictures(root: str, ignored: Counter[str], undecoded: list[str]) -> Iterator[_Picture]:
    folder_of: dict[str, str] = {}
    for path, tag in storage.walk(root):
        place = PurePosixPath(path)
        if place.suffix.lower() not in keys.IMAGE_ENDINGS:
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
                f"{root}/{path} is not in a person's folder; expected {root}/PERSON/{place.name}, or pass a "
                f"CSV list with columns path,identity as --source"
            )
        identity = place.parent.name
        if folder_of.setdefault(identity, folder) != folder:
            raise DataError(
                f"{root} holds two folders named {identity!r} ({folder_of[identity]} and {folder}): one person or "
                f"two? Rename one folder, or pass a CSV list with columns path,identity as --source"
            )
        yield _Picture(path, place, tag)


def _runs(pictures: Iterable[_Picture]) -> Iterator[list[_Picture]]:
    """Runs of pictures whose paths are equal up to the first dot of the file's name. Twins are in one run, and so is a
    picture whose plain key is the path of a twin; folders that sort between them are, too. Most runs have one picture.
    """
    run: list[_Picture] = []
    beginning = ""
    for picture in pictures:
        if run and not picture.uri.startswith(beginning):
            yield run
            run = []
        if not run:
            folder, slash, name = picture.uri.rpartition("/")
            beginning = folder + slash + name.partition(".")[0] + "."
        run.append(picture)
    if run:
        yield run
