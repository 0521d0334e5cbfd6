"""The formats that artefacts have had, and the steps from each to today's. All other code sees only today's format.

Every kind has its own format number, which each step below raises by 1. Manifests and plans carry it outside what is
hashed. A step says what a format changed. A field that it added comes with a default, the value that means the same as
the absence of the field. An older artefact is read as if it had the default, and a hash leaves the field out when it
holds the default. So no fingerprint, plan id, digest or version id changes because a field was added.

A new field in a plan, a content or ``model.json`` needs a step here. ``tests/frozen`` has artefacts of every format,
and its tests fail when a step is missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from metric_core.errors import SchemaMismatch

Part = Literal["plan", "content", "spec"]
"""Parts of an artefact that have fields: its plan, its manifest's content, and ``model.json``."""


@dataclass(frozen=True)
class Step:
    """What one format of a kind changed compared with the one before. Fields are named by dotted paths."""

    since: str
    """The first version of Likeness that reads the new format."""
    added: Mapping[Part, Mapping[str, Any]] = field(default_factory=dict)
    """New fields and their defaults: for each, the value that means the same as its absence."""
    removed: Mapping[Part, tuple[str, ...]] = field(default_factory=dict)
    """Fields that no longer have a meaning."""


FIRST = "0.1.0"
"""The version of Likeness that wrote format 1 of everything."""

STEPS: dict[str, tuple[Step, ...]] = {
    "faces": (),
    # 2: batches are always gathered; passing them around a ring had the same result.
    "model": (Step(since="0.1.0", removed={"plan": ("objective.ring",)}),),
    "embeddings": (),
    "index": (),
    "matches": (),
}

PLAN_IN_CONTENT = frozenset({"embeddings", "matches"})
"""Kinds whose content repeats the plan's fields, so that a step for the plan also applies to the content."""


def format_of(kind: str) -> int:
    """The format that is written today."""
    return 1 + len(STEPS[kind])


def oldest_reader(kind: str) -> str:
    """The lowest version of Likeness that reads today's format."""
    return STEPS[kind][-1].since if STEPS[kind] else FIRST


def head(kind: str) -> dict[str, Any]:
    """The fields of a manifest and a plan that describe their format: {kind, format, needs}."""
    return {"kind": kind, "format": format_of(kind), "needs": oldest_reader(kind)}


def require_readable(kind: str, found: Mapping[str, Any], address: str) -> int:
    """The format number in the head of a manifest or plan; 1 when it was written before there were numbers.

    Raises:
        SchemaMismatch: the format is newer than this version of Likeness can read.
    """
    number = int(found.get("format", 1))
    if number > format_of(kind):
        raise SchemaMismatch(
            f"{address} has format {number} of {kind}, and this version of Likeness reads up to {format_of(kind)}; "
            f"install Likeness {found.get('needs') or '(a newer version)'} or later"
        )
    return number


def upgraded(kind: str, part: Part, value: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A plan, content or spec of format ``number``, converted to today's format."""
    out = _copied(value)
    for step in STEPS[kind][number - 1 :]:
        for path in _removed(kind, part, step):
            _drop(out, path)
        for path, default in _added(kind, part, step).items():
            _fill(out, path, default)
    return out


def hashed(kind: str, part: Part, value: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a plan, content or spec that is hashed: all but added fields that hold their defaults."""
    out = _copied(value)
    for step in STEPS[kind]:
        for path, default in _added(kind, part, step).items():
            if _value(out, path) == default:
                _drop(out, path)
    return out


def _added(kind: str, part: Part, step: Step) -> dict[str, Any]:
    plan = step.added.get("plan", {}) if part == "content" and kind in PLAN_IN_CONTENT else {}
    return {**plan, **step.added.get(part, {})}


def _removed(kind: str, part: Part, step: Step) -> tuple[str, ...]:
    plan = step.removed.get("plan", ()) if part == "content" and kind in PLAN_IN_CONTENT else ()
    return plan + tuple(step.removed.get(part, ()))


def _copied(value: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose nested objects are copies too."""
    return {name: _copied(inner) if isinstance(inner, Mapping) else inner for name, inner in value.items()}


def _parent(value: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """The object that holds a field (a new empty one if there is none), and the field's name in it."""
    *outer, name = path.split(".")
    for step in outer:
        inner = value.get(step)
        value = inner if isinstance(inner, dict) else {}
    return value, name


def _value(value: dict[str, Any], path: str) -> Any:
    """A field's value, or ``_Absent``, which equals no value, if there is none."""
    inside, name = _parent(value, path)
    return inside.get(name, _Absent)


def _drop(value: dict[str, Any], path: str) -> None:
    inside, name = _parent(value, path)
    inside.pop(name, None)


def _fill(value: dict[str, Any], path: str, default: Any) -> None:
    inside, name = _parent(value, path)
    inside.setdefault(name, default)


class _Absent:
    """Marks a field that does not exist."""
