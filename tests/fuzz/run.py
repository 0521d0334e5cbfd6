"""A run: cases of every format from one seed, and the table of what became of them."""

import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from coverage import Coverage
from fuzz import changes
from fuzz.case import BAD, CLEAN, CRASH, FOREIGN, HANG, MEMORY, READ, Case, Format, Outcome
from fuzz.pool import Pool
from hypothesis import HealthCheck, Phase, given, seed, settings

ROOT = Path(__file__).parents[2]
NAMED = 20
"""Bad outcomes that are kept with their messages, for each format; all are counted and saved."""


@dataclass
class Tally:
    """What became of the cases of one format."""

    counts: Counter[str] = field(default_factory=Counter)
    headers: int = 0
    bad: list[tuple[Case, Outcome]] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """How many there were."""
        return self.counts.total()

    def add(self, case: Case, outcome: Outcome) -> None:
        """Count one."""
        self.counts[outcome.what] += 1
        self.headers += outcome.header
        if outcome.what in BAD and len(self.bad) < NAMED:
            self.bad.append((case, outcome))


@dataclass
class Result:
    """What became of all cases, and which share of their readers' lines they went through."""

    tallies: dict[str, Tally]
    lines: dict[str, float]
    """Percent, by the module's path; empty if it was not measured."""

    @property
    def bad(self) -> list[tuple[Case, Outcome]]:
        """What must not be."""
        return [one for tally in self.tallies.values() for one in tally.bad]


def run(
    formats: list[Format], each: int, number: int, *, workers: int = 2, out: Path | None = None, measure: bool = False
) -> Result:
    """Read ``each`` cases of every format. Those that must not be are saved in ``out``."""
    tallies: dict[str, Tally] = defaultdict(Tally)

    def tell(case: Case, outcome: Outcome) -> None:
        tallies[case.format].add(case, outcome)
        if outcome.what in BAD and out is not None:
            case.save(out)

    with tempfile.TemporaryDirectory(prefix="fuzz-lines-") as folder:
        data_file = Path(folder) / "lines" if measure else None
        pool = Pool(workers, tell, data_file)
        for format in formats:
            _give(pool, format, each, number)
        pool.close()
        return Result(dict(tallies), _percent(data_file, formats) if data_file else {})


def _give(pool: Pool, format: Format, each: int, number: int) -> None:
    with tempfile.TemporaryDirectory(prefix="fuzz-seeds-") as folder:
        seeds = format.seeds(Path(folder))
    for name, data in seeds.items():
        pool.submit(Case(format.name, name, data))

    @seed(number)
    @settings(
        max_examples=max(1, each - len(seeds)),
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(changes.mutated(format, seeds))
    def give(case: Case) -> None:
        pool.submit(case)

    give()


def _percent(data_file: Path, formats: list[Format]) -> dict[str, float]:
    measured = Coverage(data_file, config_file=False)
    measured.combine([str(data_file.parent)])
    out = {}
    for module in dict.fromkeys(module for format in formats for module in format.modules):
        _, lines, _, missing, _ = measured.analysis2(str(ROOT / module))
        out[module] = 100 * (1 - len(missing) / len(lines))
    return out


COLUMNS = (CLEAN, READ, FOREIGN, HANG, MEMORY, CRASH)


def table(result: Result) -> str:
    """The result as text, a line per format and per module."""
    head = ("format", "inputs", "header passed", *(f"{what}s" if what == CLEAN else what for what in COLUMNS))
    rows = [head]
    for name, tally in result.tallies.items():
        share = f"{tally.headers} ({100 * tally.headers // max(1, tally.cases)} %)"
        rows.append((name, str(tally.cases), share, *(str(tally.counts[what]) for what in COLUMNS)))
    total = Counter[str]()
    for tally in result.tallies.values():
        total += tally.counts
    headers = sum(tally.headers for tally in result.tallies.values())
    rows.append(("all", str(total.total()), str(headers), *(str(total[what]) for what in COLUMNS)))
    wide = [max(len(row[at]) for row in rows) for at in range(len(head))]
    text = [
        "  ".join(cell.ljust(w) if not at else cell.rjust(w) for at, (cell, w) in enumerate(zip(row, wide)))
        for row in rows
    ]
    lines = [f"{percent:5.1f} %  {module}" for module, percent in result.lines.items()]
    return "\n".join([*text, "", "lines of the readers that were gone through", *lines] if lines else text)


def last_line(outcome: Outcome) -> str:
    """Of the message, for a list."""
    return (outcome.detail.strip().splitlines() or [""])[-1][:300]
