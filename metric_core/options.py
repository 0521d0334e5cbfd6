"""Options that are checked on construction, in Python and on the command line: one ConfigError lists every problem.

A group of options is a frozen dataclass that derives from ``Options``. Types, the allowed words of a ``Literal`` and
empty strings are checked here; ``problems`` checks the rest, the numbers with ``out_of_range``.
"""

import re
import types
import typing
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

from metric_core.errors import ConfigError

_INTERVAL = re.compile(r"([\[(])(-?[\d.]+|-inf), (-?[\d.]+|inf)([\])])")


class Options:
    """A frozen dataclass of options. The constructor raises ConfigError with one line per problem."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Titles under which help shows the fields, in this order; nested options are groups of their own."""

    def __post_init__(self) -> None:
        kinds = _kinds(type(self))  # type: ignore[arg-type]  # mypy takes classes for unhashable
        values = {name: getattr(self, name) for name in kinds}
        problems = [
            f"{name} is {values[name]!r}; expected {kind.expected}"
            for name, kind in kinds.items()
            if not kind.admits(values[name]) or (kind.words and values[name] not in kind.words)
        ]
        if all(kind.admits(values[name]) for name, kind in kinds.items()):
            found = self.problems()
            empty = [name for name, kind in kinds.items() if kind.filled and _is_empty(values[name])]
            problems += [
                f"{name} is {values[name]!r}; {'it' if values[name] == '' else 'an element'} must not be empty"
                for name in empty
                if not any(line.startswith(f"{name} is ") for line in found)
            ]
            problems += found
            problems += [
                f"{name} is {one!r}, which no file of text can hold; give it another name, in UTF-8"
                for name in kinds
                for one in _texts(values[name])
                if not storable(one)
            ]
        if problems:
            raise ConfigError.of(problems)

    def problems(self) -> list[str]:
        """What is wrong with the values, one line per problem; inherited options first. Called when all have the type
        that they are declared with."""
        return []


def storable(text: str) -> bool:
    """Whether UTF-8 can hold a text. Half of a surrogate pair, as JSON may name it and as Python reads a file name in
    another encoding, fits in no column and no manifest."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _texts(value: Any) -> list[str]:
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, str)]


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


class _Kind(NamedTuple):
    """What values an option can have."""

    types: tuple[type, ...]
    expected: str
    """The types or the allowed words, for messages."""
    words: tuple[object, ...] = ()
    """The values of a ``Literal``; otherwise none."""
    elements: "_Kind | None" = None
    """Of a list or a tuple, what its elements can be."""
    filled: bool = False
    """Whether a string, or one in a list, must have a character."""

    def admits(self, value: Any) -> bool:
        """Whether the value has one of the types; True and False are no numbers."""
        right = isinstance(value, self.types) and (bool in self.types or not isinstance(value, bool))
        return right and (self.elements is None or value is None or all(map(self.elements.admits, value)))


def _is_empty(value: Any) -> bool:
    return value == "" or (isinstance(value, list) and "" in value)


@cache
def _kinds(of: type[Options]) -> dict[str, _Kind]:
    hints = typing.get_type_hints(of)
    return {field.name: _kind(hints[field.name])._replace(filled=field.default != "") for field in fields(of)}  # type: ignore[arg-type]


def _kind(hint: Any) -> _Kind:
    """Of a type as options are declared with; a union is of types without words and of None, if it may be."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return _Kind(tuple({type(word) for word in inner}), f"one of {', '.join(map(str, inner))}", words=inner)
    if origin in (list, tuple):
        elements = _kind(inner[0])
        return _Kind((origin,), f"a {origin.__name__} of which every element is {elements.expected}", elements=elements)
    if origin in (typing.Union, types.UnionType):
        given, *others = [_kind(part) for part in inner if part is not type(None)]
        if others:
            every = [given, *others]
            given = _Kind(
                tuple(of for kind in every for of in kind.types), " or ".join(kind.expected for kind in every)
            )
        if type(None) not in inner:
            return given
        words = given.words and (*given.words, None)
        return given._replace(types=(*given.types, type(None)), expected=f"{given.expected} or None", words=words)
    if hint is float:
        return _Kind((float, int), "a number")
    return _Kind(
        (hint,),
        {int: "a whole number", str: "a string", bool: "True or False"}.get(hint, f"an instance of {hint.__name__}"),
    )
