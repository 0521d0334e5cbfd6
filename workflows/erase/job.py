"""``likeness erase``: people or faces are erased for ever: noted first, so that nothing brings them back, and then
removed from every artefact that is named, which scans prove and a receipt records. After a kill, the same command
completes.

Who is meant is found in ``asked``; what holds them is rewritten in ``removal``.
"""

from typing import Any

import numpy as np

from metric_core import storage
from metric_core.artefacts import erasing_faces, ids, tombstones
from metric_core.artefacts.erasing import Target
from metric_core.artefacts.faces import Faces
from metric_core.errors import ConfigError
from workflows.erase import artefacts, asked, lifting, receipt, removal
from workflows.erase.asked import Asked, Resolved
from workflows.erase.config import EraseConfig
from workflows.shared import provenance
from workflows.shared.console import say


def run(config: EraseConfig) -> dict[str, Any]:
    """Erase, prove it, and write the receipt; or lift an erasure.

    Returns:
        {receipt, people, faces, twins, removed: {address: {rows: count}}, files, copies}; ``faces`` counts faces that
        were there, ``copies`` faces that stay and have exactly the vector of an erased one. With ``lift`` {receipt,
        lifted}.

    Raises:
        DataError: somebody is not there, or the list or the receipt is none.
        ConfigError: nobody would remain, or a delta is given without what it is a delta of.
        JobRunning: another job writes one of the artefacts.
        JobFailed: a scan still finds somebody.
        Missing, Unfinished, Corrupt: of the artefacts and the tombstones.
    """
    if config.lift:
        return lifting.run(config)
    wanted = Asked.of(config)
    with artefacts.held(config) as found:
        faces = found.faces
        asked.require_bases(found.embeddings)
        folder = tombstones.existing(config.tombstones) if config.tombstones else tombstones.beside(faces.uri)
        who = asked.resolve(wanted, faces, found.embeddings, found.searches, tombstones.read(folder))
        _require_somebody_left(config, faces, who)
        request = _note(folder, faces, wanted, who)
        target, there_M = _target(folder, faces, wanted, who, request)
        sections = removal.remove(found, target, there_M)
        out = storage.absolute(config.receipt) if config.receipt else receipt.beside(folder)
        written = receipt.write(out, folder, faces.namespace, wanted, target, sections)
    return {
        "receipt": written,
        "people": len(wanted.names),
        "faces": len(np.unique(np.concatenate(who.there))),
        "twins": who.twins,
        "removed": {section.uri: section.rows for section in sections},
        "files": sum(len(section.files) for section in sections),
        "copies": sum(section.after.get("copies", 0) for section in sections),
    }


def show(result: dict[str, Any]) -> str:
    """The result as lines."""
    if "lifted" in result:
        return f"lifted: {result['lifted']} lists of tombstones\nreceipt: {result['receipt']}"
    lines = [f"{name}: {result[name]}" for name in ("people", "faces", "twins", "files", "copies")]
    for uri, rows in result["removed"].items():
        lines.append(f"{uri}: {', '.join(f'{count} {what}' for what, count in rows.items()) or 'see the receipt'}")
    return "\n".join([*lines, f"receipt: {result['receipt']}"])


def _require_somebody_left(config: EraseConfig, faces: Faces, who: Resolved) -> None:
    rows = faces.manifest.content["rows"]
    if rows and not who.left and not config.yes_all:
        raise ConfigError(
            f"{faces.uri}: all {rows} faces would be erased, and nothing would remain; give --yes-all if that is meant"
        )


def _note(folder: str, faces: Faces, wanted: Asked, who: Resolved) -> str:
    """Add the tombstones that are not there yet; returns the keyed hash of the request."""
    key = tombstones.prepare(folder)
    request = tombstones.keyed(key, [faces.namespace, list(wanted.names), wanted.face_id_M.tolist()])
    noted = tombstones.lists_of(folder, request).values()
    noted_M = np.unique(np.concatenate([ids.NONE, *(one["face_id"].drop_null().to_numpy() for one in noted)]))
    people = {person for one in noted for person in one["identity"].drop_null().to_pylist()}
    new_M = who.face_id_M[~ids.within(who.face_id_M, noted_M)]
    names = asked.spellings({*wanted.names, *who.spellings})
    new = [name for name in names if tombstones.person(key, faces.namespace, name) not in people]
    if len(new_M) or new:
        tombstones.add(folder, faces.namespace, face_ids=new_M.tolist(), identities=new, request=request)
    say(f"noted in {folder}: no catalogue, embedding or index takes them from now on")
    return request


def _target(folder: str, faces: Faces, wanted: Asked, who: Resolved, request: str) -> tuple[Target, np.ndarray]:
    """What to remove: everything that the tombstones leave out of the catalogue, earlier erasures included. With the
    sorted ids that the catalogue has of it."""
    erased = tombstones.read(folder)
    there_M, table = asked.still_erased(faces, erased)
    more_M = np.setdiff1d(there_M, erased.face_id_M)
    if len(more_M):
        more_M = np.union1d(more_M, asked.other_ids(faces, table))
        tombstones.add(folder, faces.namespace, face_ids=more_M.tolist(), request=request)
    target = Target(
        face_id_M=np.unique(np.concatenate([erased.face_id_M, more_M, who.face_id_M])),
        identities=frozenset(asked.spellings({*wanted.names, *who.spellings})),
        keys=frozenset(erasing_faces.own_words(table)),
        request=request,
        finished=provenance.now(),
    )
    return target, there_M
