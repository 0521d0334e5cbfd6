"""Ways in which a stored file can stop being what was written, and what is made of it: refused in one clear line, or
mended.

A test of an artefact lists its kinds of file as patterns. ``cells`` gives every pattern with every way, and
``require_every_kind`` fails if a file of the artefact fits no pattern.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from workflows import cli

WAYS = ("flipped", "cut", "swapped", "missing", "linked")


def cells(patterns: Iterable[str]) -> list[tuple[str, str]]:
    """(pattern, way) of every cell."""
    return [(pattern, way) for pattern in patterns for way in WAYS]


def files(folder: Path) -> list[str]:
    """All files below a folder, relative to it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def require_every_kind(folder: Path, patterns: Iterable[str]) -> None:
    """Fail if a file fits no pattern, or a pattern no file."""
    found, patterns = files(folder), list(patterns)
    assert not [name for name in found if not any(re.fullmatch(pattern, name) for pattern in patterns)]
    assert not [pattern for pattern in patterns if not any(re.fullmatch(pattern, name) for name in found)]


def damage(folder: Path, pattern: str, way: str, other: Path) -> str:
    """Tamper with the last file that fits the pattern, in one of ``WAYS``; returns its name.

    ``other``: an artefact of the same kind and of other content, whose file takes the place of one that is swapped.
    """
    name = [name for name in files(folder) if re.fullmatch(pattern, name)][-1]
    path = folder / name
    data = path.read_bytes()
    if way == "flipped":
        path.write_bytes(_flipped(data))
    elif way == "cut":
        path.write_bytes(data[:-7])
    elif way == "swapped":
        theirs = [other / name for name in files(other) if re.fullmatch(pattern, name)]
        assert theirs, f"{other} has no such file"
        assert theirs[-1].read_bytes() != data, f"{theirs[-1]} is the same"
        path.write_bytes(theirs[-1].read_bytes())
    elif way == "missing":
        path.unlink()
    else:
        outside = folder.parent / f"outside-{path.name}"
        path.rename(outside)
        path.symlink_to(outside)
    return name


def _flipped(data: bytes) -> bytes:
    """One bit in the middle is another one; in JSON, at a place that means something."""
    at = len(data) // 2
    if data[:1] == b"{":
        at = next(n for n in range(at, len(data)) if chr(data[n]).isalnum())
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], *, listing: bool = False) -> str | None:
    """The one line with which a command refuses its input; None if it succeeds. ``listing``: it may list several
    problems, each in a line."""
    capsys.readouterr()
    code = cli.main(argv)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("likeness ")]
    if code == 0:
        assert not lines
        return None
    assert code in (1, 2)
    assert len(lines) == 1 or listing, lines
    require_clear(lines[0])
    return "\n".join(lines)


def require_clear(line: str) -> None:
    """A message on purpose, and not that of an error that nobody thought of."""
    assert "the traceback is in" not in line
    assert "\n" not in line
    assert ";" in line or "there is no such file" in line, f"it does not say what to do: {line}"


def outcome(work: Callable[[], object], error: type[Exception]) -> str | None:
    """The message of the error that a call raises; None if it succeeds."""
    try:
        work()
    except error as found:
        require_clear(str(found))
        return str(found)
    return None
