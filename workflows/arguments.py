"""Turns a job's config, a dataclass, into command-line options with their help, and a command line into a config.

All problems of a command line are reported at once. Running the job is left to the caller.
"""

import argparse
import os
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from typing import Any

from metric_core.errors import ConfigError
from workflows.hints import hint

GENERAL = "general"
"""Title of the options that every job has; they come last."""
UNTITLED = "options"
"""Title of the options that no group names."""
NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|-inf|-nan", re.IGNORECASE)
"""A value that begins like an option."""


@dataclass(frozen=True)
class Option:
    """One leaf of a config, as the command line sees it."""

    path: str
    """Dotted field names, such as ``objective.margin``."""
    type: Any
    default: Any
    """``MISSING`` when it must be given."""
    help: str
    positional: bool
    remainder: bool
    """Whether it takes everything after ``--`` as it stands; at most one option of a job does."""

    @property
    def flag(self) -> str:
        """``--objective.margin``"""
        return "--" + self.path.replace("_", "-")

    @property
    def placeholder(self) -> str:
        """Placeholder of the value in help: N for an integer, X for another number, else the option's own name."""
        if self.remainder:
            return "-- JOB [its options]"
        return {int: "N", float: "X"}.get(_without_none(self.type), self.path.rpartition(".")[2].upper())


def options_of(config_class: type, prefix: str = "", defaults: Any = None) -> Iterator[Option]:
    """The leaves of a config dataclass and of those nested in it, each with the docstring below it as its help.

    ``defaults`` is the outer config's default for a nested one, which may differ from the nested class's own.
    """
    hints = typing.get_type_hints(config_class)
    texts = _field_docs(config_class)
    for field in fields(config_class):
        kind = hints[field.name]
        if is_dataclass(kind):
            yield from options_of(typing.cast(type, kind), prefix + field.name + ".", _default(field))
            continue
        yield Option(
            path=prefix + field.name,
            type=kind,
            default=_default(field) if defaults is None else getattr(defaults, field.name),
            help=texts.get(field.name, ""),
            positional=bool(field.metadata.get("positional")),
            remainder=bool(field.metadata.get("remainder")),
        )


def groups_of(config_class: type) -> dict[str, tuple[str, list[Option]]]:
    """{title: (a line about the group, its options)}: first the groups that the class names, then the nested configs.

    A class names groups in ``GROUPS``; a group of the same title in one of its base classes is appended to them.
    """
    titles: dict[str, list[str]] = {}
    for base in config_class.__mro__:
        for title, names in vars(base).get("GROUPS", {}).items():
            titles.setdefault(title, []).extend(names)
    options = {option.path: option for option in options_of(config_class)}
    groups = {title: ("", [options.pop(name) for name in names if name in options]) for title, names in titles.items()}
    texts = _field_docs(config_class)
    for option in options.values():
        outer = option.path.rpartition(".")[0]
        groups.setdefault(outer or UNTITLED, (texts.get(outer, ""), []))[1].append(option)
    return groups


def help_text(command: str, text: str, config_class: type) -> str:
    """What ``--help`` shows: one line of usage, ``text``, then the options in titled groups."""
    return _parser(config_class, command, text).format_help()


def parse(config_class: type, argv: list[str]) -> tuple[Any, argparse.Namespace]:
    """The config that a command line and its ``--config`` files ask for, and the command's own flags.

    The command line takes precedence over files, wherever ``--config`` stands.

    Raises:
        ConfigError: it lists every problem and, for an unknown option, the nearest valid name.
    """
    parser, options = _parser(config_class), list(options_of(config_class))
    problems: list[str] = []
    values: dict[str, Any] = {}
    flags = argparse.Namespace(json=False, private=False, print_config=False, config=None)
    remainder = next((option.path for option in options if option.remainder), None)
    own = before_dashes if remainder else list  # without such an option, -- is no more than another word
    for tokens in (*_file_tokens(own(argv), options, problems), argv):
        found = _parsed(parser, own(tokens), problems)
        if remainder and "--" in tokens:
            found[remainder] = [*found.get(remainder, []), *tokens[tokens.index("--") + 1 :]]
        values |= {key: value for key, value in found.items() if key not in vars(flags)}
        vars(flags).update({key: value for key, value in found.items() if key in vars(flags)})
    if remainder and problems and "--" not in argv:
        problems.append("the job's own options, if these are some, follow after --")
    missing = [option for option in options if option.default is MISSING and option.path not in values]
    problems += [f"{option.flag} is missing: {_first_clause(option.help)}" for option in missing]
    # An empty text replaces each missing value, so that all others are still checked; problems with it do not count.
    found_problems: list[str] = []
    config = _build(config_class, values | {option.path: "" for option in missing}, found_problems)
    of_missing = tuple(f"{option.path} is " for option in missing)
    problems += [line for line in found_problems if not (of_missing and line.startswith(of_missing))]
    if problems:
        raise ConfigError.of(list(dict.fromkeys(problems)))
    return config, flags


def command_line(config: Any) -> list[str]:
    """A command line for the config, with the options that differ from their defaults in the order of the class."""
    values: list[str] = []
    tokens: list[str] = []
    for option in options_of(type(config)):
        value: Any = config
        for name in option.path.split("."):
            value = getattr(value, name)
        if value == option.default or value is None:
            continue
        if isinstance(value, bool):
            tokens.append(option.flag if value else f"--no-{option.flag[2:]}")
        elif option.positional:
            values += map(str, value)
        elif isinstance(value, list):
            tokens += [option.flag, *map(str, value)] if value else []
        else:
            tokens += [f"{option.flag}={value}"] if str(value).startswith("-") else [option.flag, str(value)]
    return values + tokens


def _parser(config_class: type, command: str = "likeness", text: str = "") -> argparse.ArgumentParser:
    groups = groups_of(config_class)
    needed = [option for _, options in groups.values() for option in options if option.default is MISSING]
    given = [option for _, options in groups.values() for option in options if option.positional]
    usage = [command, *(f"{option.flag} {option.placeholder}" for option in needed)]
    usage += [f"{option.placeholder}..." for option in given if not option.remainder]
    usage += ["[options]", *(option.placeholder for option in given if option.remainder)]
    parser = argparse.ArgumentParser(
        usage=" ".join(usage),
        description=text,
        allow_abbrev=False,
        exit_on_error=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    for title, (about, options) in groups.items():
        group = parser.add_argument_group(title, about.replace("%", "%%") or None)
        for option in options:
            _add(group, option)
    parser._negative_number_matcher = re.compile(rf"(?:{NEGATIVE.pattern})$", re.IGNORECASE)  # argparse knows no 1e-3
    group = parser.add_argument_group(GENERAL)
    group.add_argument(
        "--config",
        metavar="FILE.yaml",
        help="Options from a file; those of the command line take precedence. --no-NAME switches off what it turns on.",
    )
    group.add_argument("--print-config", action="store_true", help="Print the options as a --config file and exit.")
    group.add_argument("--json", action="store_true", help="Print the result as one JSON object.")
    group.add_argument(
        "--private",
        action="store_true",
        help="New files and folders are for this user only (0600, 0700), whatever the umask says.",
    )
    group.add_argument("-h", "--help", action="help", help="Show this help and exit.")
    return parser


def _add(group: Any, option: Option) -> None:
    kind = _without_none(option.type)
    how: dict[str, Any] = {"help": (option.help + _default_text(option)).replace("%", "%%")}
    if kind is bool and option.default is not True:
        group.add_argument(option.flag, dest=option.path, action="store_true", **how)
        group.add_argument(f"--no-{option.flag[2:]}", dest=option.path, action="store_false", help=argparse.SUPPRESS)
        return
    if kind is bool:
        how["action"] = argparse.BooleanOptionalAction
    elif typing.get_origin(kind) is typing.Literal:
        how |= {"choices": typing.get_args(kind)}
    elif typing.get_origin(kind) is list:
        nargs = "*" if option.positional else "+"
        how |= {"nargs": nargs, "metavar": option.placeholder, "type": typing.get_args(kind)[0]}
    else:
        both = {int, str} <= set(typing.get_args(option.type))
        how |= {"type": _number_or_text if both else kind, "metavar": option.placeholder}
    if option.positional:
        group.add_argument(option.path, **how)
    else:
        group.add_argument(option.flag, dest=option.path, **how)


def _number_or_text(value: str) -> int | str:
    return int(value) if value.isdecimal() else value


def _default_text(option: Option) -> str:
    """Text to append to an option's help; empty if its default is None, off or empty."""
    default = option.default
    if default is MISSING:
        return " (required)"
    if default is None or default is False or default in ("", []):
        return ""
    shown = "on" if default is True else f"{default:g}" if isinstance(default, float) else default
    return f" (default: {shown})"


def _first_clause(text: str) -> str:
    return re.split(r"[.;] |\.$", text, maxsplit=1)[0]


def _parsed(parser: argparse.ArgumentParser, tokens: list[str], problems: list[str]) -> dict[str, Any]:
    """The values in the tokens: of an option given twice the last one, of lists and positional values all."""
    known = {name for action in parser._actions for name in action.option_strings}
    values: dict[str, Any] = {}
    for group in _grouped(tokens):
        flag = group[0].split("=", 1)[0]
        if _is_option(group[0]) and flag not in known:
            problems.append(f"there is no option {flag}{hint(flag, known)}")
            continue
        try:
            found, left = parser.parse_known_args(group)
        except argparse.ArgumentError as error:
            problems.append(f"{error.argument_name or flag}: {error.message}")
            continue
        if left:
            problems.append(f"{' '.join(left)}: not expected here")
        for key, value in vars(found).items():
            values[key] = values.get(key, []) + value if isinstance(value, list) else value
    return values


def before_dashes(tokens: list[str]) -> list[str]:
    """What stands before ``--``."""
    return tokens[: tokens.index("--")] if "--" in tokens else tokens


def _grouped(tokens: list[str]) -> Iterator[list[str]]:
    """Each option with its values, so that one bad option hides no other; leading values are a group of their own."""
    group: list[str] = []
    for token in tokens:
        if _is_option(token) and group:
            yield group
            group = []
        group.append(token)
    if group:
        yield group


def _is_option(token: str) -> bool:
    """Whether a token is an option and no value: "-" alone, a negative number and a text with spaces are values."""
    return token.startswith("--") or bool(re.fullmatch(r"-\S+", token) and not NEGATIVE.fullmatch(token))


def _file_tokens(argv: list[str], options: list[Option], problems: list[str]) -> Iterator[list[str]]:
    """The options in each of the --config files, as command-line tokens."""
    paths = [argv[i + 1] for i, a in enumerate(argv[:-1]) if a == "--config"]
    paths += [a.removeprefix("--config=") for a in argv if a.startswith("--config=")]
    positional = {option.path for option in options if option.positional}
    remainder = {option.path for option in options if option.remainder}
    for path in paths:
        import yaml

        tokens: list[str] = []
        try:
            with open(os.path.expanduser(path), encoding="utf-8") as f:
                body = yaml.safe_load(f) or {}
        except UnicodeDecodeError:
            problems.append(f"--config {path}: the file is not in UTF-8; save it as UTF-8")
            continue
        except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: such as a date that does not exist
            problems.append(f"--config {path}: {' '.join(str(error).split())}")
            continue
        if not isinstance(body, dict):
            problems.append(f"--config {path}: expected `option: value` lines, found {type(body).__name__}")
            continue
        after: list[str] = []
        for key, value in _flat(body):
            flag = "--" + key.replace("_", "-")
            if isinstance(value, bool):
                tokens.append(flag if value else "--no-" + flag[2:])
            elif key in remainder:
                after = ["--", *map(str, value or [])]
            elif key in positional:
                tokens = [*map(str, value or []), *tokens]  # in front, where no option can take them
            elif isinstance(value, list):
                tokens += [flag, *map(str, value)] if value else []
            elif value is not None:
                tokens.append(f"{flag}={value}")
        yield tokens + after


def _flat(body: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in body.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _build(
    config_class: type, values: dict[str, Any], problems: list[str], prefix: str = "", defaults: Any = None
) -> Any:
    """The config, nested ones first. What their checks find is appended to ``problems``."""
    hints = typing.get_type_hints(config_class)
    given: dict[str, Any] = {}
    for field in fields(config_class):
        if is_dataclass(hints[field.name]):
            inner = typing.cast(type, hints[field.name])
            nested = _build(inner, values, problems, f"{prefix}{field.name}.", _default(field))
            if nested is not None:
                given[field.name] = nested
        elif prefix + field.name in values:
            given[field.name] = values[prefix + field.name]
    try:
        return config_class(**given) if defaults is None else replace(defaults, **given)
    except ConfigError as error:
        problems += [f"{prefix}{line}" for line in str(error).splitlines()]
        return None


def _without_none(kind: Any) -> Any:
    """A type without its ``| None``."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(k for k in typing.get_args(kind) if k is not type(None))
    return kind


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _field_docs(config_class: type) -> dict[str, str]:
    """{field: the docstring below it, in one line without the marks of code}, also of inherited fields."""
    from docstring_parser import parse_from_object

    texts: dict[str, str] = {}
    for base in reversed(config_class.__mro__[:-1]):
        texts |= {
            p.arg_name: " ".join((p.description or "").replace("``", "").split())
            for p in parse_from_object(base).params
        }
    return texts
