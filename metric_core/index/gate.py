"""Compares a version of an index with the live one before it takes its place: does it still find the same people?

Both answer the same probes, pictures that are in the index and do not find themselves: the stored ones and rows of the
live version. So the comparison is paired, and what two builds of the same data differ by hardly counts. A share falls
only if it falls by more than the tolerance *and* by more than chance would explain (the exact test of McNemar, 1947, on
the probes whose answers differ).
"""

# Q: probes, N: rows of a shard, M: face_ids.

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import bdtrc

from metric_core import counter
from metric_core.artefacts import ids
from metric_core.index import layout
from metric_core.index.layout import Content
from metric_core.index.search import Index
from metric_core.index.truth import Probes

PROBES = 10_000
"""Probes that are compared, where the live version has so many rows."""
TOLERANCE = 0.003
"""Share of probes, of rows and of people that may be lost."""
CHANCE = 0.001
"""Probability below which a fall is no chance."""
_BATCH = 1024


@dataclass(frozen=True)
class Figure:
    """One line of the comparison."""

    name: str
    live: float
    new: float
    allowed: float
    """the least that ``new`` may be"""
    stops: bool
    note: str = ""

    def __str__(self) -> str:
        verdict = "STOPS" if self.stops else "ok"
        return f"{self.name:<20} {self.live:>12.6g} {self.new:>12.6g} {self.allowed:>12.6g}  {verdict:<5} {self.note}"


HEAD = f"{'':<20} {'live':>12} {'new':>12} {'at least':>12}"
"""Of a table of figures."""


@dataclass(frozen=True)
class Answers:
    """The first person of each probe."""

    person_Q: pa.Array
    """strings, null where nobody was found or the best face has no name"""
    face_id_Q: np.ndarray
    """int64, -1 where nothing was found"""
    score_Q: np.ndarray
    """float32"""

    def right(self, probes: Probes) -> np.ndarray:
        """bool (Q,): the probe's own person comes first."""
        same_Q = pc.equal(self.person_Q, pa.array(probes.identity_Q, pa.string())).fill_null(False)
        right_Q: np.ndarray = same_Q.to_numpy(zero_copy_only=False)
        return right_Q


def answers(index: Index, probes: Probes) -> Answers:
    """Whom an index finds first for each probe, the probe itself left out."""
    people, faces, scores = [pa.array([], pa.string())], [ids.NONE], [np.empty(0, np.float32)]
    for start in range(0, len(probes), _BATCH):
        own_Q = probes.face_id_Q[start : start + _BATCH]
        near = index.search(probes.query_QD[start : start + _BATCH], 1, exclude_face_id_Q=own_Q)
        code_Q, score_Q = near.code_QK[:, 0], near.score_QK[:, 0]
        people.append(index.names.take(pa.array(code_Q, mask=code_Q < 0)).cast(pa.string()))
        faces.append(near.face_id_QK[:, 0])
        scores.append(score_Q)
    return Answers(pa.concat_arrays(people), np.concatenate(faces), np.concatenate(scores))


def probes_of(index: Index, most: int = PROBES) -> Probes:
    """The version's stored probes and, up to ``most`` in all, further rows of it as they are stored.

    Which rows is a function of their face_ids. Rows that may not be found are left out, and probes without a name.

    Raises:
        Corrupt: a file of the version is damaged.
    """
    stored = _stored(index)
    found = [_named(stored)]
    left = most - len(found[0])
    if left > 0 and index.rows:
        found.append(_named(_rows(index, left / index.rows, stored.face_id_Q)))
    return _joined(found, index.dim)


def _stored(index: Index) -> Probes:
    """The stored probes; the first format of indexes has none."""
    found = index.version.manifest()
    if found.format == 1:
        return _joined([], index.dim)
    return Probes.parse(index.version.read_checked(Content.parse(found.content), layout.PROBES))


def compare(
    live: Index,
    new: Index,
    probes: Probes,
    gone_M: np.ndarray = ids.NONE,
    *,
    given: Probes | None = None,
    tolerance: float = TOLERANCE,
) -> list[Figure]:
    """What the new version finds beside the live one, and what it has lost.

    Where the versions are of two models, each answers with its own vectors of the same faces.

    Args:
        live: the version that answers now.
        new: the version that would take its place.
        probes: pictures of the live version with names, from ``probes_of``.
        gone_M: int64, sorted: faces that are left out on purpose.
        given: probes with names that somebody has chosen, of the model of both versions.
        tolerance: share of probes, rows and people that may be lost.
    """
    kept = probes.take(~ids.within(probes.face_id_Q, gone_M))
    kept, other = counterparts(live, new, kept)
    figures = []
    for name, before, after in (("probes found", kept, other), ("given probes found", given, given)):
        if before is not None and after is not None and len(before):
            right_Q, now_Q = answers(live, before).right(before), answers(new, after).right(after)
            figures.append(_found(name, right_Q, now_Q, tolerance))
    lost_M, people, of_people = _lost(live, new, gone_M)
    figures.append(_left("rows", live.left, live.left - len(lost_M), tolerance, f"{len(lost_M):,} are gone"))
    gone = f"{len(people):,} are gone{_some(people)}"
    figures.append(_left("people", of_people, of_people - len(people), tolerance, gone))
    return figures


def counterparts(live: Index, new: Index, probes: Probes) -> tuple[Probes, Probes]:
    """The probes that each of two versions answers: the same ones; where they are of two models, each one's own vectors
    of the faces that both have, in the same order."""
    if live.fingerprint == new.fingerprint:
        return probes, probes
    other = _of_faces(new, np.sort(probes.face_id_Q))
    return _ordered(probes.take(ids.within(probes.face_id_Q, other.face_id_Q))), other


def _found(name: str, right_Q: np.ndarray, now_Q: np.ndarray, tolerance: float) -> Figure:
    worse, better = int((right_Q & ~now_Q).sum()), int((now_Q & ~right_Q).sum())
    before, after = float(right_Q.mean()), float(now_Q.mean())
    # The chance of so many or more; scipy.stats has it as binomtest, and takes half a second to import.
    chance = float(bdtrc(worse - 1, worse + better, 0.5)) if worse else 1.0
    stops = before - after > tolerance and chance < CHANCE
    note = f"of {len(right_Q):,}: {worse:,} are lost and {better:,} won"
    return Figure(name, before, after, before - tolerance, stops, note)


def _left(name: str, before: int, after: int, tolerance: float, note: str) -> Figure:
    least = before - tolerance * before
    return Figure(name, before, after, least, after < least, note)


def _some(people: list[str]) -> str:
    return f", {', '.join(people[:3])}{' …' if len(people) > 3 else ''}" if people else ""


def _lost(live: Index, new: Index, gone_M: np.ndarray) -> tuple[np.ndarray, list[str], int]:
    """The face_ids that only the live version finds, the people of whom it alone finds a face, and how many people it
    has."""
    here_M = np.sort(np.concatenate([ids.NONE, *(ids_N for ids_N, _ in visible(new))]))
    there, lost, codes = np.zeros(len(live.names) + 1, bool), [ids.NONE], [np.empty(0, np.int32)]
    for id_N, code_N in visible(live):
        lost_N = ~ids.within(id_N, here_M) & ~ids.within(id_N, gone_M)
        lost.append(id_N[lost_N])
        codes.append(code_N[lost_N])
        there[code_N] = True
    losers = np.unique(np.concatenate(codes))
    names = live.names.take(pa.array(losers[losers >= 0]))
    people = names.filter(pc.invert(pc.is_in(names, _people(new)))).to_pylist()
    return np.concatenate(lost), people, int(there[:-1].sum())


def _people(index: Index) -> pa.Array:
    """The names of those of whom a face may be found."""
    there = np.zeros(len(index.names) + 1, bool)  # the last entry is for faces without a name
    for _, code_N in visible(index):
        there[code_N] = True
    return index.names.filter(pa.array(there[:-1]))


def visible(index: Index) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The face_ids and the codes of identities, -1 without a name, of each shard's rows that may be found."""
    for shard, allowed_N in index.restricted:
        every = slice(None) if allowed_N is None else allowed_N
        yield shard.face_id_N[every], shard.identity_N[every]


def _rows(index: Index, share: float, without_M: np.ndarray) -> Probes:
    """About this share of the rows, as they are stored."""
    without_M = np.sort(without_M)

    def drawn(id_N: np.ndarray) -> np.ndarray:
        drawn_N: np.ndarray = (counter.uniform(0, 0, id_N, "gate", 1)[:, 0] < share) & ~ids.within(id_N, without_M)
        return drawn_N

    return _where(index, drawn)


def _of_faces(index: Index, id_M: np.ndarray) -> Probes:
    """The rows of some faces, as they are stored, by face_id."""
    return _ordered(_where(index, lambda id_N: ids.within(id_N, id_M)))


def _where(index: Index, wanted: Callable[[np.ndarray], np.ndarray]) -> Probes:
    found = []
    for shard, allowed_N in index.restricted:
        wanted_N = wanted(shard.face_id_N)
        at_R = np.flatnonzero(wanted_N if allowed_N is None else wanted_N & allowed_N)
        vector_RD = shard.vectors_at(at_R)
        vector_RD /= np.maximum(np.linalg.norm(vector_RD, axis=1, keepdims=True), 1e-12)
        code_R = shard.identity_N[at_R]
        names = index.names.take(pa.array(code_R, mask=code_R < 0)).to_pylist()
        found.append(Probes(shard.face_id_N[at_R], names, vector_RD))
    return _joined(found, index.dim)


def _ordered(probes: Probes) -> Probes:
    return probes.take(np.argsort(probes.face_id_Q))


def _named(probes: Probes) -> Probes:
    return probes.take(np.array([name is not None for name in probes.identity_Q], bool))


def _joined(found: list[Probes], dim: int) -> Probes:
    return Probes(
        np.concatenate([ids.NONE, *(one.face_id_Q for one in found)]),
        [name for one in found for name in one.identity_Q],
        np.concatenate([np.empty((0, dim), np.float32), *(one.query_QD for one in found)]),
    )
