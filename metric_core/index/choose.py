"""Chooses an index: of those that fit the budgets, the one that reaches the target with the least work.

Every candidate is built of a sample of the corpus, whole row groups with people whole, and its probes are looked for
there. What is chosen depends on counts only (bytes, rows scanned, candidates reranked, recall), never on a clock.
"""

# N: rows of the trial, D: components.

import math
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from metric_core.errors import ConfigError
from metric_core.index import shard, template, tuning
from metric_core.index.assign import Assigner
from metric_core.index.corpus import Rows
from metric_core.index.cost import work
from metric_core.index.sample import Sample
from metric_core.index.search import Index
from metric_core.index.spec import IndexSpec, shown
from metric_core.index.truth import Probes, Truth
from metric_core.index.tuning import Target, Tuned

FLAT_ROWS = 100_000
"""Up to this number of rows, an exact scan of everything is fast enough: about 0.3 ms per query over 100 000 x 128."""
SHARD_BYTES = 1 << 30
"""Size of a shard's files. It is built, checked and sent as a whole, in about a minute on one core."""
TRIAL_ROWS = 98_304
"""Rows that candidates are tried on."""
PROBES = 1024
"""Held-out probes; they put the standard error of a recall of 0.99 at 0.3 %."""
TRIAL_PROBES = 512
"""Probes of a trial, whose result is measured again on the finished index."""
_FEWER_LISTS = (1, 2, 4)
PER_IDENTITY = 8
"""Training rows of one person: more would draw lists to those with most pictures."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of an index."""

    rows: int
    """vectors to index"""
    dim: int
    """components per vector"""
    target: Target
    memory: int | None = None
    """most bytes of resident memory that a search may add to its process; None: no limit"""
    disk: int | None = None
    """most bytes of the index's files; None: no limit"""
    shards: int | None = None
    """number of shards; None: from their size"""
    spec: str | None = None
    """the one spec to use; None: the best"""


@dataclass(frozen=True)
class Candidate:
    """A spec that was considered."""

    spec: IndexSpec
    shards: int
    memory: int
    """predicted growth of resident memory, in bytes"""
    disk: int
    """predicted bytes of its files"""
    mapped: bool = False
    """whether there is memory to map its records for reranking"""
    tuned: Tuned | None = None
    """as measured on the sample; None if it was not tried, or does not reach the target"""
    best: float | None = None
    """the highest recall of people that it reached on the sample; None if it was not tried"""
    note: str = ""
    """why it was not chosen"""

    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        found = {"nprobe": None, "depth": None, "identity": self.best, "first": None, "work": None}
        if self.tuned is not None:
            found = {name: getattr(self.tuned, name) for name in found}
        return {"spec": self.spec.factory, "memory": self.memory, "disk": self.disk, **found, "note": self.note}


@dataclass(frozen=True)
class Choice:
    """The chosen index."""

    chosen: Candidate
    template: bytes
    probes: Probes
    table: list[Candidate]
    """all candidates, the chosen one among them"""
    sample_rows: int
    """rows that were read for it"""
    seconds_per_row: float
    """CPU seconds per row that the chosen one took to build on the sample; measured, so not a part of what is stored"""

    def row(self) -> dict[str, Any]:
        """What a version records of it."""
        return {"shards": self.chosen.shards, "candidates": [candidate.row() for candidate in self.table]}


def sample_rows(wanted: Wanted) -> int:
    """Rows that a sample needs, so that every candidate can be trained and tried."""
    return max(min(wanted.rows, TRIAL_ROWS), *(spec.train_rows for spec in _specs(wanted)))


def choose(wanted: Wanted, sample: Sample, seed: int) -> Choice:
    """The index that fits the budgets and reaches the target with the least work.

    Args:
        wanted: what is asked.
        sample: of the corpus.
        seed: random seed of the lists' training.

    Raises:
        ConfigError: nothing that fits the budgets reaches the target, or there are too few or equal vectors; the
            message says what could be had instead.
    """
    _require_varied(sample.rows, wanted)
    trial = _Trial(wanted, sample, seed)
    for fewer in _FEWER_LISTS:  # fewer lists take less memory, and are not as good
        table = [_sized(wanted, spec, trial.people) for spec in _specs(wanted, fewer)]
        fits = {one.spec.factory for one in table if _fits(wanted, one)}
        if fits:
            break
    # Vectors are stored in 8 bits only to save disk.
    finer = {one.spec.factory: one.spec.factory.replace("Refine(SQ8)", "Refine(SQfp16)") for one in table}
    table = [one for one in table if one.spec.refine != "SQ8" or finer[one.spec.factory] not in fits]
    fitting = [one for one in table if one.spec.factory in fits]
    if not fitting:
        raise ConfigError(_too_large(wanted, table))
    tried: dict[str, Candidate] = {}
    for one in fitting:
        best = min((other.tuned.work for other in tried.values() if other.tuned), default=math.inf)
        if trial.least_work(one) >= best:
            tried[one.spec.factory] = replace(one, note="costs more, however well it finds")
        else:
            tried[one.spec.factory] = trial.of(one)
    reached = [(one.tuned.work, one.disk, one) for one in tried.values() if one.tuned]
    if not reached:
        raise ConfigError(_out_of_reach(wanted, list(tried.values())))
    chosen = replace(min(reached, key=lambda found: found[:2])[2], note="chosen")
    tried[chosen.spec.factory] = chosen
    rows = [tried.get(one.spec.factory, replace(one, note="exceeds a budget")) for one in table]
    seconds = trial.seconds_per_row[chosen.spec.factory]
    return Choice(chosen, trial.template(chosen.spec), trial.probes, rows, sample.read, seconds)


class _Trial:
    """Candidates are built and searched on a part of the sample, in memory and a temporary folder."""

    def __init__(self, wanted: Wanted, sample: Sample, seed: int) -> None:
        self._least_nprobe = 1  # lists that the target needs whatever the code, as far as known
        self._needed: list[tuple[IndexSpec, int]] = []  # candidates that it needs with the codes that were tried
        self._wanted, self._sample, self._seed = wanted, sample, seed
        self._probe_M = sample.probes(PROBES)
        self.probes = _probes(sample.rows.take(self._probe_M))
        row_N = sample.whole(TRIAL_ROWS)
        self._rows = sample.rows.take(row_N)
        tried = replace(sample, rows=self._rows, group_N=sample.group_N[row_N])
        shown, clock = _probes(self._rows.take(tried.probes(TRIAL_PROBES))), time.process_time()
        near = shown.nearest()
        near.add(self._rows.face_id_N, self._rows.embedding_ND, self._rows.identity)
        self._truth = Truth(shown, near.best())
        self._truth_seconds = (time.process_time() - clock) * PROBES / TRIAL_PROBES
        self.seconds_per_row: dict[str, float] = {}
        """CPU seconds that building takes, by spec"""
        self._lists: dict[int, np.ndarray] = {}
        self._assigned: dict[int, tuple[np.ndarray, float]] = {}
        self._templates: dict[str, bytes] = {}

    @property
    def people(self) -> int:
        """Estimated identities of the whole corpus."""
        found = len(self._rows.identity.dictionary) / max(1, len(self._rows))
        return max(1, round(found * self._wanted.rows))

    @property
    def _crowding(self) -> float:
        """Rows of the whole corpus for each of the trial's."""
        return self._wanted.rows / max(1, len(self._rows))

    def template(self, spec: IndexSpec) -> bytes:
        """The trained template. Raises ConfigError as ``template.train``."""
        if spec.factory not in self._templates:
            at_M = self._sample.training(spec.train_rows, PER_IDENTITY, self._probe_M)
            if spec.nlist and len(at_M) < spec.min_train_rows:  # a small corpus needs its probes, too
                at_M = self._sample.training(spec.train_rows, PER_IDENTITY)
            rows_ND = self._sample.rows.embedding_ND[at_M]
            if spec.nlist and spec.nlist not in self._lists:
                self._lists[spec.nlist] = template.lists(rows_ND, spec, self._seed)
            centroid_MD = self._lists.get(spec.nlist or 0)
            self._templates[spec.factory] = template.train(rows_ND, spec, self._seed, centroid_MD)
        return self._templates[spec.factory]

    def _assigned_rows(self, spec: IndexSpec) -> tuple[np.ndarray | None, float]:
        """The list of each of the trial's rows, the same for all codes, and the CPU seconds that finding them took."""
        if spec.nlist is None:
            return None, 0.0
        if spec.nlist not in self._assigned:
            clock = time.process_time()
            list_N = Assigner(self._lists[spec.nlist]).lists(self._rows.embedding_ND)
            self._assigned[spec.nlist] = list_N, time.process_time() - clock
        return self._assigned[spec.nlist]

    def least_work(self, candidate: Candidate) -> float:
        """What a candidate takes at least: a coarser code needs no fewer candidates than a finer one that was tried."""
        spec = candidate.spec
        least = max((depth for tried, depth in self._needed if _finer(tried, spec)), default=0)
        depth = tuning.deeper(least, self._crowding) if spec.refine else 0
        return work(spec, self._wanted.rows, self._least_nprobe, depth, mapped=candidate.mapped)

    def of(self, candidate: Candidate) -> Candidate:
        """The candidate with what was measured."""
        spec = candidate.spec
        trained = self.template(spec)
        list_N, shared_seconds = self._assigned_rows(spec)
        with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
            clock = time.process_time()
            built = shard.build(trained, spec, [self._rows], len(self._rows), Path(folder), list_N=list_N)
            spent = time.process_time() - clock + shared_seconds + self._truth_seconds
            self.seconds_per_row[spec.factory] = spent / max(1, len(self._rows))
            index = replace(Index.single(built.paths, spec), mapped=candidate.mapped)
            target, least = self._wanted.target, self._least_nprobe
            found = tuning.tune(index, self._truth, target, crowding=self._crowding, start=least)
        highest = max(point["identity"] for point in found.curve)
        if not target.met(found):
            return replace(candidate, best=highest, note="does not reach the target")
        reached = [point for point in found.curve if point["identity"] >= target.identity]
        self._least_nprobe = max(least, min(point["nprobe"] or 1 for point in reached))
        self._needed.append((spec, min(point["depth"] or 0 for point in reached)))
        return replace(candidate, tuned=found, best=highest, note="more work")


def _finer(one: IndexSpec, other: IndexSpec) -> bool:
    """Whether the codes of a spec surely tell more than another's: of one kind, or product codes of twice the bytes."""
    if one.code == other.code:
        return one.code_bytes > other.code_bytes
    return one.M is not None and other.M is not None and one.code_bytes >= 2 * other.code_bytes


def _require_varied(rows: Rows, wanted: Wanted) -> None:
    """Raises ConfigError where there is nobody to be told apart from anybody else."""
    if len(rows) < 2:
        return
    if rows.identity.null_count == 0 and len(np.unique(rows.code_N)) == 1:
        raise ConfigError(
            f"all of the {len(rows):,} vectors that were looked at are of one person, {rows.identity[0].as_py()!r}, so "
            f"there is nobody to tell apart; look at the identities of the catalogue"
        )
    if wanted.spec is None and (np.ptp(rows.embedding_ND, axis=0) == 0).all():
        raise ConfigError(template.all_equal(len(rows)))


def _probes(rows: Rows) -> Probes:
    names = rows.identity.cast(pa.string()).to_pylist()
    return Probes(rows.face_id_N, names, np.ascontiguousarray(rows.embedding_ND, np.float32))


def _specs(wanted: Wanted, fewer: int = 1) -> list[IndexSpec]:
    """What is considered, the cheapest to search first.

    The number of lists is the power of two nearest to 4 sqrt(rows), the lower end of FAISS's guideline (wiki,
    "Guidelines to choose an index": between 4 sqrt(N) and 16 sqrt(N) below a million vectors).
    """
    rows, dim = wanted.rows, wanted.dim
    if wanted.spec is not None:
        return [IndexSpec(dim, wanted.spec)]
    flat = [IndexSpec(dim, factory) for factory in ("Flat", "SQfp16", "SQ8")]
    if wanted.target.identity >= 1 or (wanted.target.vectors or 0) >= 1:
        return flat[:1]
    if rows <= FLAT_ROWS and (roomy := [spec for spec in flat if _fits(wanted, _sized(wanted, spec, rows))]):
        return roomy[:1]
    nlist = max(1, 2 ** round(math.log2(4 * math.sqrt(rows))) // fewer)
    sub = [dim // part for part in (2, 4, 8, 16) if dim % (2 * part) == 0]
    tight = [dim // part for part in (16, 32) if dim % part == 0]  # the least memory: mapped as they are
    coarse = [*(f"PQ{M}x4fsr" for M in sub), *(f"PQ{M}x8" for M in tight), "RaBitQfs"]
    codes = [f"{code},Refine({refine})" for code in coarse for refine in ("SQfp16", "SQ8")]
    lists = [IndexSpec(dim, f"IVF{nlist},{code}") for code in [*codes, "SQ8", "SQfp16"]]
    return [spec for spec in lists if spec.min_train_rows <= rows] + flat


def _sized(wanted: Wanted, spec: IndexSpec, people: int) -> Candidate:
    shards = wanted.shards or max(1, math.ceil(spec.disk_bytes(wanted.rows, people, 1) / SHARD_BYTES))
    disk = spec.disk_bytes(wanted.rows, people, shards)
    if spec.refine is not None:
        memory = spec.resident_bytes(wanted.rows, people, shards, mapped=True)
        if memory <= (wanted.memory or math.inf):
            return Candidate(spec, shards, memory, disk, mapped=True)
    return Candidate(spec, shards, spec.resident_bytes(wanted.rows, people, shards), disk)


def _fits(wanted: Wanted, candidate: Candidate) -> bool:
    return candidate.memory <= (wanted.memory or math.inf) and candidate.disk <= (wanted.disk or math.inf)


def _too_large(wanted: Wanted, table: list[Candidate]) -> str:
    memory, disk = min(one.memory for one in table), min(one.disk for one in table)
    problems = []
    if wanted.memory is not None and memory > wanted.memory:
        problems.append(
            f"{wanted.rows:,} vectors of {wanted.dim} components take at least {shown(memory)} of memory "
            f"({min(table, key=lambda one: one.memory).spec.factory}), more than the budget of {shown(wanted.memory)}; "
            f"give --memory-budget at least {shown(memory)}, or embed with fewer components"
        )
    if wanted.disk is not None and disk > wanted.disk:
        problems.append(
            f"{wanted.rows:,} vectors of {wanted.dim} components take at least {shown(disk)} on disk "
            f"({min(table, key=lambda one: one.disk).spec.factory}), more than the budget of {shown(wanted.disk)}; "
            f"give --disk-budget at least {shown(disk)}, or embed with fewer components"
        )
    if not problems:
        problems.append("no index meets both budgets; " + "; ".join(_line(one) for one in table))
    return "\n".join(problems)


def _out_of_reach(wanted: Wanted, tried: list[Candidate]) -> str:
    best = max(tried, key=lambda one: (one.best or 0, -one.memory))
    return (
        f"no index within the budgets reaches an identity recall of {wanted.target.identity:g} on a sample"
        f"{'' if wanted.target.vectors is None else f' and a vector recall of {wanted.target.vectors:g}'}; the best, "
        f"{best.spec.factory}, reaches {best.best or 0:.4f} with {shown(best.memory)} of memory and {shown(best.disk)} "
        f"on disk; lower --target-identity-recall, or raise --memory-budget"
    )


def _line(one: Candidate) -> str:
    return f"{one.spec.factory} takes {shown(one.memory)} of memory and {shown(one.disk)} on disk"
