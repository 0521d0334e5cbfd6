"""Removes erased faces from the artefacts that a command names, one after the other, and proves it by scans.

The catalogue comes last: it is what says whose faces the others hold, so that a command that was killed finds them
again.

Shape letters: M erased faces.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from metric_core import storage
from metric_core.artefacts import erasing, erasing_embeddings, erasing_faces, erasing_proof, ids, manifest, matches
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.erasing import Erased, FileChange, Target
from metric_core.artefacts.erasing_proof import Found
from metric_core.errors import JobFailed
from workflows.erase.artefacts import Artefacts
from workflows.shared.console import say

Erase = Callable[[Target], Erased]


@dataclass
class Section:
    """What was done to one artefact, as receipts have it."""

    uri: str
    kind: str
    rows: dict[str, int] = field(default_factory=dict)
    """Rows removed, by what they were rows of, in all runs of this request."""
    files: list[FileChange] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    """Figures of the scan before."""
    after: dict[str, Any] = field(default_factory=dict)
    """Figures of the scan afterwards."""


@dataclass(frozen=True)
class _Step:
    """An artefact to erase from."""

    uri: str
    kind: str
    erase: Erase
    finished: bool = True


def remove(found: Artefacts, target: Target, there_M: np.ndarray) -> list[Section]:
    """Remove everybody in ``target`` from all artefacts; what was done to each.

    Args:
        found: the artefacts.
        target: whom to remove.
        there_M: int64, sorted: the faces that the catalogue has of them, which the scan must find.

    Raises:
        JobFailed: a scan missed somebody before, or finds somebody afterwards.
        Corrupt: an artefact is damaged.
    """
    of_index = [_of_index(uri, target) for uri in found.indexes]  # first: an index answers, the others only store
    steps = list(_steps(found))
    scans: dict[str, Found] = {}
    vectors: dict[bytes, set[bytes]] = {}
    for step in steps:
        scans[step.uri] = erasing_proof.scan(step.uri, target)
        for first, digests in scans[step.uri].vectors.items():
            vectors.setdefault(first, set()).update(digests)
    there = {found.faces.uri: there_M} | {source.manifest.uri: _inputs(source, target) for source in found.embeddings}
    for uri, id_M in there.items():
        _require_seen(uri, id_M, scans[uri])
    return [*of_index, *(_of(step, target, scans[step.uri], vectors) for step in steps)]


def _steps(found: Artefacts) -> Iterator[_Step]:
    for search in found.searches:
        yield _Step(search.uri, "matches", partial(matches.erase, search))
    for uri in found.unfinished:
        yield _Step(uri, "embeddings", partial(erasing_embeddings.erase_unfinished, uri), finished=False)
    for source in found.embeddings:
        yield _Step(source.manifest.uri, "embeddings", partial(erasing_embeddings.erase, source))
    yield _Step(found.faces.uri, "faces", partial(erasing_faces.erase, found.faces))


def _of(step: _Step, target: Target, before: Found, vectors: dict[bytes, set[bytes]]) -> Section:
    """Erase from one artefact, and look whether anybody is left."""
    step.erase(replace(target, before=before.figures()))
    section = Section(step.uri, step.kind, before=before.figures())
    if step.finished:
        noted = erasing.recorded(manifest.read(step.uri, step.kind), target.request)
        section.rows, section.files = dict(sorted(noted.rows.items())), noted.files
        section.before = noted.before or section.before
    return _proved(section, erasing_proof.scan(step.uri, target, vectors))


def _of_index(uri: str, target: Target) -> Section:
    """The same for an index: every version of it, and what lies beside them."""
    from metric_core.index import erase, erase_scan  # import FAISS, which commands without an index do without

    names = sorted(target.identities)
    before = erase_scan.scan(uri, target.face_id_M, names)
    how = {"request": target.request, "finished": target.finished}
    changes = erase.erase(uri, target.face_id_M, names, say, **how)
    section = Section(uri, "index", files=list(changes), before=before.figures())
    return _proved(section, erase_scan.scan(uri, target.face_id_M, names, before))


def _proved(section: Section, after: Found) -> Section:
    """The section with the figures of the scan afterwards. Raises JobFailed if it found somebody."""
    if after.total:
        places = ", ".join(f"{count} in {place}" for place, count in sorted(after.places.items()))
        raise JobFailed(
            f"{section.uri}: a scan still finds {after.total} traces of who was erased ({places}); they stay left out "
            f"everywhere; start the same command again, and if that does not help, remove these files"
        )
    section.after = after.figures()
    storage.forget(change.before for change in section.files if change.before)
    say(f"{section.uri}: {section.before['occurrences']} traces found before, none in {after.files} files afterwards")
    if len(after.copies_M):
        some = ", ".join(map(str, after.copies_M[:5].tolist()))
        say(
            f"{section.uri}: {len(after.copies_M)} other faces have exactly the vector of an erased one, as copies of "
            f"one picture do ({some}); erase them with --face-id if they are"
        )
    return section


def _require_seen(uri: str, there_M: np.ndarray, before: Found) -> None:
    """Raises JobFailed if a scan did not find everybody who is there by the artefact's own reader."""
    missed_M = np.setdiff1d(there_M, before.face_id_M)
    if len(missed_M):
        raise JobFailed(
            f"{uri}: a scan does not find {len(missed_M)} of the faces to erase, so it could not prove that they are "
            f"gone; nothing was removed from it; please report this"
        )


def _inputs(source: Embeddings, target: Target) -> np.ndarray:
    """int64 (M,): the erased faces that went into embeddings."""
    inputs = (table["face_id"].to_numpy() for table in source.iter_tags())
    return np.concatenate([ids.NONE, *(id_N[target.has(id_N)] for id_N in inputs)])
