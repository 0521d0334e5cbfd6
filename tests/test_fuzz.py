"""Some of the cases of ``make fuzz``, from a fixed seed; and that the program notices what it looks for."""

import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz import worker
from fuzz.case import CLEAN, CRASH, FOREIGN, HANG, MEMORY, READ, Case, Outcome
from fuzz.formats import FORMATS
from fuzz.pool import Pool
from fuzz.run import last_line, run

EACH, SEED = 18, 20
ARTEFACTS_OF_ROWS = ("faces", "embeddings", "unfinished embeddings", "matches", "tombstones")


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
    pool = Pool(1, lambda case, outcome: found.append((case.data, outcome)), module="fuzz.misbehaving", seconds=6)
    for data in (b"fine", b"foreign", b"hang", b"fine", b"memory", b"fine", b"crash", b"fine"):
        pool.submit(Case("misbehaving", "x", data))
    pool.close()
    kinds = {b"fine": READ, b"foreign": FOREIGN, b"hang": HANG, b"memory": MEMORY, b"crash": CRASH}
    assert [outcome.what for _, outcome in found] == [kinds[data] for data, _ in found]


def _table(*names: str) -> bytes:
    """A Parquet file whose columns have these names."""
    sink = io.BytesIO()
    pq.write_table(pa.table([pa.array([1, 2])] * len(names), list(names)), sink)
    return sink.getvalue()


def _zip(data: bytes) -> bytes:
    """A checkpoint whose pickle is another program."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as out:
        for name, body in (("data.pkl", data), ("version", b"3\n"), ("byteorder", b"little")):
            out.writestr(f"state/{name}", body)
    return sink.getvalue()


NO_PARQUET = {
    "garbage": b"x" * 500,
    "footer": b"PAR1" + b"\xff" * 400 + (300).to_bytes(4, "little") + b"PAR1",
    "empty": b"",
    "other columns": _table("x"),
    "a column twice": _table("face_id", "face_id"),
}
NO_TENSORS = {
    "garbage": b"\xff" * 64,
    "empty": b"",
    "cut": (1 << 40).to_bytes(8, "little") + b"{",
    "no tensors": (2).to_bytes(8, "little") + b"{}",
    "a place outside": b"B".ljust(8, b"\0") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'.ljust(66),
}
NO_CHECKPOINT = {
    "pop": _zip(b"\x80\x02s."),
    "no mapping": _zip(b"\x80\x02K\x05."),
    "empty": b"",
    "garbage": b"PK" + b"x" * 99,
}
SEALED = [
    *((name, ".parquet", how, data) for name in ARTEFACTS_OF_ROWS for how, data in NO_PARQUET.items()),
    *(("model", ".safetensors", how, data) for how, data in NO_TENSORS.items()),
    *(("checkpoint", ".pt", how, data) for how, data in NO_CHECKPOINT.items()),
]


@pytest.mark.parametrize(("name", "ending", "how", "data"), SEALED, ids=lambda value: str(value)[:20])
def test_what_has_the_right_digest_and_cannot_be_parsed(
    name: str, ending: str, how: str, data: bytes, tmp_path: Path
) -> None:
    """Each file of the artefact: refused, or made again by a job that continues or repeats."""
    format = FORMATS[name]
    for number, file in enumerate(file for file in format.seeds(tmp_path) if file.endswith(ending)):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = worker.outcome_of(format, Case(name, file, data, sealed=True), folder)
        wanted = (CLEAN, READ) if name in ("unfinished embeddings", "matches", "embeddings", "checkpoint") else (CLEAN,)
        assert outcome.what in wanted, outcome.detail
        assert "\n" not in outcome.detail
