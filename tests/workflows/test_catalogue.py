"""The catalogue job run again: on the same source, on one that changed, and on one that is empty."""

import shutil
from pathlib import Path

import pytest

from metric_core import manifest
from metric_core.data.faces import Faces
from metric_core.errors import DataError, Occupied
from workflows import catalogue
from workflows.catalogue import CatalogueConfig


def test_again_and_after_a_change(people: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "corpus", str(tmp_path / "faces")
    shutil.copytree(people, source)
    config = CatalogueConfig(source=str(source), out=out, valid_fraction=0.4, seed=3)
    first = catalogue.run(config)
    before = (tmp_path / "faces" / manifest.NAME).stat().st_mtime_ns
    assert catalogue.run(config) == first
    told = r"lists other faces than the source now has, or other splits, or erased ones \(144 rows"
    with pytest.raises(Occupied, match=told):
        catalogue.run(CatalogueConfig(source=str(source), out=out, valid_fraction=0.4, seed=4))
    (source / "person-0000" / "00.jpg").unlink()
    with pytest.raises(Occupied, match="144 rows there, 143 here"):
        catalogue.run(config)
    assert (tmp_path / "faces" / manifest.NAME).stat().st_mtime_ns == before, "a finished artefact stays as it is"
    assert Faces.open(out).table.num_rows == 144


def test_a_split_file(people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "splits.csv").write_text("identity,split\nperson-0000,test\nperson-0001,test\n")
    answer = catalogue.run(
        CatalogueConfig(source=str(people), out=str(tmp_path / "f"), splits=str(tmp_path / "splits.csv"))
    )
    assert answer["splits"] == {"test": {"rows": 12, "identities": 2}}
    assert "22 people are not in" in capfd.readouterr().err
    (tmp_path / "splits.csv").write_text("identity,split\nnobody,test\n")
    with pytest.raises(DataError, match="names none of the source's 24 people"):
        catalogue.run(CatalogueConfig(source=str(people), out=str(tmp_path / "g"), splits=str(tmp_path / "splits.csv")))


def test_an_empty_source_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        catalogue.run(CatalogueConfig(source=str(tmp_path / "corpus"), out=str(tmp_path / "faces")))
    assert not (tmp_path / "faces").exists()
