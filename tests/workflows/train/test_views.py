"""Training across views: a list with views, batches drawn across them, and a loss between them."""

import csv
from pathlib import Path

import pytest
from support.tiny import Chain, small

from metric_core.artefacts.faces import Faces
from metric_core.errors import TooFewImages
from metric_core.learn.objective import Objective
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.train import job as train
from workflows.train.loop import sampler_of, view_codes


def listed(people: Path, out: Path, views: list[str]) -> str:
    """A catalogue of the drawn people in which ``views`` are the views of each person's pictures, in order."""
    source = out.with_suffix(".csv")
    with source.open("w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["path", "identity", "view"])
        for folder in sorted(people.iterdir()):
            rows.writerows([path, folder.name, view] for path, view in zip(sorted(folder.iterdir()), views))
    catalogue.run(CatalogueConfig(source=str(source), out=str(out)))
    return str(out)


def test_views_reach_the_sampler(people: Path, tmp_path: Path) -> None:
    faces = listed(people, tmp_path / "faces", ["near-infrared", "visible", "visible", "visible", "visible", ""])
    table = Faces.open(faces).table
    assert sorted(set(view_codes(table))) == [-1, 0, 1]
    for how in ({"cross_view": True}, {"objective": Objective(loss="multi-view")}):
        config = small(faces, "m", "u", images=2, **how)
        rows = sampler_of(config, table).rows(0)
        assert [table["view"][row].as_py() for row in rows].count("near-infrared") == len(rows) / 2 == 6
    plain = sampler_of(small(faces, "m", "u", images=2), table)
    assert len({tuple(view_codes(table)[plain.rows(step)]) for step in range(20)}) > 10, "any views"
    weighted = sampler_of(small(faces, "m", "u", person_weight="images"), table)
    assert weighted.weight == "images"


def test_too_few_views_are_refused(people: Path, tmp_path: Path) -> None:
    faces = listed(people, tmp_path / "faces", ["visible"] * 5 + [""])
    with pytest.raises(TooFewImages, match="24 people with 144 pictures; 0 have pictures of two views or more"):
        train.run(small(faces, str(tmp_path / "m"), "sqlite:///unused.db", objective=Objective(loss="multi-view")))
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_every_anchor_has_a_positive_in_another_view(chain: Chain, people: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    faces = listed(people, tmp_path / "faces", ["near-infrared", *["visible"] * 5])
    config = small(
        faces,
        str(tmp_path / "m"),
        chain.tracking_uri,
        workers=2,
        objective=Objective(loss="multi-view"),
        person_weight="sqrt-images",
        report_every=1,
    )
    run_id = train.run(config)["mlflow_run"]
    client = MlflowClient(tracking_uri=chain.tracking_uri)
    figures = {name: [m.value for m in client.get_metric_history(run_id, name)] for name in ("anchors", "loss")}
    assert figures["anchors"] == [18.0] * 12, "6 people with 3 pictures each, at every step"
    assert all(value > 0 for value in figures["loss"])
