"""The scan of an index finds everybody before an erasure, wherever they are, and nobody afterwards."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support import index_versions, indexed
from support.index_versions import FAMILIES

from metric_core.index import codec, erase, erase_scan, template
from metric_core.index import version as versions
from metric_core.index.corpus import Rows
from metric_core.index.spec import IndexSpec
from metric_core.index.store import IndexStore
from metric_core.index.version import Version

NONE = np.empty(0, np.int64)
DEFAULT = "IVF4,PQ8x4fsr,Refine(SQfp16)"


@pytest.fixture(scope="module")
def crowd(people: Callable[..., Rows]) -> Rows:
    return people(130, views=True)


@cache
def _trained(people: Callable[..., Rows], factory: str) -> bytes:
    return template.train(people(2000).embedding_ND, IndexSpec(16, factory), 0)


def _write(folder: Path, crowd: Rows, people: Callable[..., Rows], factory: str = DEFAULT) -> Version:
    spec = IndexSpec(16, factory)
    trained = _trained(people, factory)
    version = index_versions.write(folder, crowd, factory, nprobe=4, depth=50 if spec.refine else None, trained=trained)
    IndexStore(str(folder)).publish(version)
    return version


@pytest.mark.parametrize("which", ["one", "many", "people"])
@pytest.mark.parametrize("factory", FAMILIES)
def test_everybody_before_and_nobody_after(factory, which, crowd, people, tmp_path):
    folder = tmp_path / "index"
    _write(folder, crowd, people, factory)
    names = [f"p{n:03d}" for n in range(0, 130, 9)] if which == "people" else []
    gone = {"one": crowd.face_id_N[[21]], "many": np.sort(crowd.face_id_N[::5]), "people": NONE}[which]
    everyone = np.sort(crowd.face_id_N[[name in names for name in crowd.identity.to_pylist()]]) if names else gone
    before = erase_scan.scan(str(folder), gone, names)
    assert before.face_id_M.tolist() == everyone.tolist()
    count = len(everyone)
    assert before.places["shards rows: face_id"] == before.places["shards faiss: code"] == count
    if "Refine" in factory:
        assert before.places["shards vectors: face_id"] == count
    if factory == "IVF4,PQ4x8,Refine(SQfp16)":
        assert before.places["shards codes: code"] == count
    if names:
        assert before.places["names.arrow: identity"] == len(names)
        assert before.places["shards rows: identity"] >= len(names)
    assert before.stored_MD.shape == (count, 16)
    assert before.undecoded == 0
    assert before.files == len(indexed.contents(folder))
    assert before.bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    erase.erase(str(folder), gone, names)
    after = erase_scan.scan(str(folder), gone, names, before)
    assert dict(after.places) == {}
    assert (after.total, after.undecoded, len(after.face_id_M), len(after.copies_M)) == (0, 0, 0, 0)
    assert after.files == len(indexed.contents(folder))


def _face(crowd: Rows) -> np.ndarray:
    return crowd.face_id_N[[33]]


def _planted(data: bytes, crowd: Rows, kind: str) -> bytes:
    """A file with something of an erased face where no value is."""
    number = int(_face(crowd)[0])
    word = {"id": number.to_bytes(8, "little"), "name": b"p006"}[kind]
    return data + word


@pytest.mark.parametrize("kind", ["id", "name"])
@pytest.mark.parametrize(
    "ending", [".rows", ".faiss", ".vectors", ".codes", ".probes.arrow", ".codes.npy", "manifest.json"]
)
def test_bytes_that_belong_to_no_value_are_searched(ending, kind, crowd, people, tmp_path):
    _write(tmp_path, crowd, people, "IVF4,PQ4x8,Refine(SQfp16)")
    names = ["p006"]
    before = erase_scan.scan(str(tmp_path), NONE, names)
    erase.erase(str(tmp_path), NONE, names)
    (path, *_) = sorted(tmp_path.rglob(f"*{ending}"))
    path.write_bytes(_planted(path.read_bytes(), crowd, kind))
    found = erase_scan.scan(str(tmp_path), NONE, names, before)
    assert found.total >= 1


def test_what_is_left_of_a_shard_by_a_killed_writer_is_found(crowd, people, tmp_path):
    version = _write(tmp_path / "index", crowd, people)
    old = version.content().shards[0]
    kept = shutil.copytree(tmp_path / "index" / "shards", tmp_path / "kept")
    gone = _face(crowd)
    before = erase_scan.scan(str(tmp_path / "index"), gone, [])
    erase.erase(str(tmp_path / "index"), gone, [])
    for ending in ("rows", "faiss", "vectors"):
        shutil.copy(kept / f"{old.digest}.{ending}", tmp_path / "index" / "shards")
        found = erase_scan.scan(str(tmp_path / "index"), gone, [], before)
        (tmp_path / "index" / "shards" / f"{old.digest}.{ending}").unlink()
        assert found.total > 0, ending
    shutil.copy(kept / f"{old.digest}.vectors", tmp_path / "index" / "shards" / ".x.unfinished")
    found = erase_scan.scan(str(tmp_path / "index"), gone, [], before)
    assert dict(found.places) == {".x.unfinished: bytes": 1}


def test_a_centroid_that_is_a_face_is_found(crowd, people, tmp_path):
    spec = IndexSpec(16, "IVF4,Flat")
    index = codec.load(template.train(crowd.embedding_ND, spec, 0))
    template.centroids(index, copy=False)[1] = crowd.embedding_ND[33]
    trained = template.serialized(index)
    version = index_versions.write(tmp_path, crowd, spec.factory, nprobe=4, trained=trained)
    before = erase_scan.scan(str(tmp_path), _face(crowd), [])
    assert (before.places["template.faiss: centroid"], before.places["shards faiss: centroid"]) == (1, 3)
    erase.erase(str(tmp_path), _face(crowd), [])
    assert erase_scan.scan(str(tmp_path), _face(crowd), [], before).total == 0
    assert version.content().template != versions.digest(trained)


def test_another_face_with_the_same_vector_is_told(crowd, people, tmp_path):
    embedding_ND = crowd.embedding_ND.copy()
    embedding_ND[500] = embedding_ND[33]
    _write(tmp_path, Rows(crowd.face_id_N, crowd.identity, crowd.view, embedding_ND), people)
    before = erase_scan.scan(str(tmp_path), _face(crowd), [])
    erase.erase(str(tmp_path), _face(crowd), [])
    after = erase_scan.scan(str(tmp_path), _face(crowd), [], before)
    assert (after.total, after.copies_M.tolist()) == (0, [crowd.face_id_N[500]])


def test_a_name_within_another_and_an_id_within_a_vector_are_chance(crowd, people, tmp_path):
    names = [name.replace("p006", "p00") for name in crowd.identity.to_pylist()]
    v = Rows(crowd.face_id_N, pa.array(names).dictionary_encode(), None, crowd.embedding_ND)
    _write(tmp_path, v, people)
    erase.erase(str(tmp_path), NONE, ["p00"])
    assert erase_scan.scan(str(tmp_path), NONE, ["p00"]).total == 0
    vector_D = v.embedding_ND[300].astype("<f2")
    inside = np.frombuffer(vector_D.tobytes()[:8], "<i8")  # eight bytes of a stored vector
    assert erase_scan.scan(str(tmp_path), np.abs(inside), []).total == 0
