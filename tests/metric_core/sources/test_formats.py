"""One corpus in every format: the same rows, the same ids, the same pixels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.shard_writers import Picture, webdataset, write_parquet, write_recordio, write_tar

from metric_core.image.spec import Preprocessing
from metric_core.sampling import loader
from metric_core.sources import catalogue

HOW = Preprocessing(32, "grey")
Rows = dict[int, tuple[dict, bytes]]


@pytest.fixture(scope="module")
def orl(data_root: Path) -> list[Picture]:
    """400 faces of 40 people, each person's in a row; keys count from 1, as InsightFace's record numbers do."""
    files = [data_root / "orl" / f"s{person}" / f"{n}.pgm" for person in range(1, 41) for n in range(1, 11)]
    return [Picture(file.parent.name[1:], str(n), file.read_bytes()) for n, file in enumerate(files, start=1)]


@pytest.fixture(scope="module")
def tree(orl: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a folder a person."""
    root = tmp_path_factory.mktemp("orl")
    for p in orl:
        (root / "tree" / p.identity).mkdir(parents=True, exist_ok=True)
        (root / "tree" / p.identity / f"{p.key}.pgm").write_bytes(p.data)
    return root / "tree"


def read(address: object) -> Rows:
    """By face_id: all that the formats agree on, and the pixels."""
    source = catalogue.scan(str(address))
    table = catalogue.to_table(list(source.faces), "orl")
    agreed = table.select(["identity", "key", "view", "split"]).to_pylist()
    out = {}
    for row, (face_id, cells) in enumerate(zip(table["face_id"].to_pylist(), agreed)):
        pixels = loader.load(table, source.root, row, HOW)
        assert isinstance(pixels, np.ndarray), pixels
        out[face_id] = (cells, pixels.tobytes())
    return out


def listed(root: Path, orl: list[Picture]) -> None:
    lines = [f"../tree/{p.identity}/{p.key}.pgm,{p.identity},{p.key}\n" for p in orl]
    (root / "faces.csv").write_text("path,identity,key\n" + "".join(lines))


NUMBERED: dict[str, Callable[[Path, list[Picture]], object]] = {
    "list": listed,
    "recordio with a header": lambda root, orl: write_recordio(root / "x.rec", orl, header=True),
    "recordio without an index": lambda root, orl: write_recordio(root / "x.rec", orl, index=False),
    "webdataset": lambda root, orl: write_tar(
        root / "x.tar", {name.replace(".jpg", ".pgm"): data for name, data in webdataset(orl).items()}
    ),
    "parquet": lambda root, orl: write_parquet(root / "x.parquet", orl, row_group=64),
    "parquet with class labels": lambda root, orl: write_parquet(
        root / "x.parquet", orl, names=sorted({p.identity for p in orl})
    ),
}


@pytest.fixture(scope="module")
def numbered(orl: list[Picture], tree: Path) -> Rows:
    """The rows of RecordIO without a header: the keys are the record numbers."""
    (tree.parent / "plain").mkdir()
    write_recordio(tree.parent / "plain" / "x.rec", orl)
    return read(tree.parent / "plain")


@pytest.mark.parametrize("form", NUMBERED)
def test_formats_that_number_faces_agree(form: str, numbered: Rows, orl: list[Picture], tree: Path) -> None:
    root = tree.parent / form
    root.mkdir()
    NUMBERED[form](root, orl)
    (address,) = (path for path in root.iterdir() if path.suffix != ".idx")
    assert len(numbered) == 400
    assert read(address) == numbered


def test_formats_that_go_by_path_agree(numbered: Rows, orl: list[Picture], tree: Path, tmp_path: Path) -> None:
    whole = read(tree)
    write_tar(tmp_path / "tree.tar", {f"{p.identity}/{p.key}.pgm": p.data for p in orl})
    assert read(tmp_path / "tree.tar") == whole
    lines = [f"{p.identity}/{p.key}.pgm,{p.identity}\n" for p in orl]
    (tree / "faces.csv").write_text("path,identity\n" + "".join(lines))
    assert read(tree / "faces.csv") == whole
    by_number = {cells["key"]: (cells["identity"], pixels) for cells, pixels in numbered.values()}
    by_path = {cells["key"]: (cells["identity"], pixels) for cells, pixels in whole.values()}
    assert by_path == {f"{who}/{number}": (who, pixels) for number, (who, pixels) in by_number.items()}


def test_a_changed_picture_is_a_difference(numbered: Rows, orl: list[Picture], tmp_path: Path) -> None:
    changed = [*orl[:-1], Picture(orl[-1].identity, orl[-1].key, orl[-1].data[:-3000] + bytes(3000))]
    write_recordio(tmp_path / "x.rec", changed)
    rows = read(tmp_path / "x.rec")
    assert sum(rows[face_id] != row for face_id, row in numbered.items()) == 1
