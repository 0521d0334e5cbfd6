"""What a person sees while a job runs: short lines and a progress bar on stderr; stdout stays free for results."""

import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from metric_core.storage import without_secrets

LINE_EVERY_S = 30.0
"""Seconds between two lines of progress where stderr is no terminal, so that a bar cannot move."""

_console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """Print one line to stderr, without the secrets of its addresses."""
    _console.print(without_secrets(line), markup=False)


def one_line(error: BaseException, most: int = 200) -> str:
    """The start of an error's message, in one line, without the secrets of its addresses."""
    return textwrap.shorten(without_secrets(str(error)), most, placeholder=" …") or type(error).__name__


class Bar:
    """A running progress bar; its note shows the current figures."""

    def __init__(self, progress: Progress, title: str, total: int, done: int) -> None:
        self._progress, self._title, self._total = progress, title, total
        self._task = progress.add_task(title, total=total, completed=done, note="")
        self._last_line = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """Set the number of units done, and the note."""
        self._progress.update(self._task, completed=done, note=note)
        if not _console.is_terminal and time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            seconds = self._progress.tasks[self._task].time_remaining
            left = "" if seconds is None else f"{timedelta(seconds=round(seconds))} left"
            say(", ".join(filter(None, [f"{self._title} {done:,}/{self._total:,}", left, note])))


@contextmanager
def bar(title: str, total: int, *, done: int = 0) -> Iterator[Bar]:
    """A progress bar over ``total`` units while the block runs; where stderr is no terminal, lines instead."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(total)) + 1)),
        TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    with Progress(*columns, console=_console, refresh_per_second=4) as progress:
        yield Bar(progress, title, total, done)
