"""Faces as tensors: a torch Dataset over catalogue rows, and loaders for training steps and for single passes.

The caller applies augmentation (``augment``) and the network to whole batches.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from metric_core import counter
from metric_core.errors import DataError, ImageUnreadable, Missing
from metric_core.image import align
from metric_core.image.limits import DEFAULT, Limits
from metric_core.image.preprocess import preprocess, small
from metric_core.image.spec import Preprocessing
from metric_core.image.watch import ended_if_stuck
from metric_core.sampling.sampler import BatchSampler
from metric_core.sources import fetching

LOCATOR = (*fetching.LOCATOR, "landmarks")
"""The columns of Faces that say where an image is, and where the face is in it."""
MEAN_OF = 1000
"""Number of pictures that a mean face is learnt from."""

TOGETHER = 32
"""Files of them that are in memory at a time."""


@dataclass(frozen=True)
class Bad:
    """A row whose image could not be read."""

    row: int
    """Row number in the catalogue table."""
    reason: str
    """Reason code, as in ``ImageUnreadable``, or missing."""
    detail: str


@dataclass(frozen=True)
class PixelBatch:
    """Loaded rows, in the order requested, without the unreadable ones."""

    pixels_BCSS: torch.Tensor
    """uint8 (B, C, S, S)"""
    row_B: np.ndarray
    """int64 (B,), row numbers in the catalogue table"""
    bad: list[Bad]
    """The unreadable rows."""


def locator(table: pa.Table, row: int) -> dict[str, Any]:
    """The ``LOCATOR`` columns of one row."""
    return {name: table[name][row].as_py() for name in LOCATOR}


def fetched(
    root: str, rows: Sequence[int], locators: Sequence[Mapping[str, Any]], limits: Limits = DEFAULT
) -> list[bytes | Bad]:
    """The image bytes of some rows, read together by their ``locators``; a ``Bad`` where they cannot be read."""
    answers = fetching.fetch_many(root, locators, limits.max_bytes)
    return [answer if isinstance(answer, bytes) else _bad(row, answer) for row, answer in zip(rows, answers)]


def decoded(
    row: int,
    data: bytes | Bad,
    landmarks: Sequence[float] | None,
    how: Preprocessing,
    limits: Limits = DEFAULT,
    *,
    careful: bool = False,
) -> np.ndarray | Bad:
    """Fetched bytes as pixels, uint8 (C, S, S); a ``Bad`` if they cannot be decoded, or ``data`` if it is one.

    A picture that crashes its decoder ends this process, unless ``careful``: then it is a ``Bad``.
    """
    if isinstance(data, Bad):
        return data
    try:
        return preprocess(data, how, landmarks, limits, careful=careful)
    except ImageUnreadable as error:
        return _bad(row, error)


def load(table: pa.Table, root: str, row: int, how: Preprocessing) -> np.ndarray | Bad:
    """One row's pixels, uint8 (C, S, S); a ``Bad`` if they cannot be read."""
    where = locator(table, row)
    return decoded(row, fetched(root, [row], [where])[0], where["landmarks"], how)


def check_landmarks(table: pa.Table) -> None:
    """Raises DataError when no face has landmarks for alignment."""
    if table["landmarks"].null_count == table.num_rows:
        raise DataError(
            "align is arcface but no face in the catalogue has landmarks; make the catalogue from a list with a "
            "column landmarks, or use --align mean-face"
        )


def mean_face(table: pa.Table, root: str, seed: int, limits: Limits = DEFAULT) -> str:
    """The mean face of the table, as ``Preprocessing.mean_face`` holds it, learnt from ``MEAN_OF`` random pictures.

    Raises:
        DataError: none of those can be read.
    """
    draw_N = counter.uniform(seed, 0, table["face_id"].to_numpy(), "mean-face", 1)[:, 0]
    rows = np.argsort(draw_N)[:MEAN_OF].tolist()
    found = []
    for first in range(0, len(rows), TOGETHER):
        some = rows[first : first + TOGETHER]
        for data in fetched(root, some, [locator(table, row) for row in some], limits):
            with suppress(ImageUnreadable):  # training itself counts and limits the unreadable ones
                found += [] if isinstance(data, Bad) else [small(data, limits)]
    if not found:
        raise DataError(f"none of {len(rows)} pictures drawn from the catalogue can be read; check its root {root}")
    return align.to_text(align.learn(np.stack(found)))


def _bad(row: int, error: Exception) -> Bad:
    if isinstance(error, Missing):
        return Bad(row, "missing", str(error))
    reason, _, detail = str(error).partition(": ")
    return Bad(row, reason, detail)


class FaceDataset(Dataset[tuple[int, torch.Tensor | Bad]]):
    """Map-style access to the pixels of catalogue rows. Decoded ones are kept in memory, up to ``cache_bytes``.

    ``careful``: as for ``decoded``.
    """

    def __init__(
        self,
        table: pa.Table,
        root: str,
        how: Preprocessing,
        cache_bytes: int = 0,
        *,
        limits: Limits = DEFAULT,
        careful: bool = False,
    ) -> None:
        self.table, self.root, self.how = table, root, how
        self.limits, self.careful = limits, careful
        self._cache_rows = cache_bytes // (how.channels * how.size**2)
        self._cache: dict[int, torch.Tensor | Bad] = {}

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, row: int) -> tuple[int, torch.Tensor | Bad]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[tuple[int, torch.Tensor | Bad]]:
        """A batch, as torch's loaders request it; the rows that are not in memory are fetched together."""
        known = {row: self._cache[row] for row in rows if row in self._cache}
        unknown = [row for row in dict.fromkeys(rows) if row not in known]
        where = [locator(self.table, row) for row in unknown]
        data_M = fetched(self.root, unknown, where, self.limits)
        with nullcontext() if self.careful else ended_if_stuck(len(unknown)):
            for row, at, data in zip(unknown, where, data_M):
                pixels = decoded(row, data, at["landmarks"], self.how, self.limits, careful=self.careful)
                known[row] = pixels if isinstance(pixels, Bad) else torch.from_numpy(pixels.copy())
                if len(self._cache) < self._cache_rows:
                    self._cache[row] = known[row]
        return [(row, known[row]) for row in rows]

    def collate(self, items: list[tuple[int, torch.Tensor | Bad]]) -> PixelBatch:
        """Stacks the items that could be read; the others go into ``PixelBatch.bad``."""
        good = [(row, value) for row, value in items if isinstance(value, torch.Tensor)]
        shape = (0, self.how.channels, self.how.size, self.how.size)
        pixels = torch.stack([v for _, v in good]) if good else torch.empty(shape, dtype=torch.uint8)
        return PixelBatch(pixels, np.array([r for r, _ in good], np.int64), [v for _, v in items if isinstance(v, Bad)])


class _Steps:
    """A torch batch_sampler that yields one rank's rows of each step from ``first`` to ``last`` (exclusive)."""

    def __init__(self, sampler: BatchSampler, first: int, last: int, rank: int, size: int) -> None:
        self.sampler, self.first, self.last, self.rank, self.size = sampler, first, last, rank, size

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            yield self.sampler.rows(step, self.rank, self.size).tolist()


def training_loader(
    dataset: FaceDataset, sampler: BatchSampler, *, first: int, last: int, rank: int, size: int, workers: int
) -> Iterable[PixelBatch]:
    """A loader of one rank's part of the batches of steps ``first`` to ``last`` (exclusive), as ``PixelBatch``."""
    steps = _Steps(sampler, first, last, rank, size)
    return _loader(dataset, workers, batch_sampler=steps)


def pass_loader(dataset: FaceDataset, rows_N: np.ndarray, *, batch: int, workers: int) -> Iterable[PixelBatch]:
    """A loader of each of the rows once, in order, as ``PixelBatch`` of up to ``batch`` rows."""
    return _loader(dataset, workers, sampler=rows_N.tolist(), batch_size=batch)


def _loader(dataset: FaceDataset, workers: int, **how: object) -> Iterable[PixelBatch]:
    # spawn: forking a process that has run gRPC or OpenMP threads, as a Ray worker has, can deadlock.
    context = "spawn" if workers else None
    return DataLoader(dataset, num_workers=workers, collate_fn=dataset.collate, multiprocessing_context=context, **how)  # type: ignore[arg-type]
