"""Landmarks from every format that has them to aligned pixels."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.shard_writers import write_tar

from metric_core.artefacts import rows, schema
from metric_core.errors import DataError
from metric_core.image.preprocess import preprocess
from metric_core.image.spec import Preprocessing
from metric_core.sampling import loader
from metric_core.sampling.loader import Bad, FaceDataset
from metric_core.sources import catalogue

ALIGNED = Preprocessing(32, "grey", align="arcface")
POINTS = [20.5, 30, 45, 29, 33, 44, 23, 55, 42, 56]


def picture(number: int) -> bytes:
    data = io.BytesIO()
    Image.linear_gradient("L").resize((70 + number, 80)).save(data, "PNG")
    return data.getvalue()


def table_of(address: Path) -> tuple[pa.Table, str]:
    source = catalogue.scan(str(address))
    table = catalogue.to_table(list(source.faces), "n")
    return schema.check(table, schema.FACES, "rows"), source.root


@pytest.fixture(params=["csv", "csv with commas", "list in parquet", "texts in parquet", "tar", "images in parquet"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three faces, the middle one without landmarks."""
    points = [POINTS, None, POINTS]
    spaced = ["" if p is None else " ".join(map(str, p)) for p in points]
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    paths = {"path": [f"{n}.png" for n in range(3)], "identity": list("aab")}
    where = tmp_path / "faces.parquet"
    if request.param == "csv":
        lines = [f"{n}.png,a,{text}\n" for n, text in enumerate(spaced)]
        (tmp_path / "faces.csv").write_text("path,identity,landmarks\n" + "".join(lines))
        return tmp_path / "faces.csv"
    if request.param == "csv with commas":
        lines = [f'{n}.png,a,"{text.replace(" ", ",")}"\n' for n, text in enumerate(spaced)]
        (tmp_path / "faces.csv").write_text("path,identity,landmarks\n" + "".join(lines))
        return tmp_path / "faces.csv"
    if request.param == "list in parquet":
        pq.write_table(pa.table(paths | {"landmarks": pa.array(points, pa.list_(pa.float64()))}), where)
    elif request.param == "texts in parquet":
        pq.write_table(pa.table(paths | {"landmarks": spaced}), where)
    elif request.param == "images in parquet":
        images = {"image": [picture(n) for n in range(3)], "label": [0, 0, 1]}
        pairs = [p and [p[i : i + 2] for i in range(0, 10, 2)] for p in points]
        pq.write_table(pa.table(images | {"landmarks": pairs}), where)
    else:
        members = {}
        for number, p in enumerate(points):
            members[f"{number}.png"] = picture(number)
            members[f"{number}.json"] = json.dumps({"label": 1, "landmarks": p}).encode()
        write_tar(tmp_path / "faces.tar", members)
        return tmp_path / "faces.tar"
    return where


def test_they_reach_the_pixels(source: Path) -> None:
    table, root = table_of(source)
    assert table["landmarks"].to_pylist() == [POINTS, None, POINTS]
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    table = pq.read_table(buffer)
    for row in (0, 2):
        expected = preprocess(picture(row), ALIGNED, POINTS)
        np.testing.assert_array_equal(loader.load(table, root, row, ALIGNED), expected)
    bad = loader.load(table, root, 1, ALIGNED)
    assert isinstance(bad, Bad)
    assert (bad.row, bad.reason) == (1, "no-landmarks")
    batch = FaceDataset(table, root, ALIGNED)
    loaded = batch.collate(batch.__getitems__([2, 1, 0, 2]))
    assert loaded.row_B.tolist() == [2, 0, 2]
    assert [(b.row, b.reason) for b in loaded.bad] == [(1, "no-landmarks")]
    np.testing.assert_array_equal(loaded.pixels_BCSS[1], preprocess(picture(0), ALIGNED, POINTS))


def test_a_catalogue_without_any_can_be_written_and_read_and_not_be_aligned(tmp_path: Path) -> None:
    (tmp_path / "Ann").mkdir()
    (tmp_path / "Ann" / "1.png").write_bytes(picture(0))
    table, _ = table_of(tmp_path)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    assert pq.read_table(buffer).equals(table)
    with pytest.raises(DataError, match="no face in the catalogue has landmarks"):
        loader.check_landmarks(table)


@pytest.mark.parametrize("cell", ["1 2 3", "1 2 3 4 5 6 7 8 9 x", "1 2 3 4 5 6 7 8 9 10 11", "1 2 3 4 5 6 7 8 9 nan"])
def test_cells_that_are_no_landmarks(tmp_path: Path, cell: str) -> None:
    (tmp_path / "1.png").touch()
    (tmp_path / "faces.csv").write_text(f"path,identity,landmarks\n1.png,a,{cell}\n")
    with pytest.raises(DataError, match=rf"faces\.csv, row 1: '{cell}' are not landmarks; expected 10 numbers"):
        table_of(tmp_path / "faces.csv")


def test_the_digest_sees_whose_they_are(tmp_path: Path) -> None:
    lines = [f"{n}.png,a\n" for n in range(3)]
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    (tmp_path / "faces.csv").write_text("path,identity\n" + "".join(lines))
    table, _ = table_of(tmp_path / "faces.csv")
    digests = set()
    for points in ([None] * 3, [POINTS, None, None], [None, POINTS, None], [POINTS[::-1], None, None], [POINTS] * 3):
        column = pa.array(points, schema.FACES.field("landmarks").type)
        changed = table.set_column(table.schema.get_field_index("landmarks"), schema.FACES.field("landmarks"), column)
        digest = rows.Digest()
        assert sum(t.num_rows for t in digest.over([changed])) == 3
        digests.add(digest.hexdigest())
    assert len(digests) == 5
