"""Units of embedding work: the rows of the catalogue that each holds, its result, and its record.

Units are a pure function of the catalogue's manifest and, for a delta, of the earlier embeddings. Vectors are computed
in ``worker``, units are committed in ``store``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from metric_core.artefacts import embeddings
from metric_core.artefacts.rows import Part

STAGES = ("read", "decode", "forward", "write")
"""Stages of the work on a unit, in order."""


@dataclass(frozen=True)
class Unit:
    """Rows ``first`` to ``last`` (exclusive) of one part of the catalogue, or the wanted ones among them in a delta."""

    number: int
    part: Part
    first: int
    last: int
    retry: int = 0
    """0: all its rows; n: those that run n - 1 rejected."""
    careful: bool = field(default=False, compare=False)
    """Whether an attempt at it has failed: perhaps one of its pictures ends the process that decodes it."""

    @property
    def name(self) -> str:
        """File name of its part, of its tags and of its quarantine file."""
        return embeddings.part_name(self.number, self.retry)

    def __str__(self) -> str:
        return f"rows {self.first} to {self.last} of {self.part.name}"


class Reject(NamedTuple):
    """A face that could not be embedded."""

    face_id: int
    uri: str
    reason: str
    detail: str


@dataclass(frozen=True)
class UnitResult:
    """What was computed for a unit, to be committed."""

    tags: pa.Table
    """``schema.TAGS`` of every face that went in, sorted by face_id."""
    vectors: pa.Table
    """``schema.embeddings`` of the embedded faces, sorted by face_id."""
    rejects: list[Reject]
    """The other faces."""
    seconds: dict[str, float]
    """Seconds spent on each of ``STAGES`` before the commit."""


@dataclass(frozen=True)
class UnitRecord:
    """The record of a finished unit; the fields are the keys of its JSON file."""

    rows: int
    """Faces embedded."""
    sha256: str | None
    """Of the part; None if the unit has neither vectors nor rejects, and so no part."""
    reasons: dict[str, int]
    """Number of rejects by reason."""
    quarantine_sha256: str | None
    """Of the quarantine file; None without rejects."""
    tags_sha256: str | None
    """Of the tags; None without a part, and for a retry, whose faces are in the tags of the first run."""
    seconds: dict[str, float]
    """Seconds spent on each of ``STAGES``."""

    @classmethod
    def parse(cls, found: Any) -> "UnitRecord":
        """From JSON. Raises TypeError or ValueError if it is of another shape."""
        record = cls(**found)
        digests = (record.sha256, record.quarantine_sha256, record.tags_sha256)
        counts = [record.rows, *record.reasons.values()] if isinstance(record.reasons, dict) else [None]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"rows {record.rows!r} and reasons {record.reasons!r} are no counts")
        if not all(digest is None or isinstance(digest, str) for digest in digests):
            raise ValueError("a digest is no text")
        return record

    @property
    def rejected(self) -> int:
        """Faces in the quarantine file."""
        return sum(self.reasons.values())


def cut(parts: Iterable[Part], size: int, wanted: Mapping[str, np.ndarray] | None = None) -> list[Unit]:
    """Cut a catalogue into units of ``size`` rows, in order; every row is in exactly one, and no unit crosses a part.

    Rows that were erased from the catalogue leave gaps, so that units keep their numbers and their other rows; a unit
    of which nothing remains is not listed. With ``wanted``, as in ``Selection``, units hold ``size`` wanted rows and
    span the other rows between them.
    """
    spans = []
    for part in parts:
        plain = replace(part, erased=())  # a unit is sent to a worker, and needs none of these
        if wanted is None:
            starts = range(0, part.rows + len(part.erased), size)
            edges = np.searchsorted(part.numbers, [*starts, starts.stop]).tolist()
            spans += [(plain, first, last) for first, last in pairwise(edges)]
        else:
            at_M = np.flatnonzero(wanted[part.name])
            spans += [(plain, int(at_M[n]), int(at_M[n : n + size][-1]) + 1) for n in range(0, len(at_M), size)]
    return [Unit(n, part, first, last) for n, (part, first, last) in enumerate(spans) if first < last]
