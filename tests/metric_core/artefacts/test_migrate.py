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
    with_plan = {"how": {"gamma": 1.0}, "effort": 3, "masks": []}
    assert migrate.upgraded("embeddings", "content", {"how": {}}, 1).items() >= with_plan.items()
    assert migrate.upgraded("model", "content", {"how": {}}, 1) == {"how": {}, "masks": []}


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ({"a": 1, "effort": 3, "how": {"gamma": 1.0, "b": 2}}, {"a": 1, "how": {"b": 2}}),
        ({"a": 1, "effort": 4, "how": {"gamma": 2.0}}, {"a": 1, "effort": 4, "how": {"gamma": 2.0}}),
        ({"a": 1, "effort": None}, {"a": 1, "effort": None}),
        ({"a": 1}, {"a": 1}),
    ],
)
def test_a_hash_leaves_out_added_fields_that_hold_their_defaults(value: dict[str, Any], left: dict[str, Any]) -> None:
    assert migrate.hashed("model", "plan", value) == left


def test_a_new_group_is_filled_in_and_left_out_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """However a step names it, and also when a later step adds to it."""
    for first in ({"ema.decay": 0.0}, {"ema": {"decay": 0.0}}):
        steps = (Step(since="0.2.0", added={"plan": first}), Step(since="0.3.0", added={"plan": {"ema.every": (1, 2)}}))
        monkeypatch.setattr(migrate, "STEPS", {"model": steps})
        today = {"a": 1, "ema": {"decay": 0.0, "every": [1, 2]}}
        for _ in range(2):
            assert migrate.upgraded("model", "plan", {"a": 1}, 1) == today, "and the steps themselves stay as they are"
        assert migrate.hashed("model", "plan", today) == {"a": 1}
        assert migrate.hashed("model", "plan", {"a": 1, "ema": {"decay": 0.0, "every": (1, 2)}}) == {"a": 1}
        assert migrate.hashed("model", "plan", {"a": 1, "ema": {"decay": 0.5, "every": [1, 2]}})["ema"] == {
            "decay": 0.5
        }


def test_false_is_not_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "STEPS", {"model": (Step(since="0.2.0", added={"plan": {"n": 0}}),)})
    assert migrate.hashed("model", "plan", {"n": False}) == {"n": False}
    assert migrate.hashed("model", "plan", {"n": 0.0}) == {}


def test_newer_formats_are_refused_with_the_version_that_reads_them() -> None:
    assert migrate.require_readable({"kind": "model"}, "x") == ("model", 1)
    assert migrate.require_readable({"kind": "model", "format": 3}, "x") == ("model", 3)
    with pytest.raises(SchemaMismatch, match=r"x has format 4 of model, .* up to 3; install Likeness 2\.0\.0 or later"):
        migrate.require_readable({"kind": "model", "format": 4, "needs": "2.0.0"}, "x")
    with pytest.raises(SchemaMismatch, match=r"of kind 'report', .* does not know; install Likeness 9\.9 or later"):
        migrate.require_readable({"kind": "report", "needs": "9.9"}, "x")


@pytest.mark.parametrize("number", [0, -3, "1", 1.5, True, None, float("inf")])
def test_what_is_no_format_is_refused(number: object) -> None:
    with pytest.raises(ValueError, match="a number from 1"):
        migrate.require_readable({"kind": "model", "format": number}, "x")


def test_contents_from_before_formats_had_numbers() -> None:
    assert migrate.upgraded("embeddings", "content", {"tags": []}, 1)["since"] == []
    assert migrate.upgraded("embeddings", "content", {"since": [1], "gone": 2}, 1)["since"] == [1]
    assert "since" not in migrate.upgraded("embeddings", "content", {"tags": []}, 2)
    with pytest.raises(SchemaMismatch, match=r"x has no tags in its manifest.*write it again"):
        migrate.require_complete("embeddings", {"parts": []}, "x")
