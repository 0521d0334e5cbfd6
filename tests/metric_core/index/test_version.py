"""The handle of one version: what it writes, and what it refuses to read."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from metric_core.errors import Corrupt, IndexBuildError, Missing, Unfinished
from metric_core.index import build
from metric_core.index.engine import faiss
from metric_core.index.search import Index
from metric_core.index.spec import IndexSpec
from metric_core.index.store import IndexStore
from metric_core.index.version import Content, Version

SPEC = IndexSpec(16, "Flat", 3)
IVF = IndexSpec(16, "IVF4,Flat", 3, nprobe=2)


def _read(version: Version) -> list[object]:
    """What only a finished version can answer; the errors, in order."""
    found: list[object] = []
    for ask in (version.manifest, version.content, version.faces, version.check_files):
        with pytest.raises((Missing, Unfinished)) as caught:
            ask()
        found.append(caught.value)
    return found


def test_an_unfinished_version_says_so_and_keeps_what_is_done(people, write_index, tmp_path):
    version = write_index(tmp_path, people(), SPEC, until=2)
    assert not version.finished
    assert all(isinstance(e, Unfinished) and "has no manifest.json" in str(e) for e in _read(version))
    assert version.template() is not None
    assert [version.receipt(n) is None for n in range(3)] == [False, False, True]


def test_a_version_that_is_not_there(tmp_path):
    version = Version(str(tmp_path), "0" * 16)
    assert (version.finished, version.template(), version.receipt(0)) == (False, None, None)
    assert all(isinstance(e, Missing) and "does not exist" in str(e) for e in _read(version))


def test_a_finished_version_gives_back_what_was_written(people, write_index, tmp_path):
    version = write_index(tmp_path, people(), IVF)
    assert version.finished
    content = version.content()
    assert (content.spec, content.rows, content.nprobe) == (IVF, 300, 2)
    assert content.shards == [version.receipt(n) for n in range(3)]
    assert version.faces() == "FACES"
    version.check_files()


def test_the_files_of_a_version_lie_where_they_always_did(people, write_index, tmp_path):
    version = write_index(tmp_path, people(), SPEC)
    assert version.uri == f"{tmp_path}/versions/{version.id}"
    expected = {"plan.json", "template.faiss", "manifest.json"}
    expected |= {f"shard-{n:03d}.{ending}" for n in range(3) for ending in ("faiss", "json")}
    expected |= {f"identities-{n:03d}.parquet" for n in range(3)}
    assert {path.name for path in Path(version.uri).iterdir()} == expected


def test_a_handle_travels_to_other_processes(people, write_index, tmp_path):
    version = write_index(tmp_path, people(), SPEC)
    assert pickle.loads(pickle.dumps(version)) == version == Version(str(tmp_path), version.id)


def test_a_version_that_does_not_add_up_is_not_finished(people, write_index, tmp_path):
    version = write_index(tmp_path, people(), SPEC)
    content = version.content()
    (Path(version.uri) / "manifest.json").unlink()
    foreign = replace(content.shards[1], template="0" * 64)
    for wrong, message in [
        (replace(content, shards=content.shards[:2]), r"shards \[0, 1\] exist, 0..2 are needed"),
        (replace(content, shards=[content.shards[0], foreign, content.shards[2]]), "shards \\[1\\] were started from"),
        (replace(content, rows=301), "hold 300 rows, the inputs 301"),
    ]:
        with pytest.raises(IndexBuildError, match=message):
            version.finish(wrong, {})
    assert not version.finished


@pytest.mark.parametrize("name", ["shard-001.faiss", "identities-001.parquet"])
def test_a_flipped_byte_is_refused(name, people, write_index, tmp_path, monkeypatch):
    version = write_index(tmp_path, people(), SPEC)
    path = Path(version.uri) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    read = faiss.read_index
    monkeypatch.setattr(
        faiss, "read_index", lambda p: pytest.fail("read") if "001" in p and "shard" in name else read(p)
    )
    with pytest.raises(Corrupt, match=f"{name}: its sha256"):
        Index.open(str(tmp_path), version.id)


def test_a_shard_of_another_template_is_refused_even_with_the_right_digest(people, write_index, tmp_path):
    v = people()
    version = write_index(tmp_path, v, IVF)
    other = build.train_template(v.embedding_ND, IVF, seed=99)
    strange = version.put_shard(1, build.build_shard(other, build.of_shard([v], 1, IVF.shards)))
    content = version.content()
    for receipt in (strange, replace(strange, template=content.template)):
        with pytest.raises(Corrupt, match="another template"):
            Index.load(version, replace(content, shards=[content.shards[0], receipt, content.shards[2]]))


def test_a_draft_is_searched_before_it_is_finished(people, write_index, tmp_path):
    v = people()
    content: Content = write_index(tmp_path / "whole", v, SPEC).content()
    version = write_index(tmp_path / "draft", v, SPEC, until=3)
    assert not version.finished
    assert (Index.load(version, content).search(v.embedding_ND, 1).face_id_QK[:, 0] == v.face_id_N).all()


def test_the_first_template_stays(tmp_path):
    version, _ = IndexStore(str(tmp_path)).begin({"a": 1})
    assert version.template() is None
    assert version.put_template(b"one") == b"one" == version.put_template(b"2")
    assert version.template() == b"one"
