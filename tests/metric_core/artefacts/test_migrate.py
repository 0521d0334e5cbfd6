"""Steps between formats, with made-up ones; real artefacts of every format are in tests/workflows/test_frozen.py."""

from typing import Any

import pytest

from metric_core.artefacts import migrate
from metric_core.artefacts.migrate import Step
from metric_core.errors import SchemaMismatch

STEPS = (
    Step(since="0.2.0", added={"plan": {"effort": 3}, "content": {"masks": []}}),
    Step(since="0.3.0", added={"plan": {"how.gamma": 1.0}}, removed={"plan": ("ring", "how.old")}),
)


@pytest.fixture(autouse=True)
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "STEPS", {"faces": (), "model": STEPS, "embeddings": STEPS})


def test_a_kind_without_steps_has_format_1() -> None:
    assert migrate.head("faces") == {"kind": "faces", "format": 1, "needs": "0.1.0"}
    assert migrate.head("model") == {"kind": "model", "format": 3, "needs": "0.3.0"}


@pytest.mark.parametrize(
    ("number", "before", "after"),
    [
        (1, {"a": 1, "how": {}}, {"a": 1, "how": {"gamma": 1.0}, "effort": 3}),
        (2, {"a": 1, "how": {}}, {"a": 1, "how": {"gamma": 1.0}}),
        (3, {"a": 1, "how": {}}, {"a": 1, "how": {}}),
        (1, {"ring": False, "how": {"old": 5}, "effort": 4}, {"how": {"gamma": 1.0}, "effort": 4}),
        (1, {"how": None}, {"how": None, "effort": 3}),
    ],
)
def test_plans_are_converted_to_todays_format(number: int, before: dict[str, Any], after: dict[str, Any]) -> None:
    kept = {**before, "how": before["how"] and dict(before["how"])}
    assert migrate.upgraded("model", "plan", before, number) == after
    assert before == kept, "the input is not changed"


def test_the_content_of_some_kinds_repeats_their_plan() -> None:
    assert migrate.upgraded("embeddings", "content", {"how": {}}, 1) == {
        "how": {"gamma": 1.0},
        "effort": 3,
        "masks": [],
    }
    assert migrate.upgraded("model", "content", {"how": {}}, 1) == {"how": {}, "masks": []}


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ({"a": 1, "effort": 3, "how": {"gamma": 1.0}}, {"a": 1, "how": {}}),
        ({"a": 1, "effort": 4, "how": {"gamma": 2.0}}, {"a": 1, "effort": 4, "how": {"gamma": 2.0}}),
        ({"a": 1, "effort": None}, {"a": 1, "effort": None}),
        ({"a": 1}, {"a": 1}),
    ],
)
def test_a_hash_leaves_out_added_fields_that_hold_their_defaults(value: dict[str, Any], left: dict[str, Any]) -> None:
    assert migrate.hashed("model", "plan", value) == left


def test_newer_formats_are_refused_with_the_version_that_reads_them() -> None:
    assert migrate.require_readable("model", {}, "x") == 1
    assert migrate.require_readable("model", {"format": 3}, "x") == 3
    with pytest.raises(SchemaMismatch, match=r"x has format 4 of model, .* up to 3; install Likeness 2\.0\.0 or later"):
        migrate.require_readable("model", {"format": 4, "needs": "2.0.0"}, "x")
