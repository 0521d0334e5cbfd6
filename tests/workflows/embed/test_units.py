"""How a catalogue is cut into units."""

from dataclasses import replace

import numpy as np

from metric_core.artefacts.rows import Part
from workflows.embed import units


def test_units_cover_every_row_once() -> None:
    for sizes in ([], [1], [5], [11], [12, 12, 3], [4, 7]):
        parts = [Part(str(n), rows, "") for n, rows in enumerate(sizes)]
        todo = units.cut(parts, 5)
        covered = [(unit.part, row) for unit in todo for row in range(unit.first, unit.last)]
        assert covered == [(part, row) for part in parts for row in range(part.rows)]
        assert [unit.number for unit in todo] == list(range(len(todo)))
        assert all(0 < unit.last - unit.first <= 5 for unit in todo)


def test_units_of_a_delta_hold_wanted_rows() -> None:
    parts = [Part("a", 6, ""), Part("b", 3, ""), Part("c", 4, "")]
    wanted = {"a": [0, 1, 0, 1, 1, 1], "b": [0, 0, 0], "c": [0, 0, 0, 1]}
    todo = units.cut(parts, 2, {name: np.array(flags, bool) for name, flags in wanted.items()})
    assert [(unit.number, unit.part.name, unit.first, unit.last) for unit in todo] == [
        (0, "a", 1, 4),
        (1, "a", 4, 6),
        (2, "c", 3, 4),
    ]


def test_units_keep_their_numbers_and_rows_when_rows_are_erased() -> None:
    """Rows of the whole part by unit, with and without the erased: each unit has the rows that it had."""
    whole = Part("a", 23, "")
    erased = (0, 5, 6, 7, 8, 9, 22)
    left = replace(whole, rows=16, erased=erased)
    numbers = [n for n in range(23) if n not in erased]
    assert left.numbers.tolist() == numbers
    found = {unit.number: numbers[unit.first : unit.last] for unit in units.cut([left], 5)}
    before = {unit.number: range(unit.first, unit.last) for unit in units.cut([whole], 5)}
    assert found == {n: rest for n, rows in before.items() if (rest := [row for row in rows if row not in erased])}
    assert 1 not in found, "of which nothing is left"
