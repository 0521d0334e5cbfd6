"""A validation split with too few pairs is refused before a cluster starts."""

import csv
from pathlib import Path

import pyarrow as pa
import pytest
from support.tiny import small

from metric_core.errors import TooFewImages
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.train import job as train
from workflows.train import validation


@pytest.mark.parametrize(
    ("identities", "found"),
    [
        ("", "0 people with 0 pictures, which make 0 genuine and 0 impostor pairs"),
        ("abcd", "4 people with 4 pictures, which make 0 genuine and 6 impostor pairs"),
        ("aabc", "1 genuine and 5 impostor pairs"),
        ("aaaa", "6 genuine and 0 impostor pairs"),
        ("aabb", None),
        ("aaab", None),
    ],
)
def test_two_pairs_of_each_kind_are_needed(identities: str, found: str | None) -> None:
    split = pa.table({"identity": pa.array(list(identities), pa.string())})
    if found is None:
        validation.check(split)
    else:
        with pytest.raises(TooFewImages, match=found):
            validation.check(split)


def test_one_picture_per_person_is_refused_at_once(people: Path, tmp_path: Path) -> None:
    source = tmp_path / "faces.csv"
    with source.open("w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["path", "identity", "split"])
        for n, folder in enumerate(sorted(people.iterdir())):
            pictures = sorted(folder.iterdir())
            rows.writerows([path, folder.name, "train"] for path in pictures if n < 12)
            rows.writerows([path, folder.name, "valid"] for path in pictures[:1] if n >= 12)
    catalogue.run(CatalogueConfig(source=str(source), out=str(tmp_path / "faces")))
    with pytest.raises(TooFewImages, match="12 people with 12 pictures, which make 0 genuine and 66 impostor pairs"):
        train.run(small(str(tmp_path / "faces"), str(tmp_path / "m"), "sqlite:///unused.db"))
    assert not (tmp_path / "m").exists()
