"""The handle of one version: what it writes, and what it refuses to read."""

import pickle
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from metric_core.errors import Corrupt, IndexBuildError, Missing, Unfinished
from metric_core.index import codec, layout
from metric_core.index import version as versions
from metric_core.index.layout import Content, Shard
from metric_core.index.search import Index
from metric_core.index.spec import IndexSpec
from metric_core.index.store import IndexStore
from metric_core.index.version import Version

REFINED = "IVF4,PQ8x4fsr,Refine(SQfp16)"


def _read(version: Version) -> list[object]:
    """What only a finished version can answer; the errors, in order."""
    found: list[object] = []
    for ask in (version.manifest, version.content, version.faces, version.sizes):
        with pytest.raises((Missing, Unfinished)) as caught:
            ask()
        found.append(caught.value)
    return found


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_an_unfinished_version_says_so_and_keeps_what_is_done(people, write_index, tmp_path):
    version = write_index(tmp_path, people(), until=2)
    assert not version.finished
    assert all(isinstance(e, Unfinished) and "has no manifest.json" in str(e) for e in _read(version))
    assert version.read(layout.CHOICE) is not None
    assert [version.receipt(n) is None for n in range(3)] == [False, False, True]


def test_a_version_that_is_not_there(tmp_path):
    version = Version(str(tmp_path), "0" * 16)
    assert (version.finished, version.read(layout.CHOICE), version.receipt(0)) == (False, None, None)
    assert version.format() == 0
    assert all(isinstance(e, Missing) and "does not exist" in str(e) for e in _read(version))


def test_a_finished_version_gives_back_what_was_written(people, write_index, tmp_path):
    version = write_index(tmp_path, people(130), REFINED, nprobe=2, depth=30)
    assert version.finished
    assert version.format() == 3
    content = version.content()
    assert (content.spec, content.rows, content.people) == (IndexSpec(16, REFINED), 650, 130)
    assert (content.nprobe, content.depth) == (2, 30)
    assert content.shards == [version.receipt(n)[0] for n in range(3)]
    assert version.faces() == "FACES"
    assert version.sizes() == {name: Path(name).stat().st_size for name in version.sizes()}
    assert content.bytes == sum(version.sizes().values())


def test_the_files_of_a_version_lie_where_its_page_says(people, write_index, tmp_path):
    version = write_index(tmp_path, people(130), REFINED, depth=30)
    assert version.uri == f"{tmp_path}/versions/{version.id}"
    expected = {"plan.json", "manifest.json", "choice.json"}
    expected |= {f"shard-{n:03d}.{ending}" for n in range(3) for ending in ("json", "arrow")}
    assert {path.name for path in Path(version.uri).iterdir()} == expected
    content, endings = version.content(), ("faiss", "rows", "vectors")
    shards = {f"{shard.digest}.{ending}" for shard in content.shards for ending in endings}
    assert {path.name for path in (tmp_path / "shards").iterdir()} == shards
    names = ("template.faiss", "probes.arrow", "truth.arrow", "names.arrow", "codes.npy")
    files = {f"{content.files[name].sha256[:32]}.{name}" for name in names}
    assert {path.name for path in (tmp_path / "files").iterdir()} == files


def test_a_handle_travels_to_other_processes(people, write_index, tmp_path):
    version = write_index(tmp_path, people())
    assert pickle.loads(pickle.dumps(version)) == version == Version(str(tmp_path), version.id)


def test_a_version_that_does_not_add_up_is_not_finished(people, write_index, tmp_path):
    version = write_index(tmp_path, people())
    content = version.content()
    (Path(version.uri) / "manifest.json").unlink()
    foreign = replace(content.shards[1], template="0" * 64)
    for wrong, message in [
        (replace(content, shards=content.shards[:2]), "hold 200 rows that may be found, the inputs 300"),
        (
            replace(content, shards=[content.shards[0], foreign, content.shards[2]]),
            rf"shards \['{foreign.digest}'\] were started from another template",
        ),
        (replace(content, masks=[{"rows": 1}]), "hold 299 rows that may be found, the inputs 300"),
        (replace(content, rows=301), "hold 300 rows that may be found, the inputs 301"),
    ]:
        with pytest.raises(IndexBuildError, match=message):
            version.finish(wrong, {})
    assert not version.finished


@pytest.mark.parametrize("ending", ["faiss", "rows", "vectors"])
def test_a_flipped_byte_is_refused_before_the_file_is_read(ending, people, write_index, tmp_path, monkeypatch):
    version = write_index(tmp_path, people(130), REFINED, depth=30)
    damaged = version.address(version.content().shards[1], ending)
    _flip(Path(damaged))
    read = codec.read_file
    opened: list[Path] = []
    monkeypatch.setattr(codec, "read_file", lambda path: opened.append(path) or read(path))
    with pytest.raises(Corrupt, match=rf"{damaged}: its sha256"):
        Index.open(str(tmp_path), version.id)
    assert len(opened) == 1, "only the first shard was read"


@pytest.mark.parametrize("name", [layout.NAMES, layout.CODES])
def test_a_damaged_file_of_the_version_is_refused(name, people, write_index, tmp_path):
    version = write_index(tmp_path, people(130), "IVF4,Flat")
    path = Path(version.place(version.content(), name))
    _flip(path)
    with pytest.raises(Corrupt, match=rf"{name}: its sha256 is"):
        Index.open(str(tmp_path), version.id)
    path.unlink()
    with pytest.raises(Missing, match=rf"{name}"):
        Index.open(str(tmp_path), version.id)


@pytest.mark.parametrize("ending", ["json", "arrow"])
def test_a_damaged_receipt_is_told_and_a_missing_one_is_none(ending, people, write_index, tmp_path):
    version = write_index(tmp_path, people())
    path = Path(version.file(f"shard-001.{ending}"))
    whole = path.read_bytes()
    for damage in (whole[:-10], b"[]", b"null", whole.replace(b'"rows"', b'"rowz"') if ending == "json" else b""):
        path.write_bytes(damage)
        with pytest.raises(Corrupt, match=r"shard-001\.json is damaged"):
            version.receipt(1)
    path.unlink()
    assert version.receipt(1) is None


def test_files_that_do_not_fit_together_are_refused(people, write_index, tmp_path):
    version = write_index(tmp_path, people(131), REFINED, shards=2, depth=30)
    content = version.content()
    first, second = content.shards
    assert first.rows != second.rows
    for ending in ("faiss", "rows", "vectors"):
        mixed = Path(version.address(first, ending))
        whole = mixed.read_bytes()
        mixed.write_bytes(Path(version.address(second, ending)).read_bytes())
        files = first.files | {ending: second.files[ending]}
        with pytest.raises(Corrupt, match="its files do not have equally many rows"):
            Index.load(version, replace(content, shards=[replace(first, files=files), second]))
        mixed.write_bytes(whole)


def test_a_draft_is_searched_before_it_is_finished(people, write_index, tmp_path):
    v = people()
    version = write_index(tmp_path, v)
    content = version.content()
    Path(version.file("manifest.json")).unlink()
    assert not version.finished
    assert (Index.load(version, content).search(v.embedding_ND, 1).face_id_QK[:, 0] == v.face_id_N).all()


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", REFINED])
def test_masked_faces_are_not_found(factory, people, write_index, tmp_path):
    v = people(130)
    gone = v.face_id_N[100:120]
    version = write_index(tmp_path, v, factory, nprobe=4, depth=650, masked=gone.tolist())
    index = Index.open(str(tmp_path), version.id)
    near = index.search(v.embedding_ND[100:120], 650)
    assert not np.isin(near.face_id_QK, gone).any()
    assert ((near.face_id_QK >= 0).sum(axis=1) == 630).all()
    found = index.identify(v.embedding_ND[100:102], ["a", "b"], 130)
    assert not np.isin(found["face_id"].to_numpy(), gone).any()
    assert "p020" not in found["identity"].to_pylist(), "all of its pictures are masked"
    content = version.content()
    (mask,) = content.masks
    for masked in version.read_masks(content):
        np.testing.assert_array_equal(masked, np.sort(gone))
    first = replace(content, masks=[mask | {"shards": 1}])
    left = Index.load(version, first).search(v.embedding_ND[100:120], 1).face_id_QK[:, 0]
    later = np.isin(gone, np.concatenate([v.face_id_N[at] for at in np.array_split(np.arange(650), 3)[1:]]))
    np.testing.assert_array_equal(np.isin(left, gone), later)
    _flip(Path(version.mask(content, mask)))
    with pytest.raises(Corrupt, match=r"mask\.parquet has another sha256"):
        Index.open(str(tmp_path), version.id)


def test_names_of_all_shards_and_the_codes_of_each():
    names, codes = versions.named([pa.array(["b", "d"]), pa.array([], pa.string()), pa.array(["a", "b", "c"])])
    shards = [Shard("", 0, people, {}, "") for people in (2, 0, 3)]
    assert pa.ipc.open_file(names).read_all()["identity"].to_pylist() == ["a", "b", "c", "d"]
    assert [shard.people for shard in shards] == [2, 0, 3]
    assert versions.named([pa.array(["b", "d"])])[0] != names
    assert np.load(pa.BufferReader(codes)).tolist() == [1, 3, 0, 1, 2]


@pytest.mark.parametrize("ending", ["faiss", "rows", "vectors"])
def test_a_content_that_lists_no_file_that_a_search_needs(people, write_index, tmp_path, ending):
    content = asdict(write_index(tmp_path, people(130), REFINED, depth=30).content())
    del content["shards"][0]["files"][ending]
    with pytest.raises(Corrupt, match=rf"it lists no [0-9a-f]+\.{ending}\)"):
        Content.parse(content)


def test_a_content_survives_its_manifest(people, write_index, tmp_path):
    version = write_index(tmp_path, people(130), REFINED, depth=30)
    content = version.content()
    assert Content.parse(version.manifest().content) == content
    assert IndexStore(str(tmp_path)).version(version.id).content() == content
