"""The ``likeness`` command: one subcommand of one or two words per job, its options read from the job's typed config.

Only the job that was asked for is imported, since torch, Ray and MLflow take seconds. All problems with the options
are reported at once; results go to stdout, everything else to stderr. Reading options is in ``arguments``.
"""

import difflib
import errno
import importlib
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, TextIO

from metric_core.errors import LikenessError
from workflows.arguments import before_dashes, help_text, parse
from workflows.shared import stopping


@dataclass(frozen=True)
class Job:
    """A subcommand: the modules of its options and of its work, which are imported only when needed."""

    options: str
    """``module:class`` of its config, which imports nothing heavy."""
    work: str
    """Module with ``run(config)`` and, if the result is not shown as ``name: value`` lines, ``show(result)``."""
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
    "index add": _job("index", "AddConfig", "add a delta to an index, as a new version", "add"),
    "index check": _job("index", "CheckConfig", "verify an index, down to its vectors", "check"),
    "index export": _job("index", "ExportConfig", "write an index as one file for plain FAISS", "export"),
    "index versions": _job("index", "VersionsConfig", "list the versions of an index", "versions"),
    "index publish": _job("index", "PublishConfig", "make a version the live one", "publish"),
    "index rollback": _job("index", "RollbackConfig", "go back to the version that was live before", "rollback"),
    "index diff": _job("index", "DiffConfig", "say whose answers differ between two versions", "diff"),
    "index prune": _job("index", "PruneConfig", "remove old versions and what only they list", "prune"),
    "search": _job("search", "SearchConfig", "find whom pictures show"),
    "verify": _job("verify", "VerifyConfig", "decide whether two pictures show one person"),
    "evaluate": _job("evaluate", "EvaluateConfig", "measure embeddings, from verification to clustering"),
    "embeddings check": _job("embeddings", "CheckConfig", "verify embeddings, also against a catalogue", "check"),
    "embeddings stats": _job("embeddings", "StatsConfig", "say what embeddings hold", "stats"),
    "embeddings export": _job("embeddings", "ExportConfig", "write vectors as .npy or .fvecs", "export"),
    "embeddings compare": _job("embeddings", "CompareConfig", "show how scores move with a new model", "compare"),
    "erase": _job("erase", "EraseConfig", "erase people from everything, for ever"),
    "pipeline": _job("pipeline", "PipelineConfig", "keep an index of a source up to date"),
    "demo": _job("demo", "DemoConfig", "the whole chain, on faces drawn here or on your own"),
    "submit": _job("submit", "SubmitConfig", "run a job on a cluster"),
    "jobs list": _job("submit", "ListConfig", "say which jobs a cluster has", "listing"),
    "jobs status": _job("submit", "OneConfig", "say how a submitted job is doing", "status"),
    "jobs logs": _job("submit", "LogsConfig", "show what a submitted job has said", "logs"),
    "jobs stop": _job("submit", "OneConfig", "stop a submitted job", "stop"),
}

USAGE = """\
usage: likeness JOB [options]

Metric learning for faces at cluster scale.

jobs:
{jobs}

`likeness JOB --help` shows a job's options, `likeness --version` the version.
Exit codes: 0 done, 1 failed, 2 bad input, 3 a new version of an index was worse and is not live; 130 stopped by Ctrl-C,
143 stopped by SIGTERM; the same command continues."""

ADVICE = dict.fromkeys((errno.EMFILE, errno.ENFILE), "; allow more open files (ulimit -n 4096) and start again")
"""What to do about an error of the system, by its number."""

MESSAGE_CHARACTERS = 200
"""Characters shown of an unexpected error's message; the file with its traceback has all of them."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 (failed), 2 (bad input), 130 (Ctrl-C) or 143 (SIGTERM)."""
    args = sys.argv[1:] if argv is None else argv
    name, rest = job_of(args)
    if not name:
        return _without_job(args)
    with stopping.raised() as signals:
        try:
            return _run(name, rest)
        except KeyboardInterrupt as error:  # Ray replaces ours by a plain one
            stopped = error if isinstance(error, stopping.Stopped) else signals.stopped()
            _print_error(name, str(stopped))
            return stopped.exit_code


def _run(name: str, rest: list[str]) -> int:
    try:
        config_class = JOBS[name].config_class
        own = before_dashes(rest)
        if "-h" in own or "--help" in own:
            sys.stdout.write(help_text(f"likeness {name}", f"{JOBS[name].text.capitalize()}.", config_class))
            return 0
        config, flags = parse(config_class, rest)
        if flags.print_config:
            import yaml

            text = yaml.safe_dump(asdict(config), sort_keys=False)
            sys.stdout.write(_without_secrets(text))
            if text != _without_secrets(text):
                _print_error(name, "users and passwords are left out of the addresses; give them to the job by itself")
            return 0
        if not getattr(config, "verbose", False):
            warnings.simplefilter("ignore")
        job = importlib.import_module(JOBS[name].work)
        with _own_stdout(sys.stderr if getattr(config, "verbose", False) else None), _rights(flags.private):
            result = job.run(config)
        if flags.json:
            print(json.dumps(result))
        else:
            show = getattr(job, "show", None)
            print(show(result) if show else "\n".join(_lines(result)))
        return 0
    except LikenessError as error:
        for line in str(error).splitlines():
            _print_error(name, line)
        return error.exit_code
    except OSError as error:
        _print_error(name, (" ".join(str(error).split()) or type(error).__name__) + ADVICE.get(error.errno or 0, ""))
        return 1
    except Exception as error:  # noqa: BLE001  # an unexpected error is one line, too; its traceback goes to a file
        first = next(iter(str(error).strip().splitlines()), "no message")
        _print_error(name, f"{type(error).__name__}: {first[:MESSAGE_CHARACTERS]}; {_saved_traceback(name)}")
        return 1


@contextmanager
def _own_stdout(others: TextIO | None) -> Iterator[None]:
    """stdout is for the result: what Ray and MLflow print in the block goes to ``others``, or nowhere."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(others or nowhere):
        yield


def _rights(private: bool) -> AbstractContextManager[None]:
    """Who may read what is written in the block: this user only, if ``private``; else as the umask says."""
    from metric_core.storage import private as private_files  # as in _without_secrets

    return private_files() if private else nullcontext()


def job_of(args: list[str]) -> tuple[str, list[str]]:
    """The job that a command line begins with, empty if there is none of that name, and what follows it."""
    words = next((n for n in (2, 1) if " ".join(args[:n]) in JOBS), 0)
    return " ".join(args[:words]), args[words:]


def _without_job(args: list[str]) -> int:
    if args[:1] == ["--version"]:
        print(version("likeness-faces"))
        return 0
    below = [name for name in JOBS if args[1:2] in (["-h"], ["--help"]) and name.startswith(f"{args[0]} ")]
    if below or not args or args[0] in ("-h", "--help"):
        print(
            USAGE.format(jobs="\n".join(f"  {name:<18} {JOBS[name].text}" for name in below or JOBS)),
            file=sys.stdout if args else sys.stderr,
        )
        return 0 if args else 2
    asked = " ".join(args[:2] if any(name.startswith(f"{args[0]} ") for name in JOBS) else args[:1])
    near = [name for name in JOBS if name.startswith(f"{asked} ")] or difflib.get_close_matches(asked, JOBS, n=1)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    print(_without_secrets(f"likeness: there is no job {asked!r}{hint}"), file=sys.stderr)
    return 2


def _print_error(name: str, line: str) -> None:
    print(_without_secrets(f"likeness {name}: {line}"), file=sys.stderr)


def _without_secrets(text: str) -> str:
    from metric_core.storage import without_secrets  # later than help, which needs no storage

    return without_secrets(text)


def _saved_traceback(name: str) -> str:
    """Save the traceback of the current error to a file that only this user can read; returns where it is, as text."""
    import tempfile
    import traceback

    try:
        handle, path = tempfile.mkstemp(prefix="likeness-error-", suffix=".txt")
        with os.fdopen(handle, "w", errors="backslashreplace") as f:
            f.write(f"likeness {version('likeness-faces')} on Python {sys.version}\nlikeness {name}\n\n")
            f.write(_without_secrets(traceback.format_exc()))
    except OSError as error:
        return f"the traceback could not be saved ({error.strerror})"
    return f"the traceback is in {path}"


def _lines(result: dict[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in result.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{key}: {value}"


if __name__ == "__main__":
    sys.exit(main())
