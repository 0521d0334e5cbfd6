"""Manifests: the file that turns a folder into an artefact, written last and atomically.

``content`` is a pure function of inputs and config and is what the digest covers; ``provenance`` (times, hosts,
run ids) is not, and neither is the format's number. What a kind's content holds is decided by the job that writes it,
what older formats held is in ``migrate``.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metric_core import storage
from metric_core.artefacts import migrate
from metric_core.errors import Corrupt, Missing, Occupied, SchemaMismatch, Unfinished

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
    """As today's format has it."""
    digest: str
    """sha256 of the canonical content: equal for equal inputs and config."""
    provenance: dict[str, Any] = field(default_factory=dict)
    format: int = 0
    """Of the kind, as it was written."""

    @classmethod
    def of(cls, uri: str, kind: str, content: Mapping[str, Any], provenance: Mapping[str, Any]) -> "Manifest":
        """The manifest of an artefact that is written today."""
        taken = digest(migrate.hashed(kind, "content", content))
        return cls(uri, kind, dict(content), taken, dict(provenance), migrate.format_of(kind))


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
        SchemaMismatch: a newer version of Likeness began it.
    """
    inside = [name for name in storage.names(uri) if not name.startswith(".")]  # those are temporary
    if not inside:
        storage.create_if_absent(storage.join(uri, PLAN), _pretty({**migrate.head(kind), "plan": dict(plan)}))
    elif PLAN not in inside:
        raise Occupied(
            f"{uri} holds {', '.join(inside[:3])}{'…' if len(inside) > 3 else ''} but no {PLAN}: not the output of "
            f"an earlier run; give --out an empty or a new folder"
        )
    try:
        found = json.loads(storage.read_bytes(storage.join(uri, PLAN)))
        of, begun = found["kind"], found["plan"]
        if of == kind:
            number = migrate.require_readable(kind, found, storage.join(uri, PLAN))
            begun = migrate.upgraded(kind, "plan", begun, number)
        there = _flat(begun)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Occupied(f"{uri}/{PLAN} is not one of ours, or damaged ({error!r}); give --out another folder") from error
    if of != kind:
        raise Occupied(f"{uri} holds {of}, not {kind}; give --out another folder")
    here = _flat(json.loads(canonical(plan)))
    if there != here:
        differ = [n for n in sorted(there.keys() | here.keys()) if there.get(n) != here.get(n)]
        changes = "; ".join(f"{n}: {_short(there.get(n))} there, {_short(here.get(n))} here" for n in differ)
        raise Occupied(f"{uri} was begun with other arguments ({changes}); repeat those or give --out another folder")
    return read(uri, kind) if NAME in inside else None


def write(uri: str, kind: str, content: Mapping[str, Any], provenance: Mapping[str, Any]) -> Manifest:
    """Finish an artefact: everything else must already be in place. Of several writers the first one's stands.

    Raises:
        Occupied: another run has finished there with other content.
    """
    made = Manifest.of(uri, kind, content, provenance)
    if storage.create_if_absent(storage.join(uri, NAME), _body(made)):
        return made
    first = read(uri, kind)
    if first.digest != made.digest:
        raise Occupied(f"{uri} was finished with other content by another run meanwhile; that one stands")
    return first


def replace(before: Manifest, content: Mapping[str, Any], provenance: Mapping[str, Any]) -> Manifest:
    """The next generation of a finished artefact, in one atomic step, if it is still at the one that was read.

    Raises:
        Occupied: another run has replaced it meanwhile.
    """
    address = storage.join(before.uri, NAME)
    data = storage.read_bytes(address)
    made = Manifest.of(before.uri, before.kind, content, provenance)
    unchanged = parse(data, address)["digest"] == before.digest
    if not (unchanged and storage.replace_if_match(address, _body(made), expected=data)):
        raise Occupied(f"{before.uri} was changed by another run meanwhile; look at it and start again")
    storage.remove(f"{address}.lock")
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
    content = migrate.upgraded(kind, "content", body["content"], body["format"])
    return Manifest(uri, kind, content, body["digest"], body["provenance"], body["format"])


def parse(data: bytes, address: str) -> dict[str, Any]:
    """A manifest's JSON after its format and digest were checked. Raises Corrupt or SchemaMismatch as ``read``."""
    remedy = "restore it from a copy, or write the artefact again to another --out"
    try:
        body: dict[str, Any] = json.loads(data)
        migrate.require_readable(body["kind"], body, address)  # what a newer one's digest is taken over is not known
        fits = body["digest"] == digest(migrate.hashed(body["kind"], "content", body["content"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{address} is not a manifest ({error}); {remedy}") from error
    if not fits:
        raise Corrupt(f"{address}: its digest does not fit its content, it was edited or damaged; {remedy}")
    return body


def _body(made: Manifest) -> bytes:
    return _pretty(
        {**migrate.head(made.kind), "digest": made.digest, "content": made.content, "provenance": made.provenance}
    )


def _flat(plan: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted name: value}, so that a difference is told by its own name."""
    out: dict[str, Any] = {}
    for name, value in plan.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return out


def _short(value: Any) -> str:
    """A value as people can compare it: of a long one, such as a picture in text, its digest."""
    text = repr(value)
    return text if len(text) <= 400 else f"sha256 {digest(value)[:12]}…"


def _pretty(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"
