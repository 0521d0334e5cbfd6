"""Options that are checked on construction, in Python and on the command line: one ConfigError lists every problem.

A group of options is a frozen dataclass that derives from ``Options``. ``problems`` checks the numbers, with
``out_of_range``; the allowed words of an option are those of its ``Literal`` type.
"""

import re
import typing
from functools import cache
from typing import Any, ClassVar, Literal

from metric_core.errors import ConfigError

_INTERVAL = re.compile(r"([\[(])(-?[\d.]+|-inf), (-?[\d.]+|inf)([\])])")


class Options:
    """A frozen dataclass of options. The constructor raises ConfigError with one line per problem."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Titles under which help shows the fields, in this order; nested options are groups of their own."""

    def __post_init__(self) -> None:
        problems = [*_unknown_words(self), *self.problems()]
        if problems:
            raise ConfigError.of(problems)

    def problems(self) -> list[str]:
        """What is wrong with the values, one line per problem; inherited options first."""
        return []


def out_of_range(options: object, **ranges: str) -> list[str]:
    """One line per option outside its range; options that are None are not checked.

    Args:
        options: an object with the options as attributes.
        ranges: the interval of each option in mathematical notation, such as ``"[1, inf)"`` or ``"(0, 1]"``.

    Returns:
        Lines such as ``workers is 0; it must be 1 or more``.
    """
    values = {name: getattr(options, name) for name in ranges}
    return [
        f"{name} is {value}; it must be {_in_words(ranges[name])}"
        for name, value in values.items()
        if value is not None and not _within(value, ranges[name])
    ]


def _within(value: float, interval: str) -> bool:
    left, low, high, right = _parts(interval)
    above = float(low) <= value if left == "[" else float(low) < value
    return above and (value <= float(high) if right == "]" else value < float(high))


def _in_words(interval: str) -> str:
    """``0 or more and below 1`` for ``[0, 1)``."""
    left, low, high, right = _parts(interval)
    lower = f"{low} or more" if left == "[" else f"above {low}"
    if high == "inf":
        return lower
    if (left, right) == ("[", "]"):
        return f"from {low} to {high}"
    return f"{lower} and {'at most' if right == ']' else 'below'} {high}"


def _parts(interval: str) -> tuple[str | Any, ...]:
    found = _INTERVAL.fullmatch(interval)
    assert found, f"{interval!r} is not an interval"
    return found.groups()


def _unknown_words(options: Options) -> list[str]:
    """One line per option whose value is not among those of its ``Literal`` type."""
    return [
        f"{name} is {value!r}; expected one of {', '.join(map(str, words))}"
        for name, words in _choices(type(options)).items()  # type: ignore[arg-type]  # mypy takes classes for unhashable
        if (value := getattr(options, name)) not in words
    ]


@cache
def _choices(of: type[Options]) -> dict[str, tuple[object, ...]]:
    hints = typing.get_type_hints(of)
    return {name: typing.get_args(hint) for name, hint in hints.items() if typing.get_origin(hint) is Literal}
