"""Manifests: the file that turns a folder into an artefact, written last and atomically.

``content`` is a pure function of inputs and config and is what the digest covers; ``provenance`` (times, hosts,
run ids) is not. What a kind's content holds is decided by the job that writes it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metric_core import storage
from metric_core.errors import Corrupt, Missing, Occupied, SchemaMismatch, Unfinished

FORMAT = 1
NAME = "manifest.json"
PLAN = "plan.json"


@dataclass(frozen=True)
class Manifest:
    """A finished artefact's description."""

    uri: str
    """The folder it lies in."""
    kind: str
    """faces, model, embeddings, index or matches."""
    content: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """sha256 of the canonical content: equal for equal inputs and config."""
        return digest(self.content)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces; NaN is refused, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """sha256 hex of ``canonical(value)``."""
    return hashlib.sha256(canonical(value)).hexdigest()


def begin(uri: str, kind: str, plan: Mapping[str, Any]) -> Manifest | None:
    """Claim an output folder for a job whose result is a pure function of ``plan``.

    Returns the manifest when the same job has already finished there, else None: start, or continue what an
    interrupted run of the same plan left.

    Raises:
        Occupied: the folder holds something that is not this job's.
    """
    inside = [name for name in storage.names(uri) if not name.startswith(".")]  # those are temporary
    if not inside:
        storage.create_if_absent(storage.join(uri, PLAN), _pretty({"kind": kind, "plan": dict(plan)}))
    elif PLAN not in inside:
        raise Occupied(
            f"{uri} holds {', '.join(inside[:3])}{'…' if len(inside) > 3 else ''} but no {PLAN}: not the output of "
            f"an earlier run; give --out an empty or a new folder"
        )
    found = json.loads(storage.read_bytes(storage.join(uri, PLAN)))
    if found["kind"] != kind:
        raise Occupied(f"{uri} holds {found['kind']}, not {kind}; give --out another folder")
    wanted = json.loads(canonical(plan))
    if found["plan"] != wanted:
        names = sorted(set(found["plan"]) | set(wanted))
        differ = [n for n in names if found["plan"].get(n) != wanted.get(n)]
        changes = "; ".join(f"{n}: {found['plan'].get(n)!r} there, {wanted.get(n)!r} here" for n in differ)
        raise Occupied(f"{uri} was begun with other arguments ({changes}); repeat those or give --out another folder")
    return read(uri, kind) if NAME in inside else None


def write(uri: str, kind: str, content: Mapping[str, Any], provenance: Mapping[str, Any]) -> Manifest:
    """Finish an artefact: everything else must already be in place."""
    made = Manifest(uri, kind, dict(content), dict(provenance))
    body = {
        "format": FORMAT,
        "kind": kind,
        "digest": made.digest,
        "content": made.content,
        "provenance": made.provenance,
    }
    storage.write_bytes(storage.join(uri, NAME), _pretty(body))
    return made


def read(uri: str, kind: str) -> Manifest:
    """The manifest of a finished artefact.

    Raises:
        Missing: nothing is at the address.
        Unfinished: the folder has no manifest yet.
        Corrupt: the manifest's digest does not fit its content.
        SchemaMismatch: it is an artefact of another kind or of a newer format.
    """
    address = storage.join(uri, NAME)
    if not storage.exists(address):
        if not storage.exists(uri):
            raise Missing(f"{uri}: nothing is there; a finished {kind} artefact was expected")
        raise Unfinished(
            f"{uri} has no {NAME}: it is unfinished or no {kind} artefact; start the job that writes it again with "
            f"the same arguments and it continues"
        )
    body = parse(storage.read_bytes(address), address)
    if body["kind"] != kind:
        raise SchemaMismatch(f"{uri} is a {body['kind']} artefact; {kind} was expected")
    return Manifest(uri, kind, body["content"], body["provenance"])


def parse(data: bytes, address: str) -> dict[str, Any]:
    """A manifest's JSON after its format and digest were checked."""
    try:
        body = json.loads(data)
        fits = body["format"] <= FORMAT and body["digest"] == digest(body["content"])
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{address} is not a manifest ({error}); restore it or write the artefact again") from error
    if not fits:
        raise Corrupt(f"{address}: format {body['format']}, digest does not fit the content; it was edited or damaged")
    return body


def _pretty(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"
