"""The ``likeness embeddings`` jobs, on artefacts minted without a model."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support import minted

from metric_core.artefacts import delta, manifest, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.faces import Faces
from metric_core.errors import ConfigError, Corrupt, DataError
from metric_core.sources import catalogue
from metric_core.sources.found import Found
from workflows import cli
from workflows.embeddings import check, compare, export, stats
from workflows.embeddings.config import CheckConfig, CompareConfig, ExportConfig, StatsConfig


@pytest.fixture
def one(tmp_path: Path) -> str:
    """12 faces of 4 people in 3 parts, and one that could not be embedded."""
    return minted.embeddings(tmp_path / "one", range(12), minted.unit_vectors(12), rejected=[99])


def forge(out: str, name: str, table: pa.Table, folder: str = "") -> None:
    """Replace a part by another table, in the manifest as well: what only a bug of ours could cause."""
    path = Path(out, folder, name)
    kept = pq.read_schema(path).metadata
    pq.write_table(table.replace_schema_metadata(kept), path)
    found = manifest.read(out, "embeddings")
    for file in found.content[folder or "parts"]:
        if file["name"] == name:
            file |= {"rows": table.num_rows, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    Path(out, manifest.NAME).unlink()
    manifest.write(out, "embeddings", found.content, found.provenance)


def test_a_whole_artefact_passes(one: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["embeddings", "check", "--embeddings", one, "--json"]) == 0
    books = {"rows": 12, "parts": 3, "inputs": 13, "embedded": 12, "quarantined": 1, "erased": 0}
    assert json.loads(capsys.readouterr().out) == books


def test_everything_that_is_wrong_is_listed(one: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = pq.read_table(Path(one, "part-000000.parquet"))
    forge(one, "part-000000.parquet", table.take([0, 2, 1, 3, 4]))
    other = pq.read_table(Path(one, "part-000001.parquet"))
    forge(one, "part-000001.parquet", pa.concat_tables([table.slice(0, 1), other.slice(1)]))
    part = Path(one, "part-000002.parquet")
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    Path(one, "quarantine", "part-000002.parquet").unlink()
    assert cli.main(["embeddings", "check", "--embeddings", one]) == 1
    lines = capsys.readouterr().err.splitlines()
    for text in (
        "part-000002.parquet: its sha256 is not the manifest's",
        "part-000000.parquet: rows are not sorted by face_id",
        "1 faces occur more than once, such as 0",
        "quarantine/part-000002.parquet: there is no such file",
    ):
        assert sum(text in line for line in lines) == 1, text
    assert len(lines) == 4


def test_books_that_do_not_balance_are_reported(one: str) -> None:
    tags = pq.read_table(Path(one, "tags", "part-000001.parquet"))
    forge(one, "part-000001.parquet", tags.slice(1), folder="tags")
    with pytest.raises(Corrupt, match=r"inputs: the manifest says 13, the files 12\n.*the faces listed in tags"):
        check.run(CheckConfig(embeddings=one))


def test_a_vector_or_norm_out_of_bounds_is_reported(one: str) -> None:
    part = Path(one, "part-000000.parquet")
    table = pq.read_table(part)
    norms = pa.array([1, 1, float("nan"), 1, 1], pa.float32())
    forge(one, part.name, table.set_column(4, table.schema.field(4), norms))
    with pytest.raises(Corrupt, match=r"part-000000\.parquet: a norm is not a positive number"):
        check.run(CheckConfig(embeddings=one))
    flat = table["embedding"].combine_chunks().flatten().to_numpy() * 1.1
    longer = pa.FixedSizeListArray.from_arrays(pa.array(flat.astype(np.float32)), 8)
    forge(one, part.name, table.set_column(3, table.schema.field(3), longer))
    with pytest.raises(Corrupt, match="5 of 5 vectors are not unit length"):
        check.run(CheckConfig(embeddings=one))


def listed(out: Path, keys: list[str], tag: str = "t") -> str:
    """A catalogue of these keys, all of one person."""
    found = [
        Found(identity="ann", key=key, kind="file", uri=f"{key}.jpg", content_tag=f"{key}-{tag}" if key == "c" else key)
        for key in keys
    ]
    plan = {"root": str(out.parent), "namespace": "n"}
    manifest.begin(str(out), "faces", plan)
    content = catalogue.write(str(out), iter([catalogue.to_table(found, "n")]), "n")
    manifest.write(str(out), "faces", plan | content, {})
    return str(out)


def embedded(out: Path, faces: str, drop: int = 0, **more: object) -> str:
    """Embeddings of a catalogue's faces, but for the last few."""
    table = Faces.open(faces).table
    table = table.slice(0, table.num_rows - drop).sort_by("face_id")
    more = {"identities": table["identity"].to_pylist(), **more}
    made = minted.embeddings(out, table["face_id"].to_pylist(), minted.unit_vectors(table.num_rows), unit=99, **more)
    forge(made, "part-000000.parquet", delta.tags(table), folder="tags")
    return made


def test_coverage_of_a_catalogue(tmp_path: Path) -> None:
    faces = listed(tmp_path / "faces", list("abcdef"))
    made = embedded(tmp_path / "e", faces)
    answer = check.run(CheckConfig(embeddings=made, faces=faces))
    expected = {"faces": 6, "embedded": 6, "quarantined": 0, "erased": 0, "missing": 0, "surplus": 0}
    assert answer["coverage"] == expected
    grown = listed(tmp_path / "grown", list("abcdxyz"), tag="other")
    with pytest.raises(DataError, match=r"4 of 7 faces are new or changed, 2 are gone or erased.*--since .*/e"):
        check.run(CheckConfig(embeddings=made, faces=grown))
    some = embedded(tmp_path / "some", faces, drop=1)
    with pytest.raises(DataError, match="1 of 6 faces are new or changed, 0 are gone"):
        check.run(CheckConfig(embeddings=some, faces=faces))
    last = Faces.open(faces).table["face_id"].to_pylist()[-1]
    tombstones.add(str(tmp_path / "tombstones"), "n", face_ids=[last])
    assert check.run(CheckConfig(embeddings=some, faces=faces))["coverage"] == expected | {"embedded": 5, "erased": 1}
    with pytest.raises(DataError, match="0 of 6 faces are new or changed, 1 are gone or erased"):
        check.run(CheckConfig(embeddings=made, faces=faces))
    with pytest.raises(ConfigError, match="give --faces, too"):
        CheckConfig(embeddings=made, tombstones="t")


def test_an_identity_that_is_not_the_catalogue_s_is_reported(tmp_path: Path) -> None:
    faces = listed(tmp_path / "faces", list("abcdef"))
    made = embedded(tmp_path / "e", faces, identities=["ann"] * 4 + ["bob", "cy"])
    with pytest.raises(Corrupt, match=r"2 faces have another identity than in .*, such as face \d+ is 'bob' here"):
        check.run(CheckConfig(embeddings=made, faces=faces))


def test_a_part_of_the_catalogue_that_was_edited_is_found(tmp_path: Path) -> None:
    faces = listed(tmp_path / "faces", list("abcdef"))
    made = embedded(tmp_path / "e", faces)
    part = Path(faces, "faces-000000.parquet")
    table = pq.read_table(part)
    place = table.schema.get_field_index("identity")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(["bob"] * 6)), part)
    with pytest.raises(Corrupt, match=r"faces-000000\.parquet: its sha256 is"):
        check.run(CheckConfig(embeddings=made, faces=faces))


def test_stats(one: str, tmp_path: Path) -> None:
    more = minted.embeddings(tmp_path / "more", [0, 12], minted.unit_vectors(2), identities=["p0", "p9"])
    found = stats.run(StatsConfig(embeddings=f"{one},{more}"))
    assert (found["rows"], found["people"], found["dim"], found["dtype"]) == (13, 5, 8, "float32")
    assert found["pictures_per_person"] == {"0.01": 1.08, "0.25": 3.0, "0.5": 3.0, "0.75": 3.0, "0.99": 3.0}
    assert found["norm"]["0.5"] == 1.0
    assert found["quarantined"] == {"missing": 1}
    size = sum(path.stat().st_size for name in ("one", "more") for path in (tmp_path / name).glob("part-*"))
    assert (found["bytes"], found["parts"]) == (size, 4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_export_to_npy(tmp_path: Path, dtype: str) -> None:
    made = minted.embeddings(tmp_path / "e", range(12), minted.unit_vectors(12).astype(dtype))
    answer = export.run(ExportConfig(embeddings=made, out=str(tmp_path / "x" / "v.npy")))
    vector_ND, id_N = np.load(answer["vectors"]), np.load(answer["ids"])
    assert (vector_ND.dtype, answer["rows"]) == (dtype, 12)
    assert id_N.tolist() == list(range(12))
    np.testing.assert_array_equal(vector_ND, minted.unit_vectors(12).astype(dtype))
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["v.ids.npy", "v.npy"]


def test_export_to_fvecs_is_what_faiss_reads(one: str, tmp_path: Path) -> None:
    answer = export.run(ExportConfig(embeddings=one, out=str(tmp_path / "v.fvecs")))
    raw = np.fromfile(answer["vectors"], np.int32)  # as faiss.contrib.vecs_io.fvecs_read does
    assert raw[0] == 8
    np.testing.assert_array_equal(raw.reshape(-1, 9)[:, 1:].copy().view(np.float32), minted.unit_vectors(12))
    assert np.load(answer["ids"]).tolist() == list(range(12))


def test_an_export_that_fails_leaves_nothing(one: str, tmp_path: Path) -> None:
    part = Path(one, "part-000002.parquet")
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    for name in ("v.npy", "v.fvecs"):
        with pytest.raises(Corrupt):
            export.run(ExportConfig(embeddings=one, out=str(tmp_path / "x" / name)))
    assert not list((tmp_path / "x").iterdir())
    none = minted.embeddings(tmp_path / "none", [], minted.unit_vectors(0))
    with pytest.raises(DataError, match="holds no vectors"):
        export.run(ExportConfig(embeddings=none, out=str(tmp_path / "v.npy")))
    with pytest.raises(ConfigError, match=r"out is 'v\.csv'; it must end in \.npy or \.fvecs"):
        ExportConfig(embeddings=one, out="v.csv")


def test_export_leaves_erased_faces_out(one: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export.run(ExportConfig(embeddings=one, out=str(tmp_path / "v.npy")))
    assert f"{one}: its Faces {tmp_path}/faces do not exist any more" in capfd.readouterr().err
    tombstones.add(str(tmp_path / "tombstones"), "n", face_ids=[3])
    answer = export.run(ExportConfig(embeddings=one, out=str(tmp_path / "v.npy")))
    assert (answer["rows"], 3 in np.load(answer["ids"])) == (11, False)
    assert "not exist any more" not in capfd.readouterr().err


@pytest.fixture
def models(tmp_path: Path) -> tuple[str, str]:
    """30 people with 4 pictures each, by a poor and by a better model; the better one lacks three faces."""
    random = np.random.default_rng(3)
    centre = np.repeat(minted.unit_vectors(30, dim=16, seed=4), 4, axis=0)
    names = [f"p{n // 4}" for n in range(120)]
    made = []
    for name, noise, rows in (("old", 0.35, 120), ("new", 0.15, 117)):
        vector_ND = (centre + noise * random.normal(size=centre.shape)).astype(np.float32)
        vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
        prints = {"fingerprint": name * 8}
        made.append(
            minted.embeddings(
                tmp_path / name, range(rows), vector_ND[:rows], identities=names[:rows], unit=20, **prints
            )
        )
    return made[0], made[1]


def test_scores_of_two_models_side_by_side(models: tuple[str, str], tmp_path: Path) -> None:
    old, new = models
    config = CompareConfig(old=old, new=new, threshold=0.5, picture=str(tmp_path / "scores.png"))
    found = compare.run(config)
    assert (found["faces"], found["people"], found["models"]) == (117, 30, {"old": "old" * 8, "new": "new" * 8})
    assert found["new"]["genuine"]["0.5"] > found["old"]["genuine"]["0.5"] + 0.1
    assert [point["far"] for point in found["operating_points"]] == [1e-1, 1e-2], "the rates that 6,600 pairs support"
    assert all(point["new"]["tar"] > point["old"]["tar"] for point in found["operating_points"])
    assert Image.open(tmp_path / "scores.png").width > 400
    # By brute force: the same rates from every pair, and the nearest others.
    sims, codes = [], np.arange(117) // 4
    for uri in models:
        vectors = Collection.open(uri).load().embedding_ND[:117].astype(np.float64)
        sims.append(vectors @ vectors.T)
    upper = np.triu_indices(117, k=1)
    impostor = codes[upper[0]] != codes[upper[1]]
    for point in found["operating_points"]:
        for sim, name in zip(sims, ("old", "new")):
            rate = np.mean(sim[upper][impostor] >= point[name]["threshold"])
            assert point["far"] - 2e-3 < rate <= point["far"]
            assert point[name]["tar"] == pytest.approx(np.mean(sim[upper][~impostor] >= point[name]["threshold"]))
    far = np.mean(sims[0][upper][impostor] >= 0.5)
    assert found["threshold"]["far"] == pytest.approx(far)
    assert np.mean(sims[1][upper][impostor] >= found["threshold"]["new"]) == pytest.approx(far, abs=1e-3)
    nearest = []
    for sim in sims:
        np.fill_diagonal(sim, -2)
        nearest.append(codes[sim.argmax(axis=1)])
    asking = np.arange(117) < 116  # the last person has one picture left
    right = [(one == codes)[asking] for one in nearest]
    assert found["rank1"]["old"] == pytest.approx(right[0].mean())
    assert found["rank1"]["new"] == pytest.approx(right[1].mean())
    assert found["rank1"]["changed"] == pytest.approx((nearest[0] != nearest[1])[asking].mean())
    assert found["rank1"]["lost"] == pytest.approx((right[0] & ~right[1]).mean())
    assert found["rank1"]["won"] == pytest.approx((~right[0] & right[1]).mean())


def test_a_sample_is_of_whole_people(models: tuple[str, str]) -> None:
    old, new = models
    some = compare.run(CompareConfig(old=old, new=new, faces=30))
    assert 30 <= some["faces"] <= 33
    assert some["faces"] in (4 * some["people"], 4 * some["people"] - 3)
    assert compare.run(CompareConfig(old=old, new=new, faces=30)) == some
    assert compare.run(CompareConfig(old=old, new=new, faces=30, seed=1)) != some
    same = compare.run(CompareConfig(old=old, new=old))
    assert (same["rank1"]["changed"], same["old"]) == (0, same["new"])


def test_models_of_different_faces_are_not_compared(models: tuple[str, str], tmp_path: Path) -> None:
    other = minted.embeddings(tmp_path / "other", range(200, 220), minted.unit_vectors(20))
    with pytest.raises(DataError, match="have no faces in common"):
        compare.run(CompareConfig(old=models[0], new=other))
    foreign = minted.embeddings(tmp_path / "foreign", range(20), minted.unit_vectors(20), namespace="m")
    with pytest.raises(ConfigError, match="--old has faces of n, --new of m"):
        compare.run(CompareConfig(old=models[0], new=foreign))
    with pytest.raises(ConfigError, match="threshold is 2"):
        CompareConfig(old="a", new="b", threshold=2.0)
