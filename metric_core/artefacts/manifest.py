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
    try:
        found = json.loads(storage.read_bytes(storage.join(uri, PLAN)))
        of, there = found["kind"], _flat(found["plan"])
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
    made = Manifest(uri, kind, dict(content), dict(provenance))
    if not storage.create_if_absent(storage.join(uri, NAME), _body(made)):
        made = read(uri, kind)
        if made.digest != digest(content):
            raise Occupied(f"{uri} was finished with other content by another run meanwhile; that one stands")
    return made


def replace(before: Manifest, content: Mapping[str, Any], provenance: Mapping[str, Any]) -> Manifest:
    """The next generation of a finished artefact, in one atomic step, if it is still at the one that was read.

    Raises:
        Occupied: another run has replaced it meanwhile.
    """
    address = storage.join(before.uri, NAME)
    data = storage.read_bytes(address)
    made = Manifest(before.uri, before.kind, dict(content), dict(provenance))
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
    return Manifest(uri, kind, body["content"], body["provenance"])


def parse(data: bytes, address: str) -> dict[str, Any]:
    """A manifest's JSON after its format and digest were checked. Raises Corrupt or SchemaMismatch as ``read``."""
    remedy = "restore it from a copy, or write the artefact again to another --out"
    try:
        body = json.loads(data)
        if body["format"] > FORMAT:  # what its digest is taken over is not known here
            raise SchemaMismatch(
                f"{address} has format {body['format']}, this version of Likeness reads up to {FORMAT}; install a "
                f"newer one"
            )
        fits = body["digest"] == digest(body["content"])
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{address} is not a manifest ({error}); {remedy}") from error
    if not fits:
        raise Corrupt(f"{address}: its digest does not fit its content, it was edited or damaged; {remedy}")
    return body


def _body(made: Manifest) -> bytes:
    head = {"format": FORMAT, "kind": made.kind, "digest": made.digest}
    return _pretty(head | {"content": made.content, "provenance": made.provenance})


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
