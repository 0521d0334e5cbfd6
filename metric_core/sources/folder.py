"""An image tree: one folder per person, at any depth, or sidecars beside the pictures. Who it is, is in ``naming``."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import NamedTuple

from metric_core import storage
from metric_core.artefacts import keys
from metric_core.errors import DataError
from metric_core.options import storable
from metric_core.sources import bounds, naming
from metric_core.sources.found import SPECIAL, TWINS, Found, Notes, Scan, Source, first_few, read_landmarks

SHARDS = (".parquet", ".tar", ".rec")
BATCH = 512
"""Runs of files whose sidecars are read together."""


class _File(NamedTuple):
    path: str
    tag: str
    ending: str


def scan(root: str, level: int | None = None, unlabelled: bool = False) -> Source:
    """The faces under a folder in byte order of their paths.

    Keys are derived from paths by ``keys.of``.

    Args:
        root: address of the folder.
        level: which folder below the root names the person, see ``naming``.
        unlabelled: whether pictures may show nobody who is named.

    Raises:
        DataError: as ``naming.person``; or names of images are not UTF-8, and the message counts these; or there are
            no images but shards.
    """
    scan_all: Scan = partial(_faces, root, level, unlabelled)
    return Source(root, PurePosixPath(root).name or "faces", [scan_all], unlabelled=unlabelled)


def _faces(root: str, level: int | None, unlabelled: bool, notes: Notes) -> Iterator[Found]:
    undecoded: list[str] = []
    shards: list[str] = []
    runs = _runs(_files(root, notes, undecoded, shards))
    while batch := list(islice(runs, BATCH)):
        pictures = [found for run in batch for found in _keyed(run, notes)]
        sidecars = _Sidecars(root, batch, [picture.path for picture, _, _ in pictures])
        for picture, key, tag in pictures:
            shards.clear()  # they matter only if there are no pictures
            said = sidecars.of(picture.path)
            identity = naming.person(picture.path, said, notes.folders, level, root, unlabelled=unlabelled)
            points = said[".json"].landmarks if ".json" in said else None
            where = f"{root}: {keys.plain(picture.path)}.json"
            yield Found(identity, key, picture.path, tag, landmarks=read_landmarks(points, where))
        notes.ignored.update(sidecars.lone)
    if undecoded:
        raise DataError(
            f"{root} holds {len(undecoded)} pictures whose names are not UTF-8 ({first_few(undecoded)}); rename "
            f"them, for whole folders with the program convmv"
        )
    if shards:
        first = PurePosixPath(root, shards[0])
        raise DataError(
            f"{root} holds no pictures but {first_few(shards)}; give --source '{first.parent}/*{first.suffix}'"
        )


def _files(root: str, notes: Notes, undecoded: list[str], shards: list[str]) -> Iterator[_File]:
    """The pictures and sidecars."""
    for path, tag in storage.walk(root):
        ending = keys.ending(path).lower()
        if not tag:
            notes.ignored[SPECIAL] += 1
        elif ending not in keys.IMAGE_ENDINGS and ending not in naming.SIDECARS:
            notes.ignored[ending or "(none)"] += 1
            if ending in SHARDS:
                shards.append(path)
        elif storable(path):
            yield _File(path, tag, ending)
        elif ending in keys.IMAGE_ENDINGS:
            undecoded.append(ascii(path))
        else:
            notes.ignored[ending] += 1


def _runs(files: Iterable[_File]) -> Iterator[list[_File]]:
    """Runs of files whose paths are equal up to the first dot of the file's name. Twins are in one run with their
    sidecars, and so is a picture whose plain key is the path of a twin; folders that sort between them are, too. Most
    runs have one picture.
    """
    run: list[_File] = []
    beginning = ""
    for file in files:
        if run and not file.path.startswith(beginning):
            yield run
            run = []
        if not run:
            beginning = naming.up_to_first_dot(file.path) + "."
        run.append(file)
    if run:
        yield run


def _keyed(run: list[_File], notes: Notes) -> Iterator[tuple[_File, str, str]]:
    """The run's pictures, each with its key and its content tag."""
    pictures = [file for file in run if file.ending not in naming.SIDECARS]
    paths, tags = [picture.path for picture in pictures], [picture.tag for picture in pictures]
    names = [keys.plain(path) for path in paths]
    if len(set(names)) < len(names):
        names = keys.of(paths)
        notes.ignored[TWINS] += keys.count_with_ending(paths, names)
        tags = keys.distinct_tags(paths, names, tags)
    return zip(pictures, names, tags)


class _Sidecars:
    """The sidecars in some runs of files, read many at a time. A .txt is read only where it can name somebody."""

    def __init__(self, root: str, runs: list[list[_File]], pictures: list[str]) -> None:
        self._path_of: dict[str, str] = {}
        tag_of = {}
        for path, tag, ending in (file for run in runs for file in run if file.ending in naming.SIDECARS):
            remedy = f"{path} is another spelling of it; remove one"
            naming.enter(self._path_of, keys.plain(path) + ending, path, root, remedy)
            tag_of[path] = tag
        self._owned = {path: naming.sidecars_of(path, self._path_of) for path in pictures if self._path_of}
        used = {name for owned in self._owned.values() for name in owned.values()}
        self.lone = [keys.ending(name) for name in self._path_of if name not in used]
        """Endings of those that belong to no picture."""
        wanted = sorted(name for name in used if not name.endswith(".txt") or "/" not in name)
        for path in (self._path_of[name] for name in wanted):
            bounds.require_few(bounds.size_of("file", None, tag_of[path]), bounds.SIDECAR, storage.join(root, path))
        answers = storage.read_many([(storage.join(root, self._path_of[name]), 0, None) for name in wanted])
        self._read = {name: _sidecar(name, answer) for name, answer in zip(wanted, answers)}

    def of(self, picture: str) -> dict[str, naming.Sidecar]:
        """By ending, what the picture's sidecars say."""
        owned = self._owned.get(picture, {})
        return {ending: self._read[name] for ending, name in owned.items() if name in self._read}


def _sidecar(name: str, answer: storage.ReadResult) -> naming.Sidecar:
    if not isinstance(answer, bytes):
        raise DataError(f"{name} cannot be read: {answer}") from answer
    return naming.read_sidecar(keys.ending(name), answer)
