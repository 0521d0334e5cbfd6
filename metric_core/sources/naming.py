"""Who a picture shows: one rule for every format, and what makes a name sound.

    format         a person is named by
    list, Parquet  the column identity, in Parquet with pictures also label
    RecordIO       the record's label
    folder, tar    the folder at --person-level, if it is given; else the sidecar .cls; else identity or label in the
                   sidecar .json; else the innermost folder; of a picture in no folder, the sidecar .txt if it is one
                   word

In an unlabelled corpus (--unlabelled), a picture shows whom its column or its sidecar .cls or .json names, and nobody
where there is none: no folder and no caption names a person there.

A sidecar belongs to the pictures whose name without its last ending is the sidecar's own, ``0.05.json`` to
``0.05.png``; else, as WebDataset cuts names, to those that agree with it up to the first dot. Where either stands in a
tar does not matter. Names are compared in Unicode's form NFC and stored as they were found.
"""

import json
import unicodedata
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from metric_core.artefacts import keys
from metric_core.errors import DataError
from metric_core.options import storable
from metric_core.sources import bounds

SIDECARS = (".cls", ".json", ".txt")
"""Endings of files that say something about the picture beside them, in order of precedence."""

INSTEAD = "pass a CSV list with columns path,identity as --source"
UNLABELLED = "pass --unlabelled if nobody is named"


_Place = TypeVar("_Place")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a file beside a picture says. Whether it can be used matters only if it belongs to a picture."""

    names: bool = False
    """Whether it names somebody."""
    identity: Any = None
    """As it is stored, which may be no name."""
    landmarks: Any = None
    problem: str = ""
    """Why the file cannot be read; ``{}`` stands for the name of the picture."""

    @property
    def blank(self) -> bool:
        """Whether there is room for a name but none in it."""
        return self.identity is None or (isinstance(self.identity, str) and not self.identity.strip())


def read_sidecar(ending: str, data: bytes) -> Sidecar:
    """What the bytes of a sidecar with this ending say."""
    if len(data) > bounds.SIDECAR:
        return Sidecar(problem=f"a sidecar of {{}} has over {bounds.SIDECAR} bytes; it is damaged, or something else")
    try:
        text = data.decode().strip()
        if ending != ".json":
            return Sidecar(names=bool(text), identity=text)
        fields = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        return Sidecar(problem=f"a sidecar of {{}} is not text or not JSON: {' '.join(str(error).split())}")
    if not isinstance(fields, dict):
        return Sidecar(problem=f"{{}}.json holds {str(fields)[:40]}; expected an object")
    label = next((name for name in ("identity", "label") if name in fields), None)
    return Sidecar(label is not None, fields.get(label), fields.get("landmarks"))


def sidecars_of(picture: str, there: Container[str]) -> dict[str, str]:
    """{ending: name} of the sidecars that belong to a picture, from the names that are there."""
    own, cut = keys.plain(picture), up_to_first_dot(picture)
    found = {}
    for ending in SIDECARS:
        if own + ending in there:
            found[ending] = own + ending
        elif cut + ending in there:
            found[ending] = cut + ending
    return found


def enter(place_of: dict[str, _Place], name: str, place: _Place, where: str, remedy: str) -> None:
    """Note where a file with this name is. Raises DataError, with the remedy, if there is one already."""
    if name in place_of:
        raise DataError(f"{where} holds {name} twice: which one counts? {remedy}")
    place_of[name] = place


def up_to_first_dot(path: str) -> str:
    """``a/0`` of ``a/0.05.png``: WebDataset's name of a sample."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.partition(".")[0]


class Folders:
    """The folders that name people, over all shards of a source.

    A folder's name is refused where it may not be the person's: two folders have the same name, a folder with pictures
    lies in another one, or sidecars name other pictures in it.
    """

    def __init__(self) -> None:
        self._named: dict[str, str] = {}
        """The folder by its name."""
        self._above: dict[str, str] = {}
        """One of the folders that name people, by every folder that it lies in."""
        self._labelled: dict[str, tuple[str, str]] = {}
        """The first picture that a sidecar names otherwise than its folder, and its identity, by its folder."""
        self._last = ""

    def name(self, folder: str, where: str) -> str:
        """The name of the folder. Raises DataError if it may not be a person's."""
        identity = folder[folder.rfind("/") + 1 :]
        if folder == self._last:
            return identity
        if (other := self._named.setdefault(identity, folder)) != folder:
            raise _twice(identity, other, folder, where)
        parents = [folder[:at] for at, letter in enumerate(folder) if letter == "/" and at]
        for above in parents:
            if self._named.get(above[above.rfind("/") + 1 :]) == above:
                raise _nested(above, folder, where)
            self._above.setdefault(above, folder)
        if folder in self._above:
            raise _nested(folder, self._above[folder], where)
        if folder in self._labelled:
            raise _half(folder, self._labelled[folder][0], where)
        self._last = folder
        return identity

    def label(self, picture: str, identity: str, where: str) -> None:
        """Note that a sidecar names this picture. Raises DataError if the folder names another picture in it."""
        folder, _, _ = picture.rpartition("/")
        if not folder or folder in self._labelled or identity == folder[folder.rfind("/") + 1 :]:
            return
        self._labelled[folder] = picture, identity
        if self._named.get(folder[folder.rfind("/") + 1 :]) == folder:
            raise _half(folder, picture, where)

    @property
    def overruled(self) -> list[str]:
        """The folders whose name is not the person's, because sidecars name the pictures in them."""
        return list(self._labelled)

    def update(self, others: "Folders", where: str) -> None:
        """Add those of another shard. Raises DataError as ``name`` and ``label`` do."""
        for folder in others._named.values():
            self.name(folder, where)
        for picture, identity in others._labelled.values():
            self.label(picture, identity, where)


def person(
    picture: str,
    said: Mapping[str, Sidecar],
    folders: Folders,
    level: int | None,
    where: str,
    *,
    unlabelled: bool = False,
) -> str | None:
    """The identity of a picture in a folder or a tar; None only in an unlabelled corpus.

    Args:
        picture: path below the source's root.
        said: its sidecars by ending.
        folders: of the whole source.
        level: which folder names the person, counted from 1 at the root; None: see the module's rule.
        where: the source, for messages.
        unlabelled: whether pictures may show nobody who is named.

    Raises:
        DataError: nothing names the person, what does is no name, or a sidecar cannot be read.
    """
    folder, _, name = picture.rpartition("/")
    _check(picture, [said[ending] for ending in (".cls", ".json") if ending in said], where)
    if level is not None:
        return folders.name(_at_level(picture, level, where), where)
    for ending in (".cls", ".json"):
        if ending in said and said[ending].names and not (unlabelled and said[ending].blank):
            identity = _name(said[ending].identity, f"{where}: {keys.plain(picture)}{ending}")
            if not unlabelled:
                folders.label(picture, identity, where)
            return identity
    if unlabelled:
        return None
    if folder.strip("/"):
        return folders.name(folder, where)
    caption = said.get(".txt", Sidecar())
    _check(picture, [caption], where)
    if caption.names and len(caption.identity.split()) == 1:
        return str(caption.identity)
    stem = keys.plain(picture)
    raise DataError(
        f"{where}: {stem} has no identity; expected {stem}.cls, {stem}.json with identity or label, or {where}/PERSON/"
        f"{name}, but it is not in a person's folder; or {INSTEAD}, or {UNLABELLED}"
    )


def compared(identity: str) -> str:
    """The form in which identities are compared: Unicode's NFC."""
    return identity if identity.isascii() else unicodedata.normalize("NFC", identity)


def folded(identity: str) -> str:
    """The same for identities that differ only in their Unicode form or in case."""
    return compared(compared(identity).casefold())


def _check(picture: str, said: list[Sidecar], where: str) -> None:
    for sidecar in said:
        if sidecar.problem:
            raise DataError(f"{where}: {sidecar.problem.replace('{}', keys.plain(picture), 1)}")


def _name(identity: Any, where: str) -> str:
    text = "" if isinstance(identity, bool) or not isinstance(identity, str | int) else str(identity)
    if not text.strip() or "\0" in text or not storable(text):
        raise DataError(f"{where} has the identity {identity!r}; expected a name or number")
    return text


def _at_level(picture: str, level: int, where: str) -> str:
    parts = picture.lstrip("/").split("/")[:-1]
    if len(parts) < level:
        raise DataError(
            f"{where}: {picture} lies in {len(parts)} folders, so none at --person-level {level} names the person; "
            f"move it, or {INSTEAD}"
        )
    return "/".join(parts[:level])


def _twice(identity: str, first: str, second: str, where: str) -> DataError:
    pairs = zip(first.strip("/").split("/"), second.strip("/").split("/"))
    level, (one, two) = next(((n, pair) for n, pair in enumerate(pairs, start=1) if pair[0] != pair[1]), (1, ("", "")))
    instead = f"pass --person-level {level} if {one} and {two} are people; else r" if two != identity != one else "R"
    return DataError(
        f"{where} holds two folders named {identity!r} ({first} and {second}): one person or two? "
        f"{instead[:1].upper()}{instead[1:]}ename one folder, or {INSTEAD}"
    )


def _nested(above: str, folder: str, where: str) -> DataError:
    level = above.strip("/").count("/") + 1
    return DataError(
        f"{where}: pictures lie in the folder {above} and in {folder} below it: which one is the person? Pass "
        f"--person-level {level} if it is {above}; else move the pictures, or {INSTEAD}"
    )


def _half(folder: str, picture: str, where: str) -> DataError:
    return DataError(
        f"{where}: a sidecar names the person of {picture}, but other pictures in {folder} have none; give each "
        f"picture one, or pass --person-level {folder.strip('/').count('/') + 1} if the folder is the person"
    )
