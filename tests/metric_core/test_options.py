"""Options are checked on construction: types first, then words, empty strings and what each group checks itself."""

import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pytest

from metric_core.errors import ConfigError
from metric_core.index.spec import IndexSpec
from metric_core.learn.objective import Objective
from metric_core.model.spec import backbone_spec
from metric_core.options import Options, out_of_range
from workflows.embed.config import EmbedConfig
from workflows.train.config import TrainConfig


@dataclass(frozen=True)
class Inner(Options):
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer(Options):
    count: int = 1
    rate: float = 1.0
    limit: int | None = None
    on: bool = False
    name: str = "n"
    prefix: str = ""
    place: str | None = None
    kind: Literal["one", "two"] = "one"
    way: Literal["up", "down"] | None = None
    files: list[str] = field(default_factory=list)
    widths: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)

    def problems(self) -> list[str]:
        return out_of_range(self, count="[1, inf)", limit="[1, inf)")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", "x", "a whole number"),
        ("count", 2.5, "a whole number"),
        ("count", True, "a whole number"),
        ("count", None, "a whole number"),
        ("rate", "0.5", "a number"),
        ("rate", False, "a number"),
        ("limit", "4", "a whole number or None"),
        ("on", 1, "True or False"),
        ("name", 3, "a string"),
        ("name", None, "a string"),
        ("place", b"p", "a string or None"),
        ("kind", "three", "one of one, two"),
        ("kind", ["one"], "one of one, two"),
        ("kind", None, "one of one, two"),
        ("way", "left", "one of up, down or None"),
        ("files", "abc", "a list of which every element is a string"),
        ("files", ["a", 1], "a list of which every element is a string"),
        ("widths", [1, 2], "a tuple of which every element is a whole number"),
        ("widths", (1, "2"), "a tuple of which every element is a whole number"),
        ("inner", None, "an instance of Inner"),
        ("inner", {"share": 0.5}, "an instance of Inner"),
    ],
)
def test_values_of_another_type(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        Outer(**{name: value})
    assert str(error.value) == f"{name} is {value!r}; expected {expected}"


def test_values_that_are_right() -> None:
    class Special(Inner):
        pass

    Outer(rate=2, place=None, way="up", files=["a"], widths=(), inner=Special(), limit=3)
    assert Outer(rate=np.float64(0.5)).rate == 0.5, "a float, too"


def test_all_problems_at_once_and_ranges_only_of_numbers() -> None:
    with pytest.raises(ConfigError) as error:
        Outer(count="x", rate="y", kind="three", limit=0)  # type: ignore[arg-type]
    assert [line.split(";")[0] for line in str(error.value).splitlines()] == [
        "count is 'x'",
        "rate is 'y'",
        "kind is 'three'",
    ]
    with pytest.raises(ConfigError) as error:
        Outer(count=0, name="", kind="three")  # type: ignore[arg-type]
    assert str(error.value).splitlines() == [
        "kind is 'three'; expected one of one, two",
        "name is ''; it must not be empty",
        "count is 0; it must be 1 or more",
    ]


def test_empty_strings_are_refused_unless_they_are_the_default() -> None:
    assert Outer(prefix="").prefix == ""
    for name, value, whose in (("name", "", "it"), ("place", "", "it"), ("files", ["a", ""], "an element")):
        with pytest.raises(ConfigError) as error:
            Outer(**{name: value})
        assert str(error.value) == f"{name} is {value!r}; {whose} must not be empty"
    with pytest.raises(ConfigError) as error:
        IndexSpec(dim=8, factory="")
    (line,) = str(error.value).splitlines()
    assert line.startswith("factory is ''; expected Flat, SQfp16, ")


@pytest.mark.parametrize("value", ["\udcff", "/faces/\udcff"])
def test_texts_that_no_file_can_hold(value: str) -> None:
    for name, given in (("name", value), ("files", ["a", value])):
        with pytest.raises(ConfigError, match=f"{name} is .*, which no file of text can hold"):
            Outer(**{name: given})


def test_options_of_jobs_and_specs() -> None:
    with pytest.raises(
        ConfigError, match=r"^steps is 'x'; expected a whole number\nobjective is None; expected an inst"
    ):
        TrainConfig(faces="f", out="o", steps="x", objective=None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^unit_size is 2.5; expected a whole number$"):
        EmbedConfig(faces="f", model="m", out="o", unit_size=2.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^margin is '1'; expected a number$"):
        replace(Objective(), margin="1")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="widths is"):
        replace(backbone_spec("plain", norm="group", dim=8), widths=[8, 8])  # type: ignore[arg-type]


def test_the_check_imports_nothing_more() -> None:
    code = "import sys; import metric_core.options; print([n for n in ('numpy', 'yaml', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
