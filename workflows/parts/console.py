"""What a person sees while a job runs: short lines and a progress bar on stderr; stdout stays free for results."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """One line for the person who watches."""
    _console.print(line, markup=False)


class Bar:
    """A running progress bar; its note holds the figures of the moment."""

    def __init__(self, progress: Progress, title: str, total: int, done: int) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, completed=done, note="")

    def update(self, done: int, note: str = "") -> None:
        """Set how much is done, and the note."""
        self._progress.update(self._task, completed=done, note=note)


@contextmanager
def bar(title: str, total: int, *, done: int = 0) -> Iterator[Bar]:
    """A progress bar over ``total`` units while the block runs; where stderr is no terminal, its last state."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=_console, refresh_per_second=4) as progress:
        yield Bar(progress, title, total, done)
