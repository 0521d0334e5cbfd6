"""The formats that artefacts have had, and the steps from each to today's. All other code sees only today's format.

Every kind has its own format number, which each step below raises by 1. Manifests and plans carry it outside what is
hashed. A step says what a format changed. A field that it added comes with a default, the value that means the same as
the absence of the field. An older artefact is read as if it had the default, and a hash leaves the field out when it
holds the default. So no fingerprint, plan id, digest or version id changes because a field was added.

A new field in a plan, a content or ``model.json`` needs a step here. ``tests/frozen`` has artefacts of every format,
and its tests fail when a step is missing. Fields that only corpora without names have need none: ``unlabelled``,
``unnamed`` and ``keys``; older versions refuse the columns of such artefacts. Tombstones had no manifest at first, and
are read without. The records beside unfinished work (of units, of shards) are read as their dataclasses: a field that
one of these gets needs a default there.
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

LIMITS: Mapping[Part, Mapping[str, Any]] = {"plan": {"max_pixels": 100_000_000, "max_bytes": 134_217_728}}
"""Limits of pictures before they were options; the one of bytes is above that of any picture of so many pixels."""

STEPS: dict[str, tuple[Step, ...]] = {
    # 2: ``roots`` lists where rows point beside the root; without it, nowhere. Format 1 did not say where they point.
    "faces": (Step(since="0.1.0"),),
    # 2: batches are always gathered; passing them around a ring had the same result.
    # 3: the largest pictures are options.
    "model": (Step(since="0.1.0", removed={"plan": ("objective.ring",)}), Step(since="0.1.0", added=LIMITS)),
    # 2: the largest pictures are options.
    "embeddings": (Step(since="0.1.0", added=LIMITS),),
    # 2: shards are of whole parts, named by content and beside the versions. Format 1 is read by ``index.format1``.
    "index": (
        Step(
            since="0.1.0",
            added={
                "content": {
                    "people": None,
                    "depth": None,
                    "choice": None,
                    "files": {},
                    "masks": [],
                    "calibration": None,
                }
            },
        ),
        # 3: files that versions may share lie beside them; without it, in a version's own folder.
        Step(since="0.1.0", added={"content": {"shared": False}}),
    ),
    # 2: a search may be restricted to some faces.
    "matches": (Step(since="0.1.0", added={"plan": {"conditions": None}}),),
    "tombstones": (),
}

BEFORE_NUMBERS: dict[str, dict[str, Any]] = {"embeddings": {"since": [], "gone": None}}
"""What contents of format 1 may lack that were written before formats had numbers, and what that meant."""
NEEDED: dict[str, tuple[str, ...]] = {"faces": ("parts",), "embeddings": ("tags",)}
"""What such contents may lack as well, and cannot be read without."""

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


def require_readable(found: Mapping[str, Any], address: str) -> tuple[str, int]:
    """The kind and the format number in the head of a manifest or plan; 1 when it was written before there were
    numbers.

    Raises:
        SchemaMismatch: this version of Likeness does not know the kind, or the format is newer than it can read.
        ValueError: they are no kind and no number.
    """
    kind, number = found["kind"], found.get("format", 1)
    if not isinstance(kind, str) or type(number) is not int or number < 1:
        raise ValueError(f"kind {kind!r} and format {number!r}; a name and a number from 1 were expected")
    remedy = f"install Likeness {found.get('needs') or '(a newer version)'} or later"
    if kind not in STEPS:
        raise SchemaMismatch(f"{address} is of kind {kind!r}, which this version of Likeness does not know; {remedy}")
    if number > format_of(kind):
        raise SchemaMismatch(
            f"{address} has format {number} of {kind}, and this version of Likeness reads up to {format_of(kind)}; "
            f"{remedy}"
        )
    return kind, number


def require_complete(kind: str, content: Mapping[str, Any], uri: str) -> None:
    """Raises SchemaMismatch when a content was written so long ago that it lacks what cannot be filled in."""
    lacking = [name for name in NEEDED.get(kind, ()) if name not in content]
    if lacking:
        raise SchemaMismatch(
            f"{uri} has no {' and no '.join(lacking)} in its manifest: it was written before formats had numbers and "
            f"cannot be read any more; write it again to another --out"
        )


def upgraded(kind: str, part: Part, value: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A plan, content or spec of format ``number``, converted to today's format."""
    steps = STEPS[kind][number - 1 :]
    out: dict[str, Any] = _copied(value) if steps else {**value}  # a content can list a hundred thousand files
    if part == "content" and number == 1:
        out = {**_copied(BEFORE_NUMBERS.get(kind, {})), **out}
    for step in steps:
        for path in _removed(kind, part, step):
            _drop(out, path)
        for path, default in _added(kind, part, step).items():
            _fill(out, path, default)
    return out


def hashed(kind: str, part: Part, value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a plan, content or spec that is hashed: all but added fields that hold their defaults."""
    if not STEPS[kind]:
        return value
    out: dict[str, Any] = _copied(value)
    for step in reversed(STEPS[kind]):  # the latest first: a group that it extended may be a default without it
        for path, default in _added(kind, part, step).items():
            if _same(_value(out, path), default):
                _drop(out, path)
    return out


def _added(kind: str, part: Part, step: Step) -> dict[str, Any]:
    plan = step.added.get("plan", {}) if part == "content" and kind in PLAN_IN_CONTENT else {}
    return {**plan, **step.added.get(part, {})}


def _removed(kind: str, part: Part, step: Step) -> tuple[str, ...]:
    plan = step.removed.get("plan", ()) if part == "content" and kind in PLAN_IN_CONTENT else ()
    return plan + tuple(step.removed.get(part, ()))


def _copied(value: Any) -> Any:
    """The value as JSON reads it back: nested objects are copies, and tuples are lists."""
    if isinstance(value, Mapping):
        return {name: _copied(inner) for name, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list | tuple) else value


def _same(value: Any, default: Any) -> bool:
    """Whether a value is the default; unlike Python, False is not 0."""
    return isinstance(value, bool) == isinstance(default, bool) and bool(value == _copied(default))


def _groups(value: dict[str, Any], path: str) -> list[Any]:
    """The value and what is inside it along a path, the field itself left out; it ends early where there is nothing."""
    groups: list[Any] = [value]
    for name in path.split(".")[:-1]:
        if not isinstance(groups[-1], dict) or name not in groups[-1]:
            break
        groups.append(groups[-1][name])
    return groups


def _value(value: dict[str, Any], path: str) -> Any:
    """A field's value, or ``_Absent``, which equals no value, if there is none."""
    *groups, name = path.split(".")
    inside = _groups(value, path)
    return inside[-1].get(name, _Absent) if len(inside) > len(groups) and isinstance(inside[-1], dict) else _Absent


def _drop(value: dict[str, Any], path: str) -> None:
    """Remove a field, and the groups that are empty without it: they came with it."""
    if _value(value, path) is _Absent:
        return
    names, groups = path.split("."), _groups(value, path)
    for name, group in zip(reversed(names), reversed(groups)):
        del group[name]
        if group:
            return


def _fill(value: dict[str, Any], path: str, default: Any) -> None:
    """Add a field, with the groups around it, unless it is there or a group is switched off (None)."""
    *groups, name = path.split(".")
    inside: Any = value
    for group in groups:
        inside = inside.setdefault(group, {})
        if not isinstance(inside, dict):
            return
    inside.setdefault(name, _copied(default))


class _Absent:
    """Marks a field that does not exist."""
