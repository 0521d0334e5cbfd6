"""The folder of a pipeline: what lies there, and what of it is still needed.

    WORK/faces-NNNNNN                catalogues, one per state of the source that a run has met
    WORK/embeddings-NNNNNN-MODEL     the embeddings of that catalogue by a model, named by 12 digits of its fingerprint:
                                     all faces in the first one, in the others what has changed since those before
    WORK/index                       the index; each version is of the embeddings of one model up to some number
    WORK/tombstones, WORK/receipts   what was erased, as `likeness erase` notes it
    WORK/report.html                 the page about the last run that did something

There is no other state: what is to be done follows from these artefacts, so that a run which was killed anywhere is
continued by the next one. A folder without a plan is what was left of one that was being removed.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from metric_core import storage
from metric_core.artefacts import manifest, tombstones
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.errors import Occupied

_FACES = re.compile(r"faces-(\d{6,})")
_EMBEDDINGS = re.compile(r"embeddings-(\d{6,})-([0-9a-f]{12})")
INDEX, PAGE, RECEIPTS = "index", "report.html", "receipts"
_DIGITS = 12


@dataclass(frozen=True, order=True)
class Place:
    """A catalogue, or the embeddings of one."""

    number: int
    """of the catalogue"""
    uri: str
    finished: bool
    model: str = ""
    """the first digits of the fingerprint; empty for a catalogue"""


@dataclass(frozen=True)
class Folder:
    """What lay in the folder when it was read."""

    uri: str
    faces: list[Place]
    """finished ones, in order"""
    embeddings: list[Place]
    """of all models, in order"""
    rubbish: list[str]
    """addresses of what a run that was killed has left, and no run continues"""

    @classmethod
    def read(cls, uri: str) -> "Folder":
        """Look at the names in the folder, which may not exist yet.

        Raises:
            Occupied: it holds something that is not a pipeline's.
        """
        inside = [name for name in storage.names(uri) if not name.startswith(".")]
        known = {INDEX, PAGE, RECEIPTS, tombstones.FOLDER}
        strange = [n for n in inside if n not in known and not _FACES.fullmatch(n) and not _EMBEDDINGS.fullmatch(n)]
        if strange:
            raise Occupied(
                f"{uri} holds {', '.join(strange[:3])}{' …' if len(strange) > 3 else ''}, which no pipeline made; give "
                f"--work an empty or a new folder"
            )
        faces: list[Place] = []
        embedded: list[Place] = []
        rubbish: list[Place] = []
        for name in inside:
            address = storage.join(uri, name)
            if found := _FACES.fullmatch(name):
                place = Place(int(found[1]), address, _has(address, manifest.NAME))
                # One that is unfinished is listed anew: the source may have changed.
                (faces if place.finished and _has(address, manifest.PLAN) else rubbish).append(place)
            elif found := _EMBEDDINGS.fullmatch(name):
                place = Place(int(found[1]), address, _has(address, manifest.NAME), found[2])
                (embedded if _has(address, manifest.PLAN) else rubbish).append(place)
        numbers = {place.number for place in faces}
        lost = [place for place in embedded if not place.finished and place.number not in numbers]
        kept = sorted(place for place in embedded if place not in lost)
        return cls(uri, sorted(faces), kept, [place.uri for place in [*rubbish, *lost]])

    @property
    def index(self) -> str:
        """The address of the index."""
        return storage.join(self.uri, INDEX)

    @property
    def tombstones(self) -> str:
        """The address of the tombstones."""
        return storage.join(self.uri, tombstones.FOLDER)

    @property
    def page(self) -> str:
        """The address of the page about the last run that did something."""
        return storage.join(self.uri, PAGE)

    @property
    def next_faces(self) -> str:
        """Where the next catalogue goes."""
        number = max([0, *(place.number for place in [*self.faces, *self.embeddings])]) + 1
        return storage.join(self.uri, f"faces-{number:06d}")

    def embeddings_of(self, faces: Place, fingerprint: str) -> str:
        """Where the embeddings of a catalogue by a model go."""
        return storage.join(self.uri, f"embeddings-{faces.number:06d}-{fingerprint[:_DIGITS]}")

    def chain(self, fingerprint: str) -> list[Embeddings]:
        """The finished embeddings by a model, which are read as one. Raises as ``Embeddings.open``."""
        return [Embeddings.open(one.uri) for one in self.embeddings if one.finished and _by(one, fingerprint)]

    def of_plans(self, plans: Collection[str]) -> list[Embeddings]:
        """The finished embeddings with these plan ids, of any model. Raises as ``Embeddings.open``."""
        found = [Embeddings.open(one.uri) for one in self.embeddings if one.finished]
        return [one for one in found if one.plan_id in plans]

    def interrupted(self, fingerprint: str) -> tuple[Place, Place] | None:
        """The embeddings by a model that were begun and not finished, and their catalogue; None if there are none."""
        begun = [one for one in self.embeddings if not one.finished and _by(one, fingerprint)]
        if not begun:
            return None
        return begun[-1], next(one for one in self.faces if one.number == begun[-1].number)

    def sweep(self, tell: Callable[[str], object]) -> "Folder":
        """Remove the rubbish; returns what lies there then. ``tell`` is called with one line for each."""
        for address in self.rubbish:
            tell(f"removing {address}, which an interrupted run has left")
            remove(address)
        return Folder.read(self.uri) if self.rubbish else self

    def unneeded(self, kept: Collection[str], catalogues: Collection[str], fingerprint: str) -> list[str]:
        """The addresses of embeddings and catalogues that nothing needs any more, embeddings first.

        Args:
            kept: plan ids of the embeddings that some version of the index consists of.
            catalogues: addresses of the catalogues that those versions name.
            fingerprint: of the model whose embeddings go on.
        """
        gone = [one for one in self.embeddings if one.finished and not _by(one, fingerprint)]
        gone = [one for one in gone if Embeddings.open(one.uri).plan_id not in kept]
        begun = {one.number for one in self.embeddings if not one.finished}  # which need their catalogues
        old = [one for one in self.faces[:-1] if one.number not in begun and one.uri not in catalogues]
        return [one.uri for one in [*gone, *old]]


def remove(address: str) -> None:
    """Remove a catalogue or embeddings; a run that is killed meanwhile leaves what the next one takes for rubbish."""
    for name in (manifest.PLAN, manifest.NAME):
        storage.remove(storage.join(address, name))
    storage.remove_tree(address)


def is_of(one: Embeddings, faces: Faces) -> bool:
    """Whether embeddings were made from a catalogue, or from what it was before an erasure."""
    return bool(one.manifest.content["faces_digest"] == faces.manifest.origin)


def _by(place: Place, fingerprint: str) -> bool:
    return place.model == fingerprint[:_DIGITS]


def _has(address: str, name: str) -> bool:
    return storage.exists(storage.join(address, name))
