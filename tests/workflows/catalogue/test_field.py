"""What people reported of their corpora, and what hostile files try: each is read rightly, or refused with exit 2.

The files are in the folder field of the test data; its EXPECTED.tsv says what each is, and every line there has a case.
"""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.places import DATA

from metric_core.artefacts import manifest, tombstones
from metric_core.artefacts.faces import Faces
from metric_core.errors import LikenessError
from metric_core.sources.fetching import fetch
from workflows.catalogue import job
from workflows.catalogue.config import CatalogueConfig

FIELD = DATA / "field"


class Case(NamedTuple):
    """One source and the one right answer."""

    source: str
    """Below field; ``{made}`` stands for the folder of what the test makes."""
    right: dict[str, str] | str
    """The identity of each key, or what the refusal says."""
    options: dict[str, Any] | None = None
    told: str = ""
    """What a run that succeeds says, too."""


LEVELS = {f"Images/00{p}/{side}/0{n}": f"00{p}" for p in (1, 2, 3) for side in ("frontal", "profile") for n in (1, 2)}
TWO_FOLDERS = r"holds two folders named 'frontal' \(Images/001/frontal and .* Pass --person-level 2 if 001 and 002"
CATALOGUED: dict[str, list[Case]] = {
    "tar-labels-after-pictures/a.tar": [
        Case("tar-labels-after-pictures/a.tar", {f"train/000{n}": "0011"[n] for n in range(4)})
    ],
    "tar-dotted-key/a.tar": [Case("tar-dotted-key/a.tar", {f"train/{n}.05": "0011"[n] for n in range(4)})],
    "tar-person-subfolders/cfp.tar, folder/": [
        Case("tar-person-subfolders/cfp.tar", TWO_FOLDERS),
        Case("tar-person-subfolders/folder", TWO_FOLDERS),
        Case("tar-person-subfolders/cfp.tar", LEVELS, {"person_level": 2}),
        Case("tar-person-subfolders/folder", LEVELS, {"person_level": 2}),
    ],
    "tar-same-member-twice/a.tar": [Case("tar-same-member-twice/a.tar", r"a\.tar holds d/b\.jpg twice: .* tar -u")],
    "tar-hard-link/hl.tar": [Case("tar-hard-link/hl.tar", {"p/1": "p", "p/2": "p"})],
    "tar-txt-caption-or-boxes/*.tar": [
        Case("tar-txt-caption-or-boxes/img2.tar", r"000000000 has no identity; expected 000000000\.cls"),
        Case("tar-txt-caption-or-boxes/img3.tar", {"alice/0": "alice", "alice/1": "alice"}),
        Case("tar-txt-caption-or-boxes/txtclash.tar", {"alice/1": "alice", "alice/2": "alice"}),
    ],
    "rec-idx-repeated-offset/same.rec": [
        Case("rec-idx-repeated-offset/same.rec", r"same\.idx: lines 2 and 3 .* offset 40 to the numbers 1 and 2")
    ],
    "rec-idx-negative/neg.rec": [Case("rec-idx-negative/neg.rec", r"neg\.idx: line 7 has the negative -1681223590")],
    "csv-header-twice/*.csv": [
        Case("csv-header-twice/dupid.csv", "has the column identity twice"),
        Case("csv-header-twice/duphdr.csv", "has the column path twice"),
    ],
    "csv-path-dot/*": [
        Case("csv-path-dot/dotpath.csv", r"row 1 has the path '\.', which names no file"),
        Case("csv-path-dot/slash.csv", "row 1 has the path '/', which names no file"),
        Case("csv-path-dot/L-emptypath.parquet", r"1 rows have no path, the first is row 1 \(''\)"),
    ],
    "parquet-list-empty-identity/*.parquet": [
        Case("parquet-list-empty-identity/L-empty.parquet", r"1 rows have no identity, the first is row 1 \(''\)"),
        Case("parquet-list-empty-identity/L-floatnan.parquet", "1 rows have no identity, the first is row 2"),
    ],
    "parquet-list-binary-path/L-binpath.parquet": [
        Case("parquet-list-binary-path/L-binpath.parquet", {"a": "1", "b": "2"})
    ],
    "parquet-hf-path-only/hf-pathonly.parquet": [
        Case("parquet-hf-path-only/hf-pathonly.parquet", {"hf-pathonly/0": "0", "hf-pathonly/1": "1"})
    ],
    "parquet-view-types/polars-view.parquet": [
        Case("parquet-view-types/polars-view.parquet", {f"polars-view/{n}": "xyxy"[n] for n in range(4)})
    ],
    "parquet-list-nested-identity/L-listid.parquet": [
        Case("parquet-list-nested-identity/L-listid.parquet", r"the column identity is list<element: int64>; expected")
    ],
    "nfd-splits/": [
        Case(
            "nfd-splits/pics",
            {"Ann/0": "Ann", "Ann/1": "Ann", "Jose\u0301/0": "Jose\u0301", "Jose\u0301/1": "Jose\u0301"},
            {"splits": str(FIELD / "nfd-splits" / "splits.csv")},
        )
    ],
    "folder-nfc-nfd-twins/pics": [
        Case(
            "folder-nfc-nfd-twins/pics",
            {"JOSE/1": "JOSE", "Jose\u0301/2": "Jose\u0301", "Jos\xe9/1": "Jos\xe9", "jose/1": "jose"},
            told=r"2 identities differ .* in case or Unicode form \('Jose\\u0301' and 'Jos\\xe9', 'JOSE' and 'jose'\)",
        )
    ],
    "hf-repo-root/hf": [
        Case("hf-repo-root/hf", r"no pictures but data/train-00000-of-00001\.parquet; give --source '.*/hf/data/\*\.p")
    ],
    "(make it) list of 100,000 rows, some cells with quoted newlines": [
        Case("{made}/long.csv", {f"k{n}": f"p{n % 1000}" for n in range(100_000)})
    ],
    "(make it) list whose paths are file:// URLs": [Case("{made}/urls.csv", {"one two": "A", "3": "B"})],
    "hostile/negative-size.tar": [Case("hostile/negative-size.tar", r"a/2\.z has -1024 bytes")],
    "hostile/rec_range.rec, rec_inf.rec": [
        Case("hostile/rec_range.rec", "record 0 promises 999,999,995,903 records of people"),
        Case("hostile/rec_inf.rec", "record 0 has the labels 1 and inf"),
    ],
}
PICTURES = {
    "hostile/eps/anna/holiday.jpg": ["hostile/eps/anna/holiday.jpg"],
    "hostile/webp12000.webp (34 bytes), grey16_10000.png": ["hostile/webp12000.webp", "hostile/grey16_10000.png"],
    "hostile/60000sq.png": ["hostile/60000sq.png"],
    "hostile/scanbomb.jpg": ["hostile/scanbomb.jpg"],
}
MUTATED = "hostile/nul.csv, struct.parquet, fuzz-*"
MUTATED_CASES = [
    Case("hostile/nul.csv", "row 1 has the path .* holds a NUL byte"),
    Case("hostile/struct.parquet", "the column path is struct<a: int64>; expected"),
    Case("hostile/fuzz-webdataset-memory-140/a.tar", r"person3/0003\.json has 4611686018427387904 bytes"),
    Case("hostile/fuzz-recordio-hang-38/train.rec", "record 0 has the labels -5 and 3e"),
    Case("hostile/fuzz-listing-parquet-foreign-3/l.parquet", r"the column key \(binary\) is not text in UTF-8"),
]
BIG_NAME = "hostile/pq_bigname.parquet (7 KB)"
CASES = [*(case for cases in CATALOGUED.values() for case in cases), *MUTATED_CASES]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lists that EXPECTED.tsv asks for and the folder of data does not hold."""
    root = tmp_path_factory.mktemp("made")
    for name in ("one two.jpg", "3.jpg"):
        (root / name).touch()
    urls = [(root / "one two.jpg").as_uri(), f"file://localhost{root}/3.jpg"]
    (root / "urls.csv").write_text(f"path,identity\n{urls[0]},A\n{urls[1]},B\n")
    with (root / "long.csv").open("w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["path", "identity", "key", "view", "landmarks"])
        for n in range(100_000):
            cut = "left\n\r\n" + "x" * 180 if n % 3 == 0 else "y" * 180
            rows.writerow(["3.jpg", f"p{n % 1000}", f"k{n}", cut, " ".join(str(n + m) for m in range(10))])
    return root


def address(case: Case, made: Path) -> str:
    return case.source.replace("{made}", str(made)) if "{made}" in case.source else str(FIELD / case.source)


def named(case: Case) -> str:
    return "-".join([case.source, *(case.options or {})])


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=named(case), marks=pytest.mark.slow if "long" in case.source else ()) for case in CASES],
)
def test_a_corpus_is_read_rightly_or_refused(
    case: Case, made: Path, data_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = CatalogueConfig(source=address(case, made), out=str(tmp_path / "faces"), **(case.options or {}))
    if isinstance(case.right, str):
        with pytest.raises(LikenessError, match=case.right) as refusal:
            job.run(config)
        assert refusal.value.exit_code == 2
        assert "\n" not in str(refusal.value)
        assert not (tmp_path / "faces" / manifest.NAME).exists()
        return
    job.run(config)
    faces = Faces.open(str(tmp_path / "faces"))
    assert dict(zip(faces.table["key"].to_pylist(), faces.table["identity"].to_pylist())) == case.right
    assert faces.table.num_rows == len(case.right)
    if "splits" in (case.options or {}):
        assert sorted(faces.table["split"].to_pylist()) == ["train", "train", "valid", "valid"]
    assert re.search(case.told, capfd.readouterr().err)


def test_links_and_paths_lead_to_the_pictures(data_root: Path, tmp_path: Path) -> None:
    for number, source in enumerate(("tar-hard-link/hl.tar", "parquet-hf-path-only/hf-pathonly.parquet")):
        out = str(tmp_path / str(number))
        job.run(CatalogueConfig(source=str(FIELD / source), out=out))
        faces = Faces.open(out)
        one, two = (fetch(faces.root, row) for row in faces.table.to_pylist())
        assert one == two
        assert one.startswith(b"\xff\xd8")
        assert one.endswith(b"\xff\xd9")


SHOW = """
import json, re, subprocess, sys
from metric_core.errors import ImageUnreadable
from metric_core.image.preprocess import preprocess
from metric_core.image.spec import Preprocessing
class Refused(subprocess.Popen):
    def __init__(self, args, **more):
        if args[0] != sys.executable:  # what Python decodes apart is no external program
            raise SystemExit(f"a program was started: {args}")
        super().__init__(args, **more)
subprocess.Popen = Refused
try:
    answer = str(preprocess(open(sys.argv[1], "rb").read(), Preprocessing(112, "rgb")).shape)
except ImageUnreadable as error:
    answer = f"quarantined {error}"
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())  # ru_maxrss knows the parent's peak, too
print(json.dumps([answer, int(peak[1]) >> 10]))
"""


@pytest.mark.parametrize(
    ("picture", "quarantined"),
    [
        ("hostile/eps/anna/holiday.jpg", True),
        ("hostile/webp12000.webp", False),
        ("hostile/grey16_10000.png", False),
        ("hostile/60000sq.png", True),
        ("hostile/scanbomb.jpg", True),
    ],
)
def test_a_picture_takes_little_time_and_memory(picture: str, quarantined: bool, data_root: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SHOW, str(FIELD / picture)], capture_output=True, text=True, timeout=60, check=True
    )
    answer, megabytes = json.loads(run.stdout)
    assert answer.startswith("quarantined") or not quarantined, answer
    assert megabytes < 900


def test_a_name_that_stands_in_every_row(data_root: Path, tmp_path: Path) -> None:
    with pytest.raises(LikenessError, match="identity has 4") as refusal:
        job.run(CatalogueConfig(source=str(FIELD / "hostile" / "pq_bigname.parquet"), out=str(tmp_path / "faces")))
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda at: manifest.read(f"{at}/fuzz-manifest-foreign-4/matches", "matches"), id="manifest"),
        pytest.param(lambda at: tombstones.read(f"{at}/fuzz-tombstones-foreign-5/t"), id="tombstones"),
    ],
)
def test_mutated_artefacts_are_errors_of_ours(read: Callable[[str], object], data_root: Path) -> None:
    with pytest.raises(LikenessError):
        read(str(FIELD / "hostile"))


def test_every_line_of_the_field_has_a_case(data_root: Path) -> None:
    with (FIELD / "EXPECTED.tsv").open() as f:
        lines = [line["path"] for line in csv.DictReader(f, delimiter="\t")]
    assert sorted(lines) == sorted([*CATALOGUED, *PICTURES, MUTATED, BIG_NAME])
    tested = {case.source.split("/")[1] for case in MUTATED_CASES}
    tested |= {"fuzz-manifest-foreign-4", "fuzz-tombstones-foreign-5"}
    assert {path.name for path in (FIELD / "hostile").glob("fuzz-*")} <= tested
