"""What the processes of an embed job do: decoding units into batches of pixels, and embedding and committing them.

Decoding and the network overlap: an actor works on two units at once, and while one of them has the network the other
one is decoded, or written. Handing units out is left to ``flow``.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from metric_core.artefacts import delta, embeddings, ids, rows, schema
from metric_core.artefacts.delta import Selection
from metric_core.artefacts.faces import Faces
from metric_core.model.embedder import Embedder
from metric_core.sampling import loader
from metric_core.sampling.loader import LOCATOR, Bad
from workflows.embed import units
from workflows.embed.units import Record, Reject, Unit

STAGES = ("read", "decode", "forward", "write")
Precision = Literal["float32", "bf16", "fp16"]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
CPU_PASS = 4
"""Pictures that go through the network at once on a CPU: more are hardly faster, and leave larger holes in memory."""
NO_VECTOR = ("no-vector", "the model's answer is not finite")
COLUMNS = list(dict.fromkeys(["face_id", "identity", "view", "split", *delta.MADE_OF, *LOCATOR]))
EMPTY = schema.FACES.empty_table().select(["face_id", "identity", "view", "uri"])


@dataclass(frozen=True)
class Setup:
    """What all units of a job have in common; sent to each node once."""

    faces: Faces
    embedder: Embedder
    out: str
    split: str | None
    selection: Selection
    dtype: str
    precision: Precision
    batch: int
    device: str


@dataclass
class Batch:
    """Some faces of a unit, decoded."""

    tags: pa.Table
    """``schema.TAGS`` of all of them."""
    table: pa.Table
    """face_id, identity, view and uri of those that are readable."""
    pixels_BCSS: np.ndarray
    """uint8, a row each."""
    rejects: list[Reject]
    """The others."""
    seconds: dict[str, float]
    """Spent on read and decode."""


def batches(setup: Setup, unit: Unit) -> Iterator[Batch]:
    """A unit's faces, read and decoded a batch at a time."""
    spent = dict.fromkeys(STAGES, 0.0)
    with _clock(spent, "read"):
        table = _rows(setup, unit)
    root, how = setup.faces.root, setup.embedder.spec.preprocessing
    for first in range(0, table.num_rows, setup.batch):
        some = table.slice(first, setup.batch).combine_chunks()
        with _clock(spent, "read"):
            locators = some.select(LOCATOR).to_pylist()
            data = loader.fetched(root, range(len(locators)), locators)
        # Put where they stay at once: small arrays that outlive others leave holes in what a process keeps of memory.
        pixels_BCSS = np.empty((len(data), how.channels, how.size, how.size), np.uint8)
        good: list[int] = []
        bad: list[Bad] = []
        with _clock(spent, "decode"):
            for n, one in enumerate(data):
                pixels = loader.decoded(n, one, locators[n]["landmarks"], how)
                if isinstance(pixels, Bad):
                    bad.append(pixels)
                else:
                    pixels_BCSS[len(good)] = pixels
                    good.append(n)
        readable = some.select(EMPTY.column_names).take(pa.array(good, pa.int64()))
        yield Batch(delta.tags(some), readable, pixels_BCSS[: len(good)], _rejects(some, bad), spent)
        spent = dict.fromkeys(STAGES, 0.0)


@dataclass(frozen=True)
class Sample:
    """What a few batches took."""

    embedded: int
    rejected: int
    bytes: int
    """Of a part with these vectors."""
    cosine: float
    """The lowest between a face's vectors in the chosen precision and in float32."""
    seconds: dict[str, float]
    """By stage."""


class Embedding:
    """One process with the model in memory."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._embedder = setup.embedder.to(setup.device).eval()
        self._turn = threading.Lock()

    def ready(self) -> None:
        """Answers once the process is up, the model in place and the network warm."""
        how = self._setup.embedder.spec.preprocessing
        self._forward(np.zeros((1, how.channels, how.size, how.size), np.uint8), self._setup.precision)

    def work(self, unit: Unit, decoded: list[Batch] | None) -> Record:
        """One unit, embedded and committed, unless it was before; its batches come from elsewhere, or are made here."""
        setup = self._setup
        done = units.settled(setup.out, unit)
        if done:
            return done
        tags, table, rejects, seconds = self._embed(batches(setup, unit) if decoded is None else decoded)
        return units.commit(setup.out, unit, tags, table, rejects, seconds)

    def sample(self, todo: list[Unit], count: int) -> Sample:
        """So many first batches of units that have faces of the split, embedded, timed and compared with float32;
        nothing is written."""
        setup = self._setup
        first = (batch for unit in todo for batch in islice(batches(setup, unit), 1))
        taken = list(islice((batch for batch in first if len(batch.pixels_BCSS)), count))
        _, table, rejects, seconds = self._embed(taken)
        start = time.monotonic()
        size = len(units.to_parquet(table))
        seconds["write"] = time.monotonic() - start
        cosine = 1.0
        if setup.precision != "float32":
            for batch in taken:
                one, other = (self._forward(batch.pixels_BCSS, p)[0] for p in ("float32", setup.precision))
                cosine = min(cosine, float(np.nan_to_num(np.einsum("bd,bd->b", one, other), nan=-1).min()))
        return Sample(table.num_rows, len(rejects), size, cosine, seconds)

    def _embed(self, decoded: Iterable[Batch]) -> tuple[pa.Table, pa.Table, list[Reject], dict[str, float]]:
        """The tags, the part, the rejects, and the seconds spent."""
        dim = self._setup.embedder.spec.backbone.dim
        rejects: list[Reject] = []
        seconds = dict.fromkeys(STAGES, 0.0)
        tags = [schema.TAGS.empty_table()]
        kept: list[pa.Table] = []
        vectors = [np.empty((0, dim), np.float32)]
        norms = [np.empty(0, np.float32)]
        for batch in decoded:
            seconds = {stage: seconds[stage] + batch.seconds[stage] for stage in STAGES}
            rejects += batch.rejects
            tags.append(batch.tags)
            kept.append(batch.table)
            if not batch.table.num_rows:
                continue
            with self._turn, _clock(seconds, "forward"):
                vector_BD, norm_B = self._forward(batch.pixels_BCSS, self._setup.precision)
            # A network can answer NaN, and NaN never enters an artefact.
            finite_B = np.isfinite(vector_BD).all(axis=1) & vector_BD.any(axis=1)
            rejects += _rejects(batch.table, [Bad(int(n), *NO_VECTOR) for n in np.flatnonzero(~finite_B)])
            kept[-1] = batch.table.filter(finite_B)
            vectors.append(vector_BD[finite_B])
            norms.append(norm_B[finite_B])
        table = pa.concat_tables([EMPTY, *kept])
        return (
            pa.concat_tables(tags).sort_by("face_id"),
            embeddings.to_table(
                table["face_id"].to_numpy(),
                table["identity"].to_pylist(),
                table["view"].to_pylist(),
                np.concatenate(vectors).astype(self._setup.dtype),
                np.concatenate(norms),
            ),
            rejects,
            seconds,
        )

    def _forward(self, pixels_BCSS: np.ndarray, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
        kind, reduced = self._setup.device, precision != "float32"
        with torch.autocast(kind, AUTOCAST.get(precision), enabled=reduced):
            x_BCSS = torch.from_numpy(pixels_BCSS).to(kind)
            passes = x_BCSS.split(CPU_PASS) if kind == "cpu" else [x_BCSS]
            vectors, norms = zip(*(self._embedder.embed(x) for x in passes))
        return np.concatenate(vectors), np.concatenate(norms)


def _rows(setup: Setup, unit: Unit) -> pa.Table:
    """The unit's rows that are to be embedded, in source order, with the columns that are needed for it."""
    selection = setup.selection
    table = rows.read_range(setup.faces.uri, unit.part, unit.first, unit.last, COLUMNS)
    if selection.wanted is not None:
        table = table.filter(selection.wanted[unit.part.name][unit.first : unit.last])
    elif setup.split is not None:
        table = table.filter(pc.equal(table["split"], setup.split))
    table = table.filter(~ids.within(table["face_id"].to_numpy(), selection.erased_M))
    if unit.retry:
        before = units.rejects_of(setup.out, replace(unit, retry=unit.retry - 1))
        table = table.filter(np.isin(table["face_id"].to_numpy(), before))
    return table


def _rejects(table: pa.Table, bad: list[Bad]) -> list[Reject]:
    face_ids, uris = table["face_id"], table["uri"]
    return [Reject(face_ids[b.row].as_py(), uris[b.row].as_py(), b.reason, b.detail) for b in bad]


@contextmanager
def _clock(spent: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    spent[stage] += time.monotonic() - start
