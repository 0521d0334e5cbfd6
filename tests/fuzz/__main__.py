"""Mutates inputs of every reader and shows that nothing but clean errors or successes come out: ``make fuzz``.

    PYTHONPATH=.:tests python -m fuzz --each 1000 --seed 1 --out fuzz-out

exits with 1 if an error is not one of ``metric_core.errors``, or a case takes 10 CPU seconds or 1 GiB, or ends its
process. Each such case is saved in ``--out``; ``--replay FILE`` reads one again in this process.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from fuzz import worker
from fuzz.case import BAD, Case
from fuzz.formats import FORMATS
from fuzz.run import last_line, run, table


def main() -> int:
    """The program; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=1000, help="inputs per format (default 1000)")
    parser.add_argument("--seed", type=int, default=1, help="another one gives other inputs (default 1)")
    parser.add_argument("--format", action="append", choices=FORMATS, help="only this one; may be given several times")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--out", type=Path, default=Path("fuzz-out"), help="folder of bad inputs (default fuzz-out)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="read one saved input again, and nothing else")
    options = parser.parse_args()
    if options.replay:
        return _replay(options.replay)
    start = time.monotonic()
    formats = [FORMATS[name] for name in options.format or FORMATS]
    result = run(formats, options.each, options.seed, workers=options.workers, out=options.out, measure=True)
    print(table(result))
    for case, outcome in result.bad:
        saved = case.save(options.out)
        print(f"\n{outcome.what}: {last_line(outcome)}\n  PYTHONPATH=.:tests {sys.executable} -m fuzz --replay {saved}")
    print(f"\n{time.monotonic() - start:.0f} s")
    return 1 if result.bad else 0


def _replay(path: Path) -> int:
    case = Case.load(path)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        outcome = worker.outcome_of(FORMATS[case.format], case, Path(folder))
    print(f"{outcome.what}\n{outcome.detail}")
    return 1 if outcome.what in BAD else 0


if __name__ == "__main__":
    sys.exit(main())
