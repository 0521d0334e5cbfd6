"""Measures how well an index finds people and vectors, and finds the least work that reaches a target.

The truth is known: the probes' exact neighbours were found while the shards were built. The lists that are scanned and
the candidates that are reranked are tuned together, because neither makes up for the other.
"""

# Q: probes, K: candidates per probe, T: neighbours that count.

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core.index.cost import work
from metric_core.index.search import Index
from metric_core.index.truth import Truth

NEIGHBOURS = 10
"""Neighbours whose recall ``--target-recall`` is about."""
_DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
_STAGES = (32, 128, 512, 2048)
"""Depths that are tried are extended in these stages, while that helps."""
_SAME = 1e-6  # two float32 sums of one dot product may differ by this much
_FURTHER = 2  # steps of nprobe that are tried beyond the first that reaches the target: fewer candidates may do then
_SURE = 1.645
"""Standard errors: 95 % of a normal distribution lie below."""


@dataclass(frozen=True)
class Target:
    """What a search must find."""

    identity: float
    """share of the probes whose person comes first, of those whose person an exact search puts first; for a probe
    without a name, whose nearest vector comes first"""
    vectors: float | None = None
    """share of the 10 nearest vectors; None: it does not matter"""

    def met(self, point: "Point") -> bool:
        """Whether a measurement reaches it, with work that can be done."""
        reached = point.identity >= self.identity and (self.vectors is None or point.recall >= self.vectors)
        return reached and point.work < math.inf

    def surely(self, probes: int) -> "Target":
        """What some held-out probes must find for the people of new probes to be found as asked, at 95 % confidence.

        The lower end of Wilson's score interval, at t + z sqrt(t (1 - t) / probes), is then the target t (Wilson 1927,
        "Probable inference, the law of succession, and statistical inference"). Without it, the parameters which just
        reach the target would be those that a chance of the probes favours.
        """
        error = math.sqrt(self.identity * (1 - self.identity) / max(1, probes))
        return replace(self, identity=min(1.0, self.identity + _SURE * error))


@dataclass(frozen=True)
class Point:
    """A measurement."""

    nprobe: int | None
    """lists scanned per probe; None for an exact scan"""
    depth: int | None
    """candidates reranked per probe; None where nothing is"""
    identity: float
    """recall of people, as in ``Target``; that of the nearest vector where no probe has a person to be found"""
    first: float
    """share of the probes whose nearest vector was found"""
    recall: float
    """share of the 10 nearest vectors that were found among the 10"""
    work: float
    """per probe, in the unit of ``cost``: the number of rows, lists and candidates that are looked at, weighted;
    infinite where more candidates would be needed than can be reranked"""


@dataclass(frozen=True)
class Tuned(Point):
    """The chosen measurement."""

    probes: int
    """held-out probes"""
    counted: int
    """those whose person an exact search puts first, and those without a name"""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """for each nprobe that was tried, the measurement with the least depth that reaches the target, else the best"""


def tune(index: Index, truth: Truth, target: Target, *, crowding: float = 1.0, start: int = 1) -> Tuned:
    """The measurement that reaches the target with the least work; the best one if none does.

    Args:
        index: where the probes are looked for; they are in it, and do not find themselves.
        truth: the probes and their exact neighbours in it.
        target: what must be reached.
        crowding: rows of the whole index divided by rows of this one, if it is a sample: more rows come between a probe
            and its person there, and more candidates must be reranked (``deeper``).
        start: lists that are tried first; fewer are only tried if these reach the target.
    """
    curve: list[Point] = []
    further = 0
    every = steps(index.nlist)
    more = [nprobe for nprobe in every if nprobe is None or nprobe >= min(start, index.nlist or 1)]
    for nprobe in more:
        curve.append(_best_depth(index, truth, nprobe, target, crowding))
        further += target.met(curve[-1])
        if further > _FURTHER:
            break
    for nprobe in every[: len(every) - len(more)][::-1]:
        if not target.met(curve[0]):
            break
        curve.insert(0, _best_depth(index, truth, nprobe, target, crowding))
    reached = [point for point in curve if target.met(point)]
    if reached:
        best = min(reached, key=lambda point: (point.work, point.nprobe or 0))
    else:
        best = max(curve, key=lambda point: (min(point.identity, target.identity), point.recall))
    shown = [asdict(point) for point in curve]
    return Tuned(**asdict(best), probes=len(truth.probes), counted=int(truth.counted_Q.sum()), curve=shown)


def steps(nlist: int | None) -> list[int | None]:
    """Numbers of lists to try: 1, 2, 3, 4, 6, 8, 12 ... and all of them; [None] without lists."""
    if nlist is None:
        return [None]
    numbers = {n for power in range(nlist.bit_length()) for n in (2**power, 3 * 2**power // 2) if n < nlist}
    return [*sorted(numbers), nlist]


def measure(index: Index, truth: Truth, nprobe: int | None, depth: int | None) -> Point:
    """What the index finds with one pair of parameters."""
    own_Q = _codes(truth.probes.identity_Q, index.names)
    if depth is None:
        return _point(truth, own_Q, _found(index, truth, nprobe), index, nprobe, None, 1.0)
    found = _reranked(index, truth, nprobe, depth)
    return _point(truth, own_Q, found, index, nprobe, depth, 1.0)


def deeper(depth: int, crowding: float) -> int:
    """Candidates to rerank in an index that has ``crowding`` times the rows of a sample which needs ``depth``.

    With its square root: between a sample of 98,304 and a million rows (10.2 times), 8 became 16 for 64 product codes,
    and 200 became 600 for 8 of them.
    """
    return round(depth * math.sqrt(crowding))


def _best_depth(index: Index, truth: Truth, nprobe: int | None, target: Target, crowding: float) -> Point:
    """The measurement with the least depth that reaches the target; else the one that comes closest.

    Deeper candidates are compared while they can help: each stage goes four times as deep as the one before and finds
    less that is new.
    """
    if index.spec.refine is None:
        return measure(index, truth, nprobe, None)
    own_Q = _codes(truth.probes.identity_Q, index.names)
    most = max(1, index.rows - 1)
    points: list[Point] = []
    tried = 0
    for number, stage in enumerate(_STAGES):
        depths = [depth for depth in _DEPTHS if tried < depth <= min(stage, most)] or ([most] if not points else [])
        if not depths:
            break
        found = _reranked(index, truth, nprobe, depths[-1])
        for depth in depths:
            within = tuple(column[:, : depth + 1] for column in found)  # and the probe itself
            points.append(_point(truth, own_Q, within, index, nprobe, depth, crowding))
            if target.met(points[-1]):
                return points[-1]
        tried = depths[-1]
        quarter = next(point for point in points if (point.depth or 0) * 4 >= tried)
        gain = points[-1].identity - quarter.identity
        if points[-1].identity + gain * (len(_STAGES) - 1 - number) < target.identity:
            break
    return points[-1]


def _found(index: Index, truth: Truth, nprobe: int | None) -> tuple[np.ndarray, ...]:
    probes = truth.probes
    near = index.search(probes.query_QD, NEIGHBOURS, nprobe=nprobe, exclude_face_id_Q=probes.face_id_Q)
    return near.score_QK, near.face_id_QK, near.code_QK


def _reranked(index: Index, truth: Truth, nprobe: int | None, depth: int) -> tuple[np.ndarray, ...]:
    """Scores, face_ids and codes of identities of ``depth`` candidates, in the order of their codes' scores; the probe
    itself is made to be none of them."""
    score_QK, face_id_QK, code_QK = index.reranked(truth.probes.query_QD, depth + 1, nprobe)
    gone_QK = face_id_QK == truth.probes.face_id_Q[:, None]
    score_QK[gone_QK], face_id_QK[gone_QK], code_QK[gone_QK] = -np.inf, -1, -1
    return score_QK, face_id_QK, code_QK


def _point(
    truth: Truth,
    own_Q: np.ndarray,
    found: tuple[np.ndarray, ...],
    index: Index,
    nprobe: int | None,
    depth: int | None,
    crowding: float,
) -> Point:
    score_QK, face_id_QK, code_QK = found
    order_QT = np.lexsort((face_id_QK, -score_QK), axis=-1)[:, :NEIGHBOURS]
    face_id_QT, code_QT = np.take_along_axis(face_id_QK, order_QT, 1), np.take_along_axis(code_QK, order_QT, 1)
    there_Q = (truth.best.face_id_QW[:, :NEIGHBOURS] >= 0).sum(axis=1)  # an index may have fewer vectors
    first_QT, hit_QT = _among(truth, face_id_QT, np.minimum(there_Q, 1)), _among(truth, face_id_QT, there_Q)
    first = float(first_QT[there_Q > 0, 0].mean()) if there_Q.any() else 1.0
    recall = float(np.minimum(hit_QT.sum(axis=1), there_Q).sum() / there_Q.sum()) if there_Q.any() else 1.0
    person_Q = np.where(truth.unnamed_Q, first_QT[:, 0], (code_QT[:, 0] == own_Q) & (own_Q >= 0))
    counted_Q = truth.counted_Q
    identity = float(person_Q[counted_Q].mean()) if counted_Q.any() else first
    deep = deeper(depth or 0, crowding)
    effort = work(index.spec, round(index.rows * crowding), nprobe, deep, shards=len(index.shards), mapped=index.mapped)
    if deep > _DEPTHS[-1]:
        effort = math.inf
    return Point(nprobe, depth, identity, first, recall, effort)


def _among(truth: Truth, face_id_QT: np.ndarray, count_Q: np.ndarray) -> np.ndarray:
    """bool (Q, T): whether a face is among its probe's ``count_Q`` nearest, or ties with the last of these."""
    score_QW, near_QW = truth.best.score_QW, truth.best.face_id_QW
    last_Q = score_QW[np.arange(len(count_Q)), np.maximum(count_Q, 1) - 1]
    right_QW = np.where((score_QW >= last_Q[:, None] - _SAME) & (near_QW >= 0), near_QW, -2)
    among_QT: np.ndarray = (face_id_QT[:, :, None] == right_QW[:, None, :]).any(axis=2)
    return among_QT


def _codes(identity_Q: list[str | None], names: pa.Array) -> np.ndarray:
    """int64 (Q,): positions in ``names``; -1 for none."""
    code_Q: np.ndarray = pc.index_in(pa.array(identity_Q, pa.string()), names).fill_null(-1).to_numpy()
    return code_Q
