"""Shards scanned in parallel give the same as one after the other; and what was catalogued can be embedded."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from support.shard_writers import Picture, webdataset, write_parquet, write_recordio, write_tar
from support.tiny import Chain

from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.errors import DataError
from metric_core.sources import catalogue as sources
from metric_core.sources.found import Found, Notes, Source
from workflows.catalogue import job as catalogue
from workflows.catalogue import scanning
from workflows.catalogue.config import CatalogueConfig
from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig
from workflows.evaluate import job as evaluate
from workflows.evaluate.config import EvaluateConfig
from workflows.shared import cluster
from workflows.shared.options import RunOptions


def pictures(people: Path) -> list[Picture]:
    files = sorted(people.rglob("*.jpg"))
    return [Picture(file.parent.name.split("-")[1], str(n), file.read_bytes()) for n, file in enumerate(files)]


def test_side_by_side_is_one_after_the_other(
    ray_session: None, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 shards of several lengths, one of them without a picture; splits by person."""
    faces = pictures(people)
    (tmp_path / "shards").mkdir()
    for shard in range(20):
        members = webdataset(faces[shard * 3 : shard * 3 + shard % 4]) | {"README": b"", f"notes-{shard}.npy": b""}
        write_tar(tmp_path / "shards" / f"{shard:02d}.tar", members)
    config = {"source": str(tmp_path / "shards"), "valid_fraction": 0.4}
    side_by_side = catalogue.run(CatalogueConfig(out=str(tmp_path / "1"), **config))
    monkeypatch.setattr(scanning, "MANY", 1000)
    one_by_one = catalogue.run(CatalogueConfig(out=str(tmp_path / "2"), **config))
    assert (
        side_by_side["rows"] == 30 == side_by_side["splits"]["train"]["rows"] + side_by_side["splits"]["valid"]["rows"]
    )
    assert side_by_side | {"faces": None} == one_by_one | {"faces": None}
    assert Faces.open(str(tmp_path / "1")).table.equals(Faces.open(str(tmp_path / "2")).table)
    assert catalogue.run(CatalogueConfig(out=str(tmp_path / "2"), **config)) == one_by_one, "again: nothing to do"


def test_scanning_is_ahead_by_little_and_stops_at_an_error(ray_session: None, tmp_path: Path) -> None:
    def scan(number: int, notes: Notes) -> Iterator[Found]:
        (tmp_path / str(number)).touch()
        if number == 30:
            raise DataError("shard 30 is broken")
        notes.ignored[".txt"] += 1
        yield Found(str(number), str(number), "x", "tag")

    source = Source("root", "name", [partial(scan, number) for number in range(60)])
    tables = scanning.tables(source, "n", RunOptions())
    for number in range(30):
        assert next(tables)["key"].to_pylist() == [str(number)]
        assert len(list(tmp_path.iterdir())) <= number + 1 + scanning.AHEAD * cluster.cpus()
    with pytest.raises(DataError, match=r"^shard 30 is broken$"):
        next(tables)
    assert source.ignored == {".txt": 30}


def test_a_broken_shard_is_the_users_to_mend(ray_session: None, people: Path, tmp_path: Path) -> None:
    for shard in range(9):
        write_recordio(tmp_path / f"{shard}.rec", pictures(people)[shard * 5 : shard * 5 + 5])
    (tmp_path / "7.rec").write_bytes((tmp_path / "7.rec").read_bytes()[:-50])
    with pytest.raises(DataError, match=r"7\.rec, byte \d+: .* cut short"):
        catalogue.run(CatalogueConfig(source=str(tmp_path), out=str(tmp_path / "faces")))
    assert not (tmp_path / "faces" / "manifest.json").exists()


@pytest.mark.slow
def test_formats_embed_alike_and_a_verification_set_is_judged(chain: Chain, people: Path, tmp_path: Path) -> None:
    """The same pictures as shards of each kind have the same vectors; a .bin brings its own pairs."""
    shown = pictures(people)
    # Two pictures of each of six people, then rows of pictures of different people: 6 genuine pairs, 12 impostor ones.
    order = [6 * n + m for n in range(6) for m in (0, 1)] + [6 * n + m for m in (2, 3, 4, 5) for n in range(6)]
    faces = [replace(shown[at], key=str(n)) for n, at in enumerate(order)]
    vectors = {}
    for form in ("rec", "tar", "parquet", "bin"):
        folder = tmp_path / form
        folder.mkdir()
        if form == "rec":
            write_recordio(folder / "x.rec", faces)
        elif form == "tar":
            write_tar(folder / "x.tar", webdataset(faces))
        elif form == "parquet":
            write_parquet(folder / "x.parquet", faces)
        else:
            same = [faces[n].identity == faces[n + 1].identity for n in range(0, 36, 2)]
            (folder / "x.bin").write_bytes(pickle.dumps(([p.data for p in faces], same), 2))
        out = str(folder / "faces")
        source = str(folder / f"x.{form}")
        assert catalogue.run(CatalogueConfig(source=source, out=out, namespace="x"))["rows"] == 36
        embed.run(EmbedConfig(faces=out, model=chain.model, out=str(folder / "vectors"), actors=1))
        found = Embeddings.open(str(folder / "vectors")).load()
        vectors[form] = dict(zip(found.face_id_N.tolist(), map(bytes, found.embedding_ND)))
    assert vectors["rec"] == vectors["tar"] == vectors["parquet"] == vectors["bin"]
    assert set(vectors["rec"]) == {sources.faces.face_id("x", str(n)) for n in range(36)}
    judged = evaluate.run(EvaluateConfig(embeddings=str(tmp_path / "bin" / "vectors"), pairs=source))
    assert (judged["pairs"], judged["pairs_skipped"]) == (18, 0)
