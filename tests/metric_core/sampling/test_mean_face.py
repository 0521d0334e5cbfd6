from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from metric_core.errors import DataError
from metric_core.image import align
from metric_core.sampling import loader
from metric_core.sources import catalogue


def table_of(root: Path) -> pa.Table:
    return catalogue.to_table(list(catalogue.scan(str(root)).faces), "test")


def test_it_depends_on_the_pictures_alone_and_leaves_out_what_cannot_be_read(people: Path, tmp_path: Path) -> None:
    table = table_of(people)
    face = loader.mean_face(table, str(people), seed=0)
    assert align.from_text(face).std() > 10
    backwards = table.take(np.arange(table.num_rows)[::-1])
    assert loader.mean_face(backwards, str(people), seed=0) == face
    broken = tmp_path / "people" / "somebody"
    broken.mkdir(parents=True)
    (broken / "1.jpg").write_bytes(next(people.glob("*/*.jpg")).read_bytes())
    one = loader.mean_face(table_of(broken.parent), str(broken.parent), seed=0)
    (broken / "2.jpg").write_bytes(b"broken")
    assert loader.mean_face(table_of(broken.parent), str(broken.parent), seed=0) == one


def test_no_picture_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "somebody").mkdir()
    (tmp_path / "somebody" / "1.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match="none of 1 pictures"):
        loader.mean_face(table_of(tmp_path), str(tmp_path), seed=0)
