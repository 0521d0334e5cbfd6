"""The receipt of an erasure: what was done, when, and how it was proved, without the names and ids of whom it was
about.

It is a JSON file and a page with the same. A seal, made with the tombstones' key, tells that it is as it was written
and belongs to these tombstones; ``lifting`` needs it.
"""

import html
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from metric_core import storage
from metric_core.artefacts import tombstones
from metric_core.artefacts.erasing import Target
from metric_core.errors import DataError
from workflows.erase.asked import Asked
from workflows.erase.removal import Section

FOLDER = "receipts"
KIND = "likeness erasure"
MOST = 1 << 30
"""Most bytes of a receipt."""
NOT_COVERED = (
    "the pictures themselves, wherever the catalogue found them: delete them there",
    "backups and other copies of the artefacts, and what was exported from them to files or vector databases",
    "artefacts that were not named in the command",
    "old versions that an object store keeps: where versioning, replication or object lock is on, delete the noncurrent"
    " versions of the files listed here, and let a lifecycle rule expire them",
    "models that were trained on the pictures, and their checkpoints: train again without them",
    "MLflow runs, logs, shell histories and the command lines that other machines recorded",
    "blocks of a disk that a deleted file lay on: encrypt the disk, or wipe its free space",
)
"""What an erasure does not reach."""


def beside(folder: str) -> str:
    """Where receipts lie by default: in the folder ``receipts`` next to the tombstones."""
    return storage.join(folder.rpartition("/")[0], FOLDER)


def write(out: str, folder: str, namespace: str, wanted: Asked, target: Target, sections: list[Section]) -> str:
    """Write the receipt of a request, or add to the one that an earlier run of it wrote; returns the JSON's address.

    Args:
        out: folder for it.
        folder: the tombstones.
        namespace: of the faces.
        wanted: whom the request names.
        target: what was removed.
        sections: what was done to each artefact.
    """
    key = tombstones.prepare(folder)
    address = storage.join(out, f"receipt-{target.request[:16]}.json")
    earlier = read(address, folder)["artefacts"] if storage.exists(address) else []
    done = {one["uri"]: one for one in earlier}
    # In a run that found nothing left to do, an earlier one did it.
    done |= {section.uri: asdict(section) for section in sections if section.files or section.uri not in done}
    body = {
        "kind": KIND,
        "request": target.request,
        "finished": target.finished,
        "people": sorted(tombstones.person(key, namespace, name) for name in wanted.names),
        "single_faces": len(wanted.face_id_M),
        "tombstones": {
            "check": tombstones.check_value(folder),
            "lists": sorted(tombstones.lists_of(folder, target.request)),
        },
        "artefacts": [done[uri] for uri in sorted(done)],
        "not_covered": list(NOT_COVERED),
    }
    body["seal"] = tombstones.keyed(key, body)
    storage.write_bytes(address, json.dumps(body, indent=2, ensure_ascii=False).encode() + b"\n")
    storage.write_bytes(f"{address.removesuffix('.json')}.html", page(body).encode())
    return address


def read(address: str, folder: str) -> dict[str, Any]:
    """A receipt, if it is as it was written and belongs to these tombstones.

    Raises:
        Missing: there is no such file.
        DataError: it is no receipt, was edited, or belongs to other tombstones.
    """
    try:
        body: dict[str, Any] = json.loads(storage.read_bytes(address, most=MOST))
        kind, seal, noted = body.pop("kind"), body.pop("seal"), body["tombstones"]
        check, lists = noted["check"], noted["lists"]
        if kind != KIND or not all(isinstance(one, str) for one in lists):
            raise ValueError(f"its kind is {kind!r}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{address} is no receipt of an erasure ({error!r}); give the JSON file of one") from error
    if not storage.exists(folder) or check != tombstones.check_value(folder):
        raise DataError(f"{address} belongs to other tombstones than {folder}; give the Faces that it was written for")
    if seal != tombstones.keyed(tombstones.prepare(folder), {"kind": kind, **body}):
        raise DataError(f"{address} is not as it was written: its seal does not match; restore it from a copy")
    return {"kind": kind, **body}


def page(body: Mapping[str, Any]) -> str:
    """The receipt as a page that needs no other file."""
    people = "".join(f"<li><code>{_text(person)}</code></li>" for person in body["people"])
    uncovered = "".join(f"<li>{_text(one)}</li>" for one in body["not_covered"])
    sections = "".join(map(_section, body["artefacts"]))
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Receipt of an erasure</title>
<style>body{{font:15px/1.5 sans-serif;max-width:70em;margin:2em auto;padding:0 1em}}table{{border-collapse:collapse}}
td,th{{border:1px solid #bbb;padding:.2em .6em;text-align:left}}code{{font-size:85%;overflow-wrap:anywhere}}</style>
<h1>Receipt of an erasure</h1>
<p>Finished {_text(body["finished"])}. Request <code>{_text(body["request"])}</code>, sealed
<code>{_text(body["seal"])}</code>.</p>
<h2>Who</h2>
<p>{len(body["people"])} people, by the keyed hash of their name, and {body["single_faces"]} single faces.</p>
<ul>{people}</ul>
<h2>What</h2>{sections}
<h2>What this does not cover</h2><ul>{uncovered}</ul></html>
"""


def _section(section: Mapping[str, Any]) -> str:
    rows = ", ".join(f"{count} {_text(what)}" for what, count in section["rows"].items()) or "see the files"
    files = "".join(
        f"<tr><td>{_text(file['address'])}<td><code>{_text(file['before'] or '–')}</code>"
        f"<td><code>{_text(file['after'] or 'removed')}</code>"
        for file in section["files"]
    )
    proof = "".join(
        f"<tr><th>{when}<td>{found['occurrences']}<td>{found['faces']}<td>{found['files']}<td>{found['bytes']}"
        for when, found in (("before", section["before"]), ("afterwards", section["after"]))
        if found
    )
    head = "<tr><th>scan<th>traces found<th>faces found<th>files read<th>bytes read"
    return (
        f"<h3>{_text(section['kind'])}: {_text(section['uri'])}</h3><p>Removed: {rows}.</p>"
        f"<table>{head if proof else ''}{proof}</table>"
        f"<details><summary>{len(section['files'])} files</summary><table><tr><th>file<th>sha256 before<th>sha256 now"
        f"{files}</table></details>"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))
