"""Some of the cases of ``make fuzz``, from a fixed seed; and that the program notices what it looks for."""

from pathlib import Path

import pytest
from fuzz.case import CRASH, FOREIGN, HANG, MEMORY, READ, Case, Outcome
from fuzz.formats import FORMATS
from fuzz.pool import Pool
from fuzz.run import last_line, run

EACH, SEED = 18, 20


@pytest.mark.slow
def test_nothing_but_clean_errors(tmp_path: Path) -> None:
    """500 cases and more, of every format."""
    result = run(list(FORMATS.values()), EACH, SEED, out=tmp_path)
    assert [f"{case.format}, {case.file}: {outcome.what}: {last_line(outcome)}" for case, outcome in result.bad] == []
    assert set(result.tallies) == set(FORMATS)
    assert sum(tally.cases for tally in result.tallies.values()) >= 500
    for name, tally in result.tallies.items():
        assert tally.headers >= 0.3 * tally.cases, name
        assert tally.counts[READ], name


def test_a_case_is_saved_and_read_again(tmp_path: Path) -> None:
    case = Case("list csv", "list.csv", b"\0\n\xff{}", sealed=True)
    assert Case.load(case.save(tmp_path / "out")) == case


@pytest.mark.slow
def test_what_it_looks_for_is_found() -> None:
    """By a reader that does what its input says; the worker is replaced, and reads the next case."""
    found: list[tuple[bytes, Outcome]] = []
    pool = Pool(1, lambda case, outcome: found.append((case.data, outcome)), module="fuzz.misbehaving", seconds=2)
    for data in (b"fine", b"foreign", b"hang", b"fine", b"memory", b"fine", b"crash", b"fine"):
        pool.submit(Case("misbehaving", "x", data))
    pool.close()
    kinds = {b"fine": READ, b"foreign": FOREIGN, b"hang": HANG, b"memory": MEMORY, b"crash": CRASH}
    assert [outcome.what for _, outcome in found] == [kinds[data] for data, _ in found]
