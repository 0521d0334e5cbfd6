"""The catalogue job run again: on the same source, on one that changed, and on one that is empty."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.shard_writers import write_tar

from metric_core.artefacts import manifest, tombstones
from metric_core.artefacts.faces import Faces, face_id
from metric_core.errors import ConfigError, DataError, JobRunning, Occupied
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.shared import lease
from workflows.shared.lease import Lease


def test_again_and_after_a_change(people: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "corpus", str(tmp_path / "faces")
    shutil.copytree(people, source)
    config = CatalogueConfig(source=str(source), out=out, valid_fraction=0.4, seed=3)
    first = catalogue.run(config)
    assert catalogue.is_current(config)
    assert not catalogue.is_current(replace(config, namespace="other"))
    assert not catalogue.is_current(replace(config, seed=4))
    before = (tmp_path / "faces" / manifest.NAME).stat().st_mtime_ns
    assert catalogue.run(config) == first
    message = r"lists other faces than the source now has, or other splits, .* were erased since \(144 rows"
    with pytest.raises(Occupied, match=message):
        catalogue.run(CatalogueConfig(source=str(source), out=out, valid_fraction=0.4, seed=4))
    (source / "person-0000" / "00.jpg").unlink()
    assert not catalogue.is_current(config)
    with pytest.raises(Occupied, match="144 rows there, 143 here"):
        catalogue.run(config)
    assert (tmp_path / "faces" / manifest.NAME).stat().st_mtime_ns == before, "a finished artefact stays as it is"
    assert Faces.open(out).table.num_rows == 144


def test_one_run_at_a_time(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "faces"
    config = CatalogueConfig(source=str(people), out=str(out))
    with lease.held(str(out)), pytest.raises(JobRunning, match=r"faces is being written by process .*; wait for it"):
        catalogue.run(config)
    assert not list(out.glob("faces-*"))

    def taken_over(lost: Lease) -> None:
        raise JobRunning("another one took over")

    monkeypatch.setattr(Lease, "confirm", taken_over)
    with pytest.raises(JobRunning, match="took over"):
        catalogue.run(config)
    assert not list(out.glob("faces-*")), "no part of the other run is replaced"
    assert not (out / manifest.NAME).exists()


def test_another_run_finishes_before_the_lease_is_ours(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CatalogueConfig(source=str(people), out=str(tmp_path / "faces"))
    claim = Lease.claim

    def late(self: Lease) -> None:
        monkeypatch.setattr(Lease, "claim", claim)
        catalogue.run(config)
        before.extend(path.stat().st_mtime_ns for path in sorted((tmp_path / "faces").glob("[!.]*")))
        claim(self)

    before: list[int] = []
    monkeypatch.setattr(Lease, "claim", late)
    assert catalogue.run(config)["rows"] == 144
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "faces").glob("[!.]*"))] == before
    assert not list((tmp_path / "faces").glob(f"{lease.NAME}*")), "the lease is released"


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


def test_twins_are_counted_and_stay_erased(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("ann/1.jpg", "ann/1.png", "ann/1.webp", "ann/2.jpg", "bob/1.jpg"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_bytes(name.encode())
    (tmp_path / "corpus" / "notes.txt").touch()
    config = CatalogueConfig(source=str(tmp_path / "corpus"), out=str(tmp_path / "faces"))
    answer = catalogue.run(config)
    assert answer.keys() == {"faces", "rows", "identities", "splits"}
    assert answer["rows"] == 5
    assert capfd.readouterr().err.splitlines() == [
        "2 pictures have a twin whose name differs only in the ending, so their keys contain the ending; the first of "
        ".jpg, .jpeg, .jpe, … keeps the plain key",
        "skipped 1 files ending in .txt: not pictures",
    ]
    tombstones.add(str(tmp_path / "png"), "corpus", face_ids=[face_id("corpus", "ann/1.png")])
    tombstones.add(str(tmp_path / "plain"), "corpus", face_ids=[face_id("corpus", "ann/1")])
    for erased, left in (("png", ["ann/1", "ann/1.webp", "ann/2", "bob/1"]), ("plain", ["ann/2", "bob/1"])):
        out = str(tmp_path / f"faces-{erased}")
        answer = catalogue.run(replace(config, out=out, tombstones=str(tmp_path / erased)))
        assert Faces.open(out).table["key"].to_pylist() == left
        assert answer["erased"] == 5 - len(left)
    (tmp_path / "corpus" / "ann" / "1.jpg").unlink()
    (tmp_path / "corpus" / "ann" / "1.webp").unlink()
    for erased in ("png", "plain"):
        out = str(tmp_path / f"later-{erased}")
        catalogue.run(replace(config, out=out, tombstones=str(tmp_path / erased)))
        assert Faces.open(out).table["key"].to_pylist() == ["ann/2", "bob/1"], "what was erased stays out"


def test_only_the_erased_twin_of_a_tar_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus").mkdir()
    write_tar(tmp_path / "corpus" / "a.tar", {"ann/1.jpg": b"1", "ann/1.webp": b"2"})
    write_tar(tmp_path / "corpus" / "b.tar", {"bob/1.webp": b"3", "bob/2.jpg": b"4"})
    gone = [face_id("corpus", f"{name}/1.webp") for name in ("ann", "bob")]
    tombstones.add(str(tmp_path / "tombstones"), "corpus", face_ids=gone)
    out = str(tmp_path / "faces")
    answer = catalogue.run(CatalogueConfig(source=str(tmp_path / "corpus"), out=out))
    assert Faces.open(out).table["key"].to_pylist() == ["ann/1", "bob/2"]
    assert answer["erased"] == 2
    assert "left out 2 erased faces" in capfd.readouterr().err


def test_a_split_file_that_does_not_fit_is_told_once(
    people: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [f"person-{n:04d},train" for n in range(24)] + [f"nobody-{n},train" for n in range(30)]
    (tmp_path / "s.csv").write_text("identity,split\n" + "\n".join(lines))
    catalogue.run(CatalogueConfig(source=str(people), out=str(tmp_path / "f"), splits=str(tmp_path / "s.csv")))
    told = capfd.readouterr().err.splitlines()
    assert told == [f"30 of the 54 people in {tmp_path}/s.csv are not in the source (nobody-0, …)"]
    (tmp_path / "s.csv").write_text("identity,split\nPERSON-0000,train\nPerson-0001,train\n")
    with pytest.raises(DataError, match=r"2 differ only in case \(person-0000, there PERSON-0000\)"):
        catalogue.run(CatalogueConfig(source=str(people), out=str(tmp_path / "g"), splits=str(tmp_path / "s.csv")))


def test_what_a_source_without_pictures_holds_is_told(tmp_path: Path) -> None:
    (tmp_path / "corpus" / "ann").mkdir(parents=True)
    (tmp_path / "corpus" / "ann" / "1.HEIC").touch()
    with pytest.raises(
        DataError, match=r"holds no pictures; .* skipped 1 files ending in \.heic: HEIC, which is not re"
    ):
        catalogue.run(CatalogueConfig(source=str(tmp_path / "corpus"), out=str(tmp_path / "faces")))
    with pytest.raises(ConfigError, match="person_level is 0; it must be 1 or more"):
        CatalogueConfig(source="x", out="y", person_level=0)


def test_sidecars_that_overrule_folders_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corpus" / "train").mkdir(parents=True)
    (tmp_path / "corpus" / "train" / "1.jpg").touch()
    (tmp_path / "corpus" / "train" / "1.cls").write_text("7")
    config = CatalogueConfig(source=str(tmp_path / "corpus"), out=str(tmp_path / "faces"))
    catalogue.run(config)
    assert Faces.open(config.out).table["identity"].to_pylist() == ["7"]
    assert "sidecars, not folders, name the people in 1 folders (train); --person-level" in capfd.readouterr().err
    catalogue.run(replace(config, out=str(tmp_path / "by-folder"), person_level=1))
    assert Faces.open(str(tmp_path / "by-folder")).table["identity"].to_pylist() == ["train"]
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    "more", [{"person_level": 1}, {"splits": "s.csv"}, {"valid_fraction": 0.2}], ids=lambda more: next(iter(more))
)
def test_options_about_people_are_refused_where_nobody_is_named(more: dict[str, int | str]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(more))} is about people, whom --unlabelled does not name"):
        CatalogueConfig(source="s", out="o", unlabelled=True, **more)
