"""The ``likeness`` command: one subcommand of a word or two a job, its options read off the job's typed config.

Only the job that was asked for is imported, since torch, Ray and MLflow take seconds. All problems with the options
are reported at once; results go to stdout, everything else to stderr.
"""

import argparse
import difflib
import importlib
import json
import os
import sys
import types
import typing
import warnings
from collections.abc import Iterator
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass, replace
from importlib.metadata import version
from typing import Any

from metric_core.errors import ConfigError, LikenessError


@dataclass(frozen=True)
class Job:
    """A subcommand: where its options and its work are, neither imported before it is asked for."""

    options: str
    """``module:class`` of its config, which imports nothing heavy."""
    work: str
    """Module with ``run(config)`` and, where the result is shown otherwise than as lines, ``show(result)``."""
    text: str

    @property
    def config_class(self) -> type:
        """The dataclass of its options."""
        module, name = self.options.split(":")
        found: type = getattr(importlib.import_module(module), name)
        return found


def _job(folder: str, name: str, text: str, work: str = "job") -> Job:
    return Job(f"workflows.{folder}.config:{name}", f"workflows.{folder}.{work}", text)


JOBS = {
    "catalogue": _job("catalogue", "CatalogueConfig", "list the faces of a corpus"),
    "train": _job("train", "TrainConfig", "learn a metric from a catalogue"),
    "embed": _job("embed", "EmbedConfig", "embed every face of a catalogue"),
    "index": _job("index", "IndexConfig", "build and publish a search index from embeddings"),
    "search": _job("search", "SearchConfig", "find whom pictures show"),
    "verify": _job("verify", "VerifyConfig", "decide whether two pictures show one person"),
    "evaluate": _job("evaluate", "EvaluateConfig", "measure embeddings, from verification to clustering"),
    "embeddings check": _job("embeddings", "CheckConfig", "verify embeddings, also against a catalogue", "check"),
    "embeddings stats": _job("embeddings", "StatsConfig", "say what embeddings hold", "stats"),
    "embeddings export": _job("embeddings", "ExportConfig", "write vectors as .npy or .fvecs", "export"),
    "embeddings compare": _job("embeddings", "CompareConfig", "show how scores move with a new model", "compare"),
    "demo": _job("demo", "DemoConfig", "the whole chain, on faces drawn here or on your own"),
}


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

    @property
    def flag(self) -> str:
        """``--objective.margin``"""
        return "--" + self.path.replace("_", "-")


def main(argv: list[str] | None = None) -> int:
    """Run the command; the answer is its exit code: 0, 1 (failed) or 2 (bad input)."""
    args = sys.argv[1:] if argv is None else argv
    words = next((n for n in (1, 2) if " ".join(args[:n]) in JOBS), 0)
    if not words:
        return _top(args)
    name, rest = " ".join(args[:words]), args[words:]
    try:
        config_class = JOBS[name].config_class
        options = list(options_of(config_class))
        if "-h" in rest or "--help" in rest:
            _parser(name, options).print_help()
            return 0
        config, flags = parse(name, config_class, options, rest)
        if flags.print_config:
            import yaml

            sys.stdout.write(yaml.safe_dump(asdict(config), sort_keys=False))
            return 0
        if not getattr(config, "verbose", False):
            warnings.simplefilter("ignore")
        job = importlib.import_module(JOBS[name].work)
        result = job.run(config)
    except LikenessError as error:
        for line in str(error).splitlines():
            print(f"likeness {name}: {line}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"likeness {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"likeness {name}: interrupted; the same command continues", file=sys.stderr)
        return 130
    if flags.json:
        print(json.dumps(result))
    else:
        show = getattr(job, "show", None)
        print(show(result) if show else "\n".join(_lines(result)))
    return 0


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
            help=" ".join(texts.get(field.name, "").split()),
            positional=bool(field.metadata.get("positional")),
        )


def parse(job: str, config_class: type, options: list[Option], argv: list[str]) -> tuple[Any, argparse.Namespace]:
    """The config that a command line and its ``--config`` files ask for, and the command's own flags.

    Files come first and the command line on top, wherever ``--config`` stands.

    Raises:
        ConfigError: with every problem there is, the nearest valid name beside an unknown one.
    """
    parser = _parser(job, options)
    problems: list[str] = []
    values: dict[str, Any] = {}
    flags = argparse.Namespace(json=False, print_config=False, config=None)
    for tokens in (_file_tokens(argv, options, problems), argv):
        found = _parsed(parser, tokens, problems)
        values |= {key: value for key, value in found.items() if key not in vars(flags)}
        vars(flags).update({key: value for key, value in found.items() if key in vars(flags)})
    for option in options:
        if option.default is MISSING and option.path not in values:
            problems.append(f"{option.flag} is missing: {option.help}")
            values[option.path] = ""
    config = _build(config_class, values, problems)
    if problems:
        raise ConfigError.of(list(dict.fromkeys(problems)))
    return config, flags


def _top(args: list[str]) -> int:
    jobs = "\n".join(f"  {name:<18} {job.text}" for name, job in JOBS.items())
    parser = argparse.ArgumentParser(
        prog="likeness",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Metric learning for faces at cluster scale.",
        usage="likeness JOB [options]",
        epilog=f"jobs:\n{jobs}\n\n`likeness JOB --help` shows a job's options.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=version("likeness-faces"))
    if not args:
        parser.print_help(sys.stderr)
        return 2
    _, left = parser.parse_known_args(args)
    asked = " ".join(left[:2] if any(name.startswith(f"{left[0]} ") for name in JOBS) else left[:1])
    near = [name for name in JOBS if name.startswith(f"{asked} ")] or difflib.get_close_matches(asked, JOBS, n=1)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    print(f"likeness: there is no job {asked!r}{hint}", file=sys.stderr)
    return 2


def _parser(job: str, options: list[Option]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"likeness {job}",
        description=JOBS[job].text.capitalize() + ".",
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="options from a file; those given here go on top")
    parser.add_argument("--print-config", action="store_true", help="print the options as a --config file and exit")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    for option in options:
        kind = _plain(option.type)
        text = option.help.replace("%", "%%")
        if option.default is MISSING:
            text += " (required)"
        elif option.default is not None and option.default is not False and option.default != []:
            text += f" (default: {option.default})"
        how: dict[str, Any] = {"help": text}
        if kind is bool:
            how["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is typing.Literal:
            how |= {"choices": typing.get_args(kind)}
        elif typing.get_origin(kind) is list:
            how |= {"nargs": "*" if option.positional else "+", "metavar": option.path.upper()}
        else:
            how |= {"type": kind, "metavar": kind.__name__.upper()}
        if option.positional:
            parser.add_argument(option.path, **how)
        else:
            parser.add_argument(option.flag, dest=option.path, **how)
    return parser


def _parsed(parser: argparse.ArgumentParser, tokens: list[str], problems: list[str]) -> dict[str, Any]:
    """What the tokens say; of an option given twice the last, of positional values all, wherever they stand."""
    known = {name for action in parser._actions for name in action.option_strings}
    positional = {action.dest for action in parser._actions if not action.option_strings}
    values: dict[str, Any] = {}
    for group in _grouped(tokens):
        flag = group[0].split("=", 1)[0]
        if flag.startswith("--") and flag not in known:
            near = difflib.get_close_matches(flag, sorted(known), n=1, cutoff=0.6)
            problems.append(f"there is no option {flag}" + (f"; did you mean {near[0]}?" if near else ""))
            continue
        try:
            found, left = parser.parse_known_args(group)
        except argparse.ArgumentError as error:
            problems.append(f"{error.argument_name or flag}: {error.message}")
            continue
        if left:
            problems.append(f"{' '.join(left)}: not expected here")
        for key, value in vars(found).items():
            values[key] = values.get(key, []) + value if key in positional else value
    return values


def _grouped(tokens: list[str]) -> Iterator[list[str]]:
    """Each option with its values, and leading values by themselves, so that one bad option hides no other."""
    group: list[str] = []
    for token in tokens:
        if token.startswith("--") and group:
            yield group
            group = []
        group.append(token)
    if group:
        yield group


def _file_tokens(argv: list[str], options: list[Option], problems: list[str]) -> list[str]:
    """What the --config files say, as command-line tokens."""
    paths = [argv[i + 1] for i, a in enumerate(argv[:-1]) if a == "--config"]
    paths += [a.removeprefix("--config=") for a in argv if a.startswith("--config=")]
    positional = {option.path for option in options if option.positional}
    tokens: list[str] = []
    for path in paths:
        import yaml

        try:
            with open(os.path.expanduser(path)) as f:
                body = yaml.safe_load(f) or {}
        except (OSError, yaml.YAMLError) as error:
            problems.append(f"--config {path}: {' '.join(str(error).split())}")
            continue
        if not isinstance(body, dict):
            problems.append(f"--config {path}: expected `option: value` lines, found {type(body).__name__}")
            continue
        for key, value in _flat(body):
            flag = "--" + key.replace("_", "-")
            if isinstance(value, bool):
                tokens.append(flag if value else "--no-" + flag[2:])
            elif key in positional:
                tokens = [*map(str, value or []), *tokens]  # in front, where no option can take them
            elif isinstance(value, list):
                tokens += [flag, *map(str, value)] if value else []
            elif value is not None:
                tokens.append(f"{flag}={value}")
    return tokens


def _flat(body: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in body.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _build(
    config_class: type, values: dict[str, Any], problems: list[str], prefix: str = "", defaults: Any = None
) -> Any:
    """The config, nested ones first; what their own checks find goes to ``problems``."""
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


def _plain(kind: Any) -> Any:
    """A type without its ``| None``."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(k for k in typing.get_args(kind) if k is not type(None))
    return kind


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _field_docs(config_class: type) -> dict[str, str]:
    """{field: the docstring below it}, also of inherited fields."""
    from docstring_parser import parse_from_object

    texts: dict[str, str] = {}
    for base in reversed(config_class.__mro__[:-1]):
        texts |= {p.arg_name: p.description or "" for p in parse_from_object(base).params}
    return texts


def _lines(result: dict[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in result.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {value}"


if __name__ == "__main__":
    sys.exit(main())
