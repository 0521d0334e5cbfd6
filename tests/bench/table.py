"""What all benchmark programs share: their options, a case of their table, and the table."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Case:
    """One line of the table; a ratio above 1 means that ours is better."""

    case: str
    ours: float | None
    """None where nothing was measured; the unit then says why"""
    peer: float | None
    ratio: float | None
    unit: str


def less(name: str, ours: float, peer: float | None, unit: str) -> Case:
    """A figure of which less is better, such as seconds or megabytes."""
    return Case(name, ours, peer, None if peer is None else peer / ours, unit)


def more(name: str, ours: float, peer: float | None, unit: str) -> Case:
    """A figure of which more is better, such as images per second."""
    return Case(name, ours, peer, None if peer is None else ours / peer, unit)


def skipped(name: str, why: str) -> Case:
    """A case that was not measured."""
    return Case(name, None, None, None, f"skipped: {why}")


def parser(doc: str | None, quick: str) -> argparse.ArgumentParser:
    """The options of every program; ``quick``: help text about what --quick leaves out."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    found.add_argument("--quick", action="store_true", help=f"finish within 2 minutes: {quick}")
    found.add_argument("--json", action="store_true", help="print a list of {case, ours, peer, ratio, unit}")
    return found


def show(cases: Iterable[Case], *, as_json: bool) -> None:
    """Print the cases, as a table or as JSON."""
    if as_json:
        print(json.dumps([asdict(case) for case in cases]))
        return
    print(f"{'case':<56}{'ours':>12}{'peer':>12}{'ratio':>9}  unit")
    for case in cases:
        ours, peer = ("-" if figure is None else f"{figure:.4g}" for figure in (case.ours, case.peer))
        ratio = "-" if case.ratio is None else f"{case.ratio:.2f}"
        print(f"{case.case:<56}{ours:>12}{peer:>12}{ratio:>9}  {case.unit}")
