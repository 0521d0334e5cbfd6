"""The formats that artefacts have had, and the way from each to today's; what is read by today's code is today's.

Every kind has a format number of its own, 1 more for every step below. Manifests and plans carry it beside what is
hashed. A step says what one format changed: a field that it added comes with the value that meant the same before the
field was there. An older artefact is read as if it had that value, and a hash leaves the field out while it holds that
value, so that no fingerprint, plan id, digest or version id changes because a field was added.

Adding a field to a plan, a content or ``model.json`` means adding a step here; ``tests/frozen`` has artefacts of every
format, and its tests fail where a step is missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from metric_core.errors import SchemaMismatch

Part = Literal["plan", "content", "spec"]
"""Of an artefact: what it is made by, what its manifest says, and what ``model.json`` says."""


@dataclass(frozen=True)
class Step:
    """What one format of a kind changed against the one before it. Fields are named by dotted paths."""

    since: str
    """The first version of Likeness that reads the new format."""
    added: Mapping[Part, Mapping[str, Any]] = field(default_factory=dict)
    """New fields, and the value of each that meant the same before it was there."""
    removed: Mapping[Part, tuple[str, ...]] = field(default_factory=dict)
    """Fields that mean nothing any more."""


FIRST = "0.1.0"
"""The version of Likeness that wrote format 1 of everything."""

STEPS: dict[str, tuple[Step, ...]] = {
    "faces": (),
    # 2: batches are always gathered; passing them round a ring instead had the same result.
    "model": (Step(since="0.1.0", removed={"plan": ("objective.ring",)}),),
    "embeddings": (),
    "index": (),
    "matches": (),
}

PLAN_IN_CONTENT = frozenset({"embeddings", "matches"})
"""Kinds whose content repeats the plan's fields, so that a step of the plan is one of the content as well."""


def format_of(kind: str) -> int:
    """The format that is written today."""
    return 1 + len(STEPS[kind])


def reader_of(kind: str) -> str:
    """The lowest version of Likeness that reads today's format."""
    return STEPS[kind][-1].since if STEPS[kind] else FIRST


def head(kind: str) -> dict[str, Any]:
    """What a manifest and a plan say of their format: {kind, format, needs}."""
    return {"kind": kind, "format": format_of(kind), "needs": reader_of(kind)}


def require_readable(kind: str, found: Mapping[str, Any], address: str) -> int:
    """The format that a head says, 1 where it was written before there were numbers.

    Raises:
        SchemaMismatch: it is newer than what this version of Likeness knows.
    """
    number = int(found.get("format", 1))
    if number > format_of(kind):
        raise SchemaMismatch(
            f"{address} has format {number} of {kind}, and this version of Likeness reads up to {format_of(kind)}; "
            f"install Likeness {found.get('needs') or '(a newer version)'} or later"
        )
    return number


def upgraded(kind: str, part: Part, value: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A plan, content or spec of format ``number`` as today's format has it."""
    out = _copied(value)
    for step in STEPS[kind][number - 1 :]:
        for path in _removed(kind, part, step):
            _drop(out, path)
        for path, meant in _added(kind, part, step).items():
            _fill(out, path, meant)
    return out


def hashed(kind: str, part: Part, value: Mapping[str, Any]) -> dict[str, Any]:
    """What is hashed of a plan, content or spec: all of it but added fields that hold what was meant before them."""
    out = _copied(value)
    for step in STEPS[kind]:
        for path, meant in _added(kind, part, step).items():
            if _value(out, path) == meant:
                _drop(out, path)
    return out


def _added(kind: str, part: Part, step: Step) -> dict[str, Any]:
    plan = step.added.get("plan", {}) if part == "content" and kind in PLAN_IN_CONTENT else {}
    return {**plan, **step.added.get(part, {})}


def _removed(kind: str, part: Part, step: Step) -> tuple[str, ...]:
    plan = step.removed.get("plan", ()) if part == "content" and kind in PLAN_IN_CONTENT else ()
    return plan + tuple(step.removed.get(part, ()))


def _copied(value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose nested objects are copies, too."""
    return {name: _copied(inner) if isinstance(inner, Mapping) else inner for name, inner in value.items()}


def _parent(value: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The object that holds a field, an empty one where it is not there, and the field's own name in it."""
    *outer, name = path.split(".")
    for step in outer:
        inner = value.get(step)
        value = inner if isinstance(inner, dict) else {}
    return value, name


def _value(value: dict[str, Any], path: str) -> Any:
    """A field's value; a class of its own where there is none, which equals nothing."""
    inside, name = _parent(value, path)
    return inside.get(name, _Absent)


def _drop(value: dict[str, Any], path: str) -> None:
    inside, name = _parent(value, path)
    inside.pop(name, None)


def _fill(value: dict[str, Any], path: str, meant: Any) -> None:
    inside, name = _parent(value, path)
    inside.setdefault(name, meant)


class _Absent:
    """Stands for a field that is not there."""
