"""Scans a source in this process, or many shards in parallel on Ray. Faces come in the source's order.

What a shard is, and how it is read, is in ``metric_core.sources``.
"""

from collections import deque
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError

from metric_core.artefacts.rows import ROW_GROUP
from metric_core.sources import catalogue
from metric_core.sources.found import Found, Notes, Scan, Source
from workflows.shared import cluster, console
from workflows.shared.console import say
from workflows.shared.options import RunOptions

MANY = 8
"""Number of shards from which starting Ray is worthwhile."""
AHEAD = 2
"""Shards per CPU that are scanned ahead of the reader."""


def tables(source: Source, namespace: str, options: RunOptions) -> Generator[pa.Table, None, None]:
    """The source's faces as rows of the catalogue; its ``notes`` are complete once they are consumed.

    Raises:
        DataError, Missing: as the format's reader.
        JobFailed: a Ray task failed for another reason.
    """
    if len(source.shards) < MANY:
        yield from _in_process(source, namespace)
        return
    with cluster.connected(options):
        yield from _in_parallel(source, namespace)


def _in_process(source: Source, namespace: str) -> Iterator[pa.Table]:
    rows = 0
    for table in _rows(source.faces, namespace, source.unlabelled):
        yield table
        if (rows + table.num_rows) // 100_000 > rows // 100_000:  # the total is not known beforehand
            say(f"{rows + table.num_rows:,} pictures found")
        rows += table.num_rows


def _in_parallel(source: Source, namespace: str) -> Iterator[pa.Table]:
    waiting = deque(source.shards)
    running: deque[Any] = deque()
    rows = 0
    with console.bar("scan shards", len(source.shards)) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < AHEAD * cluster.cpus():
                    running.append(_scan.remote(waiting.popleft(), namespace, source.unlabelled))
                table, notes = ray.get(running.popleft())
                source.notes.update(notes, source.root)
                rows += table.num_rows
                bar.update(len(source.shards) - len(waiting) - len(running), f"{rows:,} pictures")
                yield table
        except RayError as error:
            raise cluster.as_likeness_error(error) from error
        finally:
            for task in running:
                ray.cancel(task)


@ray.remote
def _scan(shard: Scan, namespace: str, unlabelled: bool) -> tuple[pa.Table, Notes]:
    """One shard's rows, and the notes on it."""
    notes = Notes()
    found = list(_rows(shard(notes), namespace, unlabelled))
    return pa.concat_tables([catalogue.to_table([], namespace, unlabelled), *found]), notes


def _rows(faces: Iterator[Found], namespace: str, unlabelled: bool) -> Iterator[pa.Table]:
    while found := list(islice(faces, ROW_GROUP)):
        yield catalogue.to_table(found, namespace, unlabelled)
