"""From units to batches of pixels: reads a unit's rows from the catalogue, fetches their images and decodes them.

Runs in the actors, or in separate tasks if a job has decoders. The network is in ``worker``.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core.artefacts import delta, ids, rows
from metric_core.image.watch import ended_if_stuck
from metric_core.sampling import loader
from metric_core.sampling.loader import LOCATOR, Bad
from workflows.embed.setup import Setup
from workflows.embed.units import STAGES, Reject, Unit

COLUMNS = list(dict.fromkeys(["face_id", "identity", "view", "split", *delta.MADE_OF, *LOCATOR]))
READABLE = ["face_id", "identity", "view", "uri"]
"""Columns of the faces that can be read."""


@dataclass
class DecodedBatch:
    """Some faces of a unit, decoded."""

    tags: pa.Table
    """``schema.TAGS`` of all faces."""
    table: pa.Table
    """``READABLE`` of the readable faces."""
    pixels_BCSS: np.ndarray
    """uint8, one entry per row of ``table``."""
    rejects: list[Reject]
    """The other faces."""
    seconds: dict[str, float]
    """Seconds spent on read and decode."""


def batches(setup: Setup, unit: Unit) -> Iterator[DecodedBatch]:
    """A unit's faces, read and decoded one batch at a time."""
    spent = dict.fromkeys(STAGES, 0.0)
    with clock(spent, "read"):
        table = _rows(setup, unit)
    root, how = setup.faces.root, setup.embedder.spec.preprocessing
    for first in range(0, table.num_rows, setup.batch):
        some = table.slice(first, setup.batch).combine_chunks()
        with clock(spent, "read"):
            locators = some.select(LOCATOR).to_pylist()
            data = loader.fetched(root, range(len(locators)), locators, setup.limits)
        # Decoded into one array: many small arrays would fragment the memory of the process.
        pixels_BCSS = np.empty((len(data), how.channels, how.size, how.size), np.uint8)
        good: list[int] = []
        bad: list[Bad] = []
        with clock(spent, "decode"), nullcontext() if unit.careful else ended_if_stuck(len(data)):
            for n, one in enumerate(data):
                points = locators[n]["landmarks"]
                pixels = loader.decoded(n, one, points, how, setup.limits, careful=unit.careful)
                if isinstance(pixels, Bad):
                    bad.append(pixels)
                else:
                    pixels_BCSS[len(good)] = pixels
                    good.append(n)
        readable = some.select(READABLE).take(pa.array(good, pa.int64()))
        yield DecodedBatch(delta.tags(some), readable, pixels_BCSS[: len(good)], rejects_of(some, bad), spent)
        spent = dict.fromkeys(STAGES, 0.0)


def rejects_of(table: pa.Table, bad: list[Bad]) -> list[Reject]:
    """Rejects for the rows of a table whose numbers are in ``bad``."""
    face_ids, uris = table["face_id"], table["uri"]
    return [Reject(face_ids[b.row].as_py(), uris[b.row].as_py(), b.reason, b.detail) for b in bad]


@contextmanager
def clock(spent: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds that the block takes to ``spent[stage]``."""
    start = time.monotonic()
    yield
    spent[stage] += time.monotonic() - start


def _rows(setup: Setup, unit: Unit) -> pa.Table:
    """The unit's rows to embed, in source order, with ``COLUMNS``."""
    selection = setup.selection
    table = rows.read_range(setup.faces.uri, unit.part, unit.first, unit.last, setup.faces.columns(COLUMNS))
    if selection.wanted is not None:
        table = table.filter(selection.wanted[unit.part.name][unit.first : unit.last])
    elif setup.split is not None:
        table = table.filter(pc.equal(table["split"], setup.split))
    table = table.filter(~ids.within(table["face_id"].to_numpy(), selection.erased_M))
    if unit.retry:
        rejected = setup.store.rejects(replace(unit, retry=unit.retry - 1))
        table = table.filter(np.isin(table["face_id"].to_numpy(), rejected))
    return table
