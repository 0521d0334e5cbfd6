"""A manifest whose digest is right and whose content is not: refused in one line, whatever field it is."""

import json
from pathlib import Path
from typing import Any

import pytest

from metric_core.artefacts import contents, manifest
from metric_core.errors import Corrupt

PART = {"name": "faces-000000.parquet", "rows": 5, "sha256": "0" * 64}
FACES: dict[str, Any] = {
    "root": "/data",
    "namespace": "n",
    "parts": [PART],
    "rows": 5,
    "splits": {"train": {"rows": 5, "identities": 1}},
    "salts": {},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": None}, "root is 'None'"),
        ({"rows": "5"}, "rows is '5'"),
        ({"rows": -1}, "rows is '-1'"),
        ({"rows": True}, "rows is 'True'"),
        ({"rows": 10**30}, "rows is '1000"),
        ({"parts": {}}, "parts is '{}'"),
        ({"parts": [PART, 7]}, r"parts\[1\] is '7'"),
        ({"parts": [PART | {"rows": None}]}, r"parts\[0\].rows is 'None'"),
        ({"parts": [{"name": "x"}]}, r"parts\[0\].rows is missing"),
        ({"splits": {"train": 5}}, "splits.train is '5'"),
        *(
            ({"parts": [PART | {"name": name}]}, r"parts\[0\].name is ")
            for name in ("", ".", "..", "../faces/faces-000000.parquet", "/etc/passwd", "a\0b", None)
        ),
    ],
)
def test_a_field_of_another_type(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    manifest.write(str(tmp_path), "faces", FACES | change, {})
    with pytest.raises(Corrupt, match=f"manifest.json does not describe faces: {message}.*; restore it"):
        manifest.read(str(tmp_path), "faces")


@pytest.mark.parametrize("kind", sorted(contents.SHAPES))
def test_every_field_is_asked_for(kind: str) -> None:
    sound = {name: _example(shape) for name, shape in contents.SHAPES[kind].items()}
    assert contents.problem(kind, sound) is None
    assert contents.problem(kind, sound | {"another": 5}) is None
    for name in sound:
        without = {other: value for other, value in sound.items() if other != name}
        assert contents.problem(kind, without) == f"{name} is missing"
        assert contents.problem(kind, sound | {name: 0.5 + 1j}) is not None


def _example(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {} if str in shape else {name: _example(inner) for name, inner in shape.items()}
    if isinstance(shape, list):
        return [_example(shape[0])]
    if isinstance(shape, tuple):
        return _example(shape[-1])
    return None if shape is None else "x" if issubclass(shape, str) else shape(5)


def test_many_parts_take_a_moment(tmp_path: Path) -> None:
    """Nothing is written for what fits."""
    found = json.loads(json.dumps(FACES | {"parts": [PART] * 20_000}))
    assert contents.problem("faces", found) is None
