"""What is embedded again when twins come and go, and what erasure leaves out: pictures whose files all look alike."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import minted
from support.shard_writers import write_tar

from metric_core.artefacts import delta, manifest, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.delta import Selection
from metric_core.artefacts.faces import Faces, face_id
from metric_core.artefacts.tombstones import Tombstones
from metric_core.sources import catalogue

Catalogued = Callable[..., Faces]


@pytest.fixture
def catalogued(tmp_path: Path) -> Catalogued:
    """A catalogue of pictures of Ann, by name and time; all are of one size. Each call makes another one. Erased ones
    are left out."""

    def make(*names: str, form: str = "folder", erased: Tombstones | None = None, **times: int) -> Faces:
        number = len(list(tmp_path.glob("faces-*")))
        root, out = tmp_path / f"source-{number}", str(tmp_path / f"faces-{number}")
        (root / "Ann").mkdir(parents=True)
        for name in names:
            (root / "Ann" / name).write_bytes(b"12345678")
            os.utime(root / "Ann" / name, ns=(0, times.get(name.replace(".", "_"), 0)))
        source = str(root)
        if form == "tar":
            write_tar(root / "x.tar", {f"Ann/{name}": b"12345678" for name in names})
            source = f"{root}/x.tar"
        elif form == "list":
            (root / "list.csv").write_text("path,identity\n" + "".join(f"Ann/{name},Ann\n" for name in names))
            source = f"{root}/list.csv"
        table = catalogue.to_table(list(catalogue.scan(source).faces), "n")
        if erased:
            table = table.filter(~erased.erased(table, "n", str(root)))
        plan = {"root": str(root), "namespace": "n"}
        manifest.begin(out, "faces", plan)
        manifest.write(out, "faces", plan | catalogue.write(out, [table], "n"), {})
        return Faces.open(out)

    return make


def embedded(faces: Faces) -> Collection:
    """All of a catalogue."""
    id_N = np.sort(faces.table["face_id"].to_numpy())
    out = Path(f"{faces.uri}-embeddings")
    vectors = minted.unit_vectors(len(id_N))
    return Collection.open(minted.embeddings(out, id_N.tolist(), vectors, unit=99, tags=delta.tags(faces.table)))


def since(before: Faces, after: Faces, erased: Tombstones | None = None) -> tuple[set[str], Selection]:
    """Keys of the second catalogue that are to be embedded when all of the first is, and all else that is known."""
    found = delta.select(after, None, embedded(before), erased or Tombstones())
    assert found.wanted is not None
    (wanted_N,) = found.wanted.values()
    return set(after.table.filter(wanted_N)["key"].to_pylist()), found


@pytest.mark.parametrize("form", ["folder", "list"])
def test_both_are_embedded_again_when_a_twin_takes_the_id_over(catalogued: Catalogued, form: str) -> None:
    """Even if size and time of both files are the same."""
    one, two = catalogued("1.webp", "2.webp", form=form), catalogued("1.jpg", "1.webp", "2.webp", form=form)
    wanted, found = since(one, two)
    assert wanted == {"Ann/1", "Ann/1.webp"}
    assert (found.unchanged, found.twins, found.gone_M.tolist()) == (1, 1, [])
    wanted, found = since(two, one)
    assert wanted == {"Ann/1"}, "the id is the first one's again"
    assert (found.unchanged, found.twins, found.gone_M.tolist()) == (1, 0, [face_id("n", "Ann/1.webp")])


def test_a_tar_with_a_new_twin_is_embedded_again_as_a_whole(catalogued: Catalogued) -> None:
    one, two = catalogued("1.webp", "2.webp", form="tar"), catalogued("1.jpg", "1.webp", "2.webp", form="tar")
    wanted, found = since(one, two)
    assert wanted == {"Ann/1", "Ann/1.webp", "Ann/2"}
    assert found.twins == 1


def test_others_stay_as_they_were(catalogued: Catalogued) -> None:
    """A twin that comes later in the order changes nothing for the first, unless nothing else tells the two apart."""
    one = catalogued("1.jpg", "2.jpg")
    wanted, found = since(one, catalogued("1.jpg", "1.webp", "2.jpg", **{"1_webp": 5}))
    assert (wanted, found.unchanged, found.twins) == ({"Ann/1.webp"}, 2, 0)
    many = catalogued("1.jpg", "1.webp", "2.jpg")
    assert since(many, catalogued("1.jpg", "1.webp", "2.jpg"))[0] == set()
    wanted, found = since(many, catalogued("1.JPEG", "1.jpg", "1.webp", "2.jpg"))
    assert (wanted, found.unchanged, found.twins) == ({"Ann/1.JPEG"}, 3, 0)


def test_a_twin_gives_its_key_to_the_picture_it_is_plain_for(catalogued: Catalogued) -> None:
    one = catalogued("1.jpg", "1.webp")
    two = catalogued("1.jpg", "1.webp", "1.webp.png")
    assert since(one, two)[0] == {"Ann/1.webp", "Ann/1.webp/"}
    assert since(two, one)[0] == {"Ann/1.webp"}


def test_rows_are_hashed_as_ever(catalogued: Catalogued) -> None:
    """Of pictures without a twin; else everything that was ever embedded would be embedded again."""
    table = catalogued("1.jpg", "2.jpg", "2.webp").table
    hashes = dict(zip(table["key"].to_pylist(), delta.row_hashes(table).tolist()))
    assert hashes["Ann/1"] == 2155870455374102931
    assert len(set(hashes.values())) == 3


@pytest.mark.parametrize("form", ["folder", "list", "tar"])
@pytest.mark.parametrize(
    ("names", "key", "left"),
    [
        (["1.webp", "2.jpg"], "Ann/1", ["Ann/2"]),
        (["1.webp", "2.jpg"], "Ann/1.webp", ["Ann/2"]),
        (["1.jpg", "1.webp", "2.jpg"], "Ann/1", ["Ann/2"]),
        (["1.jpg", "1.webp", "2.jpg"], "Ann/1.webp", ["Ann/1", "Ann/2"]),
        (["1.jpg", "1.PNG", "1.webp", "2.jpg"], "Ann/1.PNG", ["Ann/1", "Ann/1.webp", "Ann/2"]),
        (["1.PNG", "2.jpg"], "Ann/1.PNG", ["Ann/2"]),
        (["1.Jpg", "2.jpg"], "Ann/1.Jpg", ["Ann/2"]),
        (["1.Jpg", "2.jpg"], "Ann/1.jpg", ["Ann/1", "Ann/2"]),
    ],
)
def test_an_erased_picture_stays_erased_as_twins_come_and_go(
    catalogued: Catalogued, tmp_path: Path, form: str, names: list[str], key: str, left: list[str]
) -> None:
    """``key`` is the one that it had when it was erased."""
    faces = catalogued(*names, form=form)
    erased = tombstones.add(str(tmp_path / "tombstones"), "n", face_ids=[face_id("n", key)])
    found = delta.select(faces, None, None, erased)
    left_N = ~np.isin(faces.table["face_id"].to_numpy(), found.erased_M)
    assert sorted(faces.table.filter(left_N)["key"].to_pylist()) == left
    assert erased.erased(faces.table, "n", faces.root).tolist() == (~left_N).tolist()
    assert since(faces, faces, erased)[1].gone_M.tolist() == found.erased_M.tolist(), "what was embedded goes"
    ids_alone = faces.table.select(["face_id", "identity"])
    own = [number == face_id("n", key) for number in ids_alone["face_id"].to_pylist()]
    assert erased.erased(ids_alone, "n").tolist() == own, "embeddings have no keys"


def left(faces: Faces, erased: Tombstones) -> list[str]:
    """Keys that are not left out of an embed job as erased."""
    found = delta.select(faces, None, None, erased)
    return faces.table.filter(~np.isin(faces.table["face_id"].to_numpy(), found.erased_M))["key"].to_pylist()


@pytest.mark.parametrize("at_once", [1, 2, 1000])
def test_the_twin_of_an_erased_picture_in_a_tar_stays(
    catalogued: Catalogued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Whether or not the erased one is in the same catalogue, and the same slice of it."""
    monkeypatch.setattr(delta, "_ROWS", at_once)
    erased = tombstones.add(str(tmp_path / "tombstones"), "n", face_ids=[face_id("n", "Ann/1.webp")])
    before = catalogued("1.jpg", "1.webp", "2.jpg", form="tar")
    after = catalogued("1.jpg", "1.webp", "2.jpg", form="tar", erased=erased)
    assert before.table["key"].to_pylist() == ["Ann/1", "Ann/1.webp", "Ann/2"]
    assert after.table["key"].to_pylist() == left(before, erased) == left(after, erased) == ["Ann/1", "Ann/2"]
    alone = catalogued("1.webp", "2.jpg", form="tar")
    assert alone.table["key"].to_pylist() == ["Ann/1", "Ann/2"]
    assert left(alone, erased) == ["Ann/2"], "the id is another one now, the picture is the same"
    assert catalogued("1.webp", "2.jpg", form="tar", erased=erased).table["key"].to_pylist() == ["Ann/2"]


def test_a_tar_that_cannot_say_how_its_pictures_end(catalogued: Catalogued, tmp_path: Path) -> None:
    """What may be erased is then left out, and nothing else."""
    long = "1" * 100
    erased_ids = [face_id("n", f"Ann/{name}.webp") for name in (long, "1")]
    erased = tombstones.add(str(tmp_path / "tombstones"), "n", face_ids=erased_ids)
    names = ["1.jpg", f"{long}.jpg", f"{long}2.jpg", "2.jpg"]
    faces = catalogued("1.jpg", "2.jpg", form="tar")
    assert left(faces, erased) == ["Ann/1", "Ann/2"]
    tar = Path(faces.root, "x.tar")
    write_tar(tar, {"Ann/2.jpg": b"", "Ann/1.jpg": b"12345678"})
    assert left(faces, erased) == ["Ann/2"], "it is another tar"
    tar.unlink()
    assert left(faces, erased) == ["Ann/2"], "it is gone"
    assert erased.erased(faces.table, "n").tolist() == [True, False], "nobody says where it is"
    root = tmp_path / "long"
    root.mkdir()
    write_tar(root / "x.tar", {f"Ann/{name}": b"12345678" for name in names}, tarfile.PAX_FORMAT)
    table = catalogue.to_table(list(catalogue.scan(str(root)).faces), "n")
    assert erased.erased(table, "n", str(root)).tolist() == [False, True, False, False], "its name is too long"
