"""Manifests: the file that makes a folder an artefact, written last and atomically.

``content`` is a pure function of inputs and config, and the digest covers it. The digest does not cover ``provenance``
(times, hosts, run ids), the format number, or ``files``: digests of files and of their pieces that the content does not
have. The job that writes a kind decides what its content holds; older formats are in ``migrate``.

A finished artefact changes only by a new generation of its manifest, which replaces the old one in one step. A
generation that only lacks what was erased names the digests of those before it: a plan that names one of them means
this one too.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metric_core import storage
from metric_core.artefacts import contents, migrate
from metric_core.errors import Corrupt, Missing, NotReadable, Occupied, SchemaMismatch, Unfinished

NAME = "manifest.json"
PLAN = "plan.json"
MOST = 512 << 20
"""Most bytes of either: a thousand million faces in parts of 2,048 have 300 MB."""

REMEDY = "restore it from a copy, or write the artefact again to another --out"
"""What to do about a damaged manifest, for messages."""


@dataclass(frozen=True)
class Manifest:
    """A finished artefact's description."""

    uri: str
    """The artefact's folder."""
    kind: str
    """faces, model, embeddings, index, matches or tombstones."""
    content: dict[str, Any]
    """In today's format."""
    digest: str
    """sha256 of the canonical content: equal for equal inputs and config."""
    provenance: dict[str, Any] = field(default_factory=dict)
    format: int = 0
    """The format number that it was written with."""
    files: dict[str, Any] = field(default_factory=dict)
    """More about files, by name, than the content has, such as digests of their pieces; empty in older artefacts."""
    predecessors: tuple[str, ...] = ()
    """Digests of the generations before this one that had more only because nothing was erased yet, oldest first."""

    @property
    def origin(self) -> str:
        """The digest of the first of these generations, this one's own if it is the first. Plans name artefacts by it:
        what was begun before an erasure is finished, or continues, after it."""
        return self.predecessors[0] if self.predecessors else self.digest

    @classmethod
    def of(
        cls,
        uri: str,
        kind: str,
        content: Mapping[str, Any],
        provenance: Mapping[str, Any],
        files: Mapping[str, Any] | None = None,
        predecessors: tuple[str, ...] = (),
    ) -> "Manifest":
        """The manifest of a new artefact or generation, in today's format."""
        content_digest = digest(migrate.hashed(kind, "content", content))
        number, more = migrate.format_of(kind), dict(files or {})
        return cls(uri, kind, dict(content), content_digest, dict(provenance), number, more, predecessors)

    def noted(self, name: str) -> str | None:
        """A text of the provenance; None if there is none, or something else: no digest covers it."""
        found = self.provenance.get(name)
        return found if isinstance(found, str) else None


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces, so that equal values give equal bytes. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """sha256 hex of ``canonical(value)``."""
    return hashlib.sha256(canonical(value)).hexdigest()


def begin(uri: str, kind: str, plan: Mapping[str, Any]) -> Manifest | None:
    """Claim an output folder for a job whose result is a pure function of ``plan``.

    Returns:
        The manifest if the same job has already finished there; else None: start, or continue an interrupted run of
        the same plan.

    Raises:
        Occupied: the folder holds something that is not this job's.
        Corrupt: a link in it leads out of it, or its manifest is damaged.
        SchemaMismatch: a newer version of Likeness began it.
    """
    require_own(uri)
    inside = [name for name in storage.names(uri) if not name.startswith(".")]  # dot files are temporary
    if not inside:
        storage.create_if_absent(storage.join(uri, PLAN), plan_file(kind, plan))
    elif PLAN not in inside:
        raise Occupied(
            f"{uri} holds {', '.join(inside[:3])}{'…' if len(inside) > 3 else ''} but no {PLAN}: not the output of "
            f"an earlier run; give --out an empty or a new folder"
        )
    try:
        found = json.loads(storage.read_bytes(storage.join(uri, PLAN), most=MOST))
        found_kind, number = migrate.require_readable(found, storage.join(uri, PLAN))
        there = _flat(migrate.upgraded(found_kind, "plan", found["plan"], number))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, NotReadable) as error:
        raise Occupied(
            f"{uri}/{PLAN} is damaged or not a plan of Likeness ({error!r}); give --out another folder"
        ) from error
    if found_kind != kind:
        raise Occupied(f"{uri} holds {found_kind}, not {kind}; give --out another folder")
    here = _flat(json.loads(canonical(plan)))
    if there != here:
        differ = [n for n in sorted(there.keys() | here.keys()) if there.get(n) != here.get(n)]
        changes = "; ".join(f"{n}: {_short(there.get(n))} there, {_short(here.get(n))} here" for n in differ)
        raise Occupied(f"{uri} was begun with other arguments ({changes}); repeat those or give --out another folder")
    return read(uri, kind) if NAME in inside else None


def begun(uri: str) -> bool:
    """Whether an output folder holds anything, so that ``begin`` only reads."""
    return any(not name.startswith(".") for name in storage.names(uri))


def plan_file(kind: str, plan: Mapping[str, Any]) -> bytes:
    """What ``begin`` writes to ``PLAN``."""
    return _pretty({**migrate.head(kind), "plan": dict(plan)})


def require_own(uri: str) -> None:
    """Raises Corrupt if a link in an artefact's folder leads out of it, to what others may change. The folder itself
    may be reached by a link."""
    if link := storage.link_out(uri):
        raise Corrupt(
            f"{link} is a link that leads out of the artefact {uri}; an artefact holds its files itself: replace the "
            f"link by what it leads to, if that is what was written there"
        )


def write(
    uri: str,
    kind: str,
    content: Mapping[str, Any],
    provenance: Mapping[str, Any],
    files: Mapping[str, Any] | None = None,
) -> Manifest:
    """Finish an artefact: everything else must already be in place. The first of several writers wins.

    Args:
        uri: the artefact's folder.
        kind: of the artefact.
        content: what the digest covers.
        provenance: what it does not.
        files: as ``Manifest.files``.

    Raises:
        Occupied: another run has finished there with other content.
    """
    new = Manifest.of(uri, kind, content, provenance, files)
    if storage.create_if_absent(storage.join(uri, NAME), body(new)):
        return new
    first = read(uri, kind)
    if first.digest != new.digest:
        raise Occupied(f"{uri} was finished with other content by another run meanwhile; that run's result is kept")
    return first


def replace(
    before: Manifest,
    content: Mapping[str, Any],
    provenance: Mapping[str, Any],
    files: Mapping[str, Any] | None = None,
    *,
    erased: bool = False,
) -> Manifest:
    """Replace the manifest of a finished artefact in one atomic step, if it is still the one that was read.

    Args:
        before: the manifest that was read.
        content: of the new generation.
        provenance: of the new generation.
        files: as ``Manifest.files``.
        erased: whether the new generation only lacks what was erased, so that it names its predecessors. Any other is
            an artefact of its own, with an origin of its own.

    Raises:
        Occupied: another run has replaced it meanwhile.
    """
    address = storage.join(before.uri, NAME)
    data = storage.read_bytes(address)
    predecessors = (*before.predecessors, before.digest) if erased else ()
    new = Manifest.of(before.uri, before.kind, content, provenance, files, predecessors)
    unchanged = parse(data, address)["digest"] == before.digest
    if not (unchanged and storage.replace_if_match(address, body(new), expected=data)):
        raise Occupied(f"{before.uri} was changed by another run meanwhile; check it and start again")
    storage.remove(f"{address}.lock")
    return new


def read(uri: str, kind: str) -> Manifest:
    """The manifest of a finished artefact.

    Raises:
        Missing: there is nothing at the address.
        Unfinished: the folder has no manifest yet.
        Corrupt: the manifest's digest does not match its content, or a field of the content is missing or of another
            type; or a link leads out of the folder.
        SchemaMismatch: it is an artefact of another kind or of a newer format.
    """
    address = storage.join(uri, NAME)
    if not storage.exists(address):
        if not storage.exists(uri):
            raise Missing(f"{uri} does not exist; a finished {kind} artefact was expected")
        raise Unfinished(
            f"{uri} has no {NAME}: it is unfinished or holds no {kind} artefact; start the job that writes it again "
            f"with the same arguments and it continues"
        )
    require_own(uri)
    body = parse(storage.read_bytes(address, most=MOST), address)
    if body["kind"] != kind:
        raise SchemaMismatch(f"{uri} is a finished {body['kind']} artefact; {kind} was expected")
    content = migrate.upgraded(kind, "content", body["content"], body["format"])
    migrate.require_complete(kind, content, uri)
    if wrong := contents.problem(kind, content):
        raise Corrupt(f"{address} does not describe {kind}: {wrong}; {REMEDY}")
    more = body["format"], body["files"], body["predecessors"]
    return Manifest(uri, kind, content, body["digest"], body["provenance"], *more)


def parse(data: bytes, address: str) -> dict[str, Any]:
    """A manifest's JSON, its format and digest checked. Raises Corrupt or SchemaMismatch as ``read``."""
    try:
        body: dict[str, Any] = json.loads(data)
        kind, body["format"] = migrate.require_readable(body, address)  # a newer one may compute its digest otherwise
        matches = body["digest"] == digest(migrate.hashed(kind, "content", body["content"]))
        body |= {name: {**body[name]} for name in ("content", "provenance")}
        body["files"] = {**body.get("files", {})}
        matches = matches and (not body["files"] or body["files_digest"] == digest(body["files"]))
        if {"predecessors", "predecessors_digest"} & body.keys():
            before = body["predecessors"]
            if not before or not isinstance(before, list) or not all(isinstance(one, str) for one in before):
                raise ValueError(f"predecessors is {str(before)[:40]}, not a list of digests")
            matches = matches and body["predecessors_digest"] == _succession(body["digest"], before)
        body["predecessors"] = tuple(body.get("predecessors", ()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:  # the latter: lists in lists
        raise Corrupt(f"{address} is not a manifest ({error}); {REMEDY}") from error
    if not matches:
        raise Corrupt(f"{address}: its digest does not match its content, it was edited or damaged; {REMEDY}")
    return body


def body(new: Manifest) -> bytes:
    """The bytes of a manifest's file."""
    more = {"digest": new.digest, "content": new.content, "provenance": new.provenance}
    return _pretty({**migrate.head(new.kind), **more, **_files(new), **_predecessors(new)})


def _files(new: Manifest) -> dict[str, Any]:
    files = json.loads(canonical(new.files))
    return {"files": files, "files_digest": digest(files)} if files else {}


def _predecessors(new: Manifest) -> dict[str, Any]:
    """Nothing in a first generation, whose bytes are those of a time without generations."""
    if not new.predecessors:
        return {}
    return {
        "predecessors": list(new.predecessors),
        "predecessors_digest": _succession(new.digest, new.predecessors),
    }


def _succession(own: str, before: Sequence[str]) -> str:
    """What shows that a manifest's list of predecessors is its own and as it was written."""
    return digest([*before, own])


def _flat(plan: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted name: value}, so that a message can name the field that differs."""
    out: dict[str, Any] = {}
    for name, value in plan.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return out


def _short(value: Any) -> str:
    """A value for messages; the digest of a long one, such as an image encoded as text."""
    text = repr(value)
    return text if len(text) <= 400 else f"sha256 {digest(value)[:12]}…"


def _pretty(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False).encode() + b"\n"
