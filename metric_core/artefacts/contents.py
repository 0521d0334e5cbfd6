"""What a manifest's content must have to be used: the fields that are read of it, and their types.

The digest of a manifest tells that it is as it was written, and not that its writer was right. Fields are named as
``migrate`` leaves them; others, which a job only shows, may be anything.
"""

from collections.abc import Mapping
from itertools import repeat
from typing import Any


class FileName(str):
    """The shape of a file's name: it must not lead to another folder."""


Shape = Any
"""A type; {name: shape} of the fields that an object must have; {str: shape} of an object with any names; [shape] of a
list; or several of these in a tuple, of which one must fit. A number of things is an ``int`` that is not negative."""

_PART = {"name": FileName, "rows": int, "sha256": str}
_FILE = {"bytes": int, "sha256": str}
_SHARD_1 = {"number": int, "rows": int, "sha256": str, "identities_sha256": str}
_SHARD = {"digest": FileName, "rows": int, "people": int, "files": {str: _FILE}, "template": str}
_NUMBER = (int, float)

SHAPES: dict[str, Shape] = {
    "faces": {
        "root": str,
        "namespace": str,
        "parts": [_PART],
        "rows": int,
        "splits": {str: {"rows": int, "identities": int}},
        "salts": {str: int},
    },
    "model": {
        "fingerprint": str,
        "weights_sha256": str,
        "operating_points": [{"far": _NUMBER, "threshold": float, "tar": _NUMBER, "negatives": int}],
    },
    "embeddings": {
        "plan_id": str,
        "fingerprint": str,
        "namespace": str,
        "dim": int,
        "dtype": str,
        "salts": {str: int},
        "since": [{"plan_id": str}],
        "gone": (None, _PART),
        "parts": [_PART],
        "tags": [_PART],
        "quarantine": [_PART],
        "inputs": int,
        "embedded": int,
        "quarantined": int,
        "erased": int,
    },
    "index": {
        "fingerprint": str,
        "namespace": str,
        "spec": {"dim": int, "factory": str},
        "rows": int,
        "nprobe": (None, int),
        "depth": (None, int),
        "shards": [(_SHARD, _SHARD_1)],
        "files": {str: _FILE},
        "masks": [_PART],
        "base": (None, {"version": FileName, "digest": str, "shards": int}),
        "drift": (None, {"rows": int, "added": int, "masked": int, "identity": _NUMBER, "identity_now": _NUMBER}),
    },
    "matches": {},
    "tombstones": {"key": str, "lists": [str]},
}
"""By kind."""


def problem(kind: str, content: Mapping[str, Any]) -> str | None:
    """The first field that a content lacks, or has of another type than expected; None if there is none."""
    found = _wrong(content, SHAPES[kind])
    return None if found is None else found.removeprefix(".")


def _wrong(value: Any, shape: Shape) -> str | None:
    """The path of what does not fit, and what is there. Nothing is written until then: there can be 100,000 parts."""
    if isinstance(shape, tuple):
        found = [_wrong(value, one) for one in shape]
        return None if None in found else found[0]
    if isinstance(shape, dict) and isinstance(value, dict):
        for name, inner in zip(value, repeat(shape[str])) if str in shape else shape.items():
            found_inside = _wrong(value[name], inner) if name in value else " is missing"
            if found_inside is not None:
                return f".{name[:60]}{found_inside}"
        return None
    if isinstance(shape, list) and isinstance(value, list):
        for number, inner in enumerate(value):
            if (found_inside := _wrong(inner, shape[0])) is not None:
                return f"[{number}]{found_inside}"
        return None
    return None if _fits(value, shape) else f" is {str(value)[:60]!r}"


def _fits(value: Any, shape: Shape) -> bool:
    if shape is int:
        return type(value) is int and 0 <= value < 1 << 63
    if shape is FileName:
        return isinstance(value, str) and value not in ("", ".", "..") and "/" not in value and "\0" not in value
    return value is None if shape is None else isinstance(shape, type) and isinstance(value, shape)
