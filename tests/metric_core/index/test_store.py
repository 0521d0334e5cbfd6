from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metric_core import storage
from metric_core.errors import Corrupt, IndexBuildError, Missing, Occupied, Unfinished
from metric_core.index import build, store
from metric_core.index.engine import faiss
from metric_core.index.spec import IndexSpec

SPEC = IndexSpec(16, "Flat", 3)
IVF = IndexSpec(16, "IVF4,Flat", 3, nprobe=2)


def _content(folder: Path) -> store.Content:
    found = store.manifest.read(str(folder), "index").content
    shards = [store.Shard(**s) for s in found["shards"]]
    return store.Content(**{**found, "spec": IndexSpec(**found["spec"]), "shards": shards})


@pytest.mark.parametrize("spec", [SPEC, IVF], ids=["flat", "ivf"])
def test_written_published_and_opened(spec, people, write_index, tmp_path):
    v = people()
    version = write_index(tmp_path, v, spec)
    store.publish(str(tmp_path), version)
    index = store.open_index(str(tmp_path))
    assert (index.version, index.rows, index.fingerprint, index.nprobe) == (version, 300, "f" * 64, spec.nprobe)
    near = index.search(v.embedding_ND, 1, nprobe=4)
    np.testing.assert_array_equal(near.face_id_QK[:, 0], v.face_id_N)


def test_the_same_plan_continues_and_gives_the_same_bytes(people, write_index, tmp_path):
    v = people()
    version = write_index(tmp_path / "a", v, IVF, until=2)
    folder = tmp_path / "a" / "versions" / version
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert write_index(tmp_path / "a", v, IVF) == version == write_index(tmp_path / "b", v, IVF)
    for name, when in before.items():
        assert (folder / name).stat().st_mtime_ns == when, f"{name} was written again"
    a, b = (store.manifest.read(str(tmp_path / x / "versions" / version), "index") for x in "ab")
    assert a.digest == b.digest


def test_killed_between_shards_there_is_nothing_to_open(people, write_index, tmp_path):
    version = write_index(tmp_path, people(), SPEC, until=2)
    uri = str(tmp_path)
    assert not (tmp_path / store.CURRENT).exists()
    for attempt in (lambda: store.current(uri), lambda: store.open_index(uri)):
        with pytest.raises(Unfinished, match="no CURRENT"):
            attempt()
    for attempt in (lambda: store.publish(uri, version), lambda: store.open_index(uri, version)):
        with pytest.raises(Unfinished, match=r"no manifest\.json"):
            attempt()
    assert store.versions(uri) == [store.Version(version, False, False, None, None)]


def test_a_version_that_does_not_add_up_is_not_finished(people, write_index, tmp_path):
    version = write_index(tmp_path, people(), SPEC)
    folder = tmp_path / "versions" / version
    content = _content(folder)
    (folder / "manifest.json").unlink()
    foreign = replace(content.shards[1], template="0" * 64)
    for wrong, message in [
        (replace(content, shards=content.shards[:2]), r"shards \[0, 1\] are there, 0..2 are needed"),
        (replace(content, shards=[content.shards[0], foreign, content.shards[2]]), "shards \\[1\\] were started from"),
        (replace(content, rows=301), "hold 300 rows, the inputs 301"),
    ]:
        with pytest.raises(IndexBuildError, match=message):
            store.finish(str(tmp_path), version, wrong, {})
    assert not (folder / "manifest.json").exists()


@pytest.mark.parametrize("name", ["shard-001.faiss", "identities-001.parquet"])
def test_a_flipped_byte_is_refused(name, people, write_index, tmp_path, monkeypatch):
    version = write_index(tmp_path, people(), SPEC)
    path = tmp_path / "versions" / version / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    read = faiss.read_index
    monkeypatch.setattr(
        faiss, "read_index", lambda p: pytest.fail("read") if "001" in p and "shard" in name else read(p)
    )
    with pytest.raises(Corrupt, match=f"{name}: its sha256"):
        store.open_index(str(tmp_path), version)


def test_a_shard_of_another_template_is_refused_even_with_the_right_digest(people, write_index, tmp_path):
    v = people()
    version = write_index(tmp_path, v, IVF)
    other = build.train_template(v.embedding_ND, IVF, seed=99)
    strange = store.put_shard(str(tmp_path), version, 1, build.build_shard(other, build.of_shard([v], 1, IVF.shards)))
    content = _content(tmp_path / "versions" / version)
    forged = replace(strange, template=content.template)
    with pytest.raises(Corrupt, match="another template"):
        store.open_shards(
            str(tmp_path), version, replace(content, shards=[content.shards[0], forged, content.shards[2]])
        )


def test_publish_swaps_current_and_versions_lists_it(people, write_index, tmp_path):
    v, uri = people(), str(tmp_path)
    first, second = write_index(tmp_path, v, SPEC, seed=1), write_index(tmp_path, v, SPEC, seed=2)
    store.publish(uri, second)
    store.publish(uri, first)
    store.publish(uri, first)
    assert store.current(uri) == first
    assert [(x.id, x.live, x.rows, x.when[:10]) for x in store.versions(uri)] == [
        (first, True, 300, "2025-01-01"),
        (second, False, 300, "2025-01-02"),
    ]


def test_publish_refuses_what_is_not_whole(people, write_index, tmp_path):
    uri, version = str(tmp_path), write_index(tmp_path, people(), SPEC)
    with pytest.raises(Missing):
        store.publish(uri, "0" * 16)
    (tmp_path / "versions" / version / "shard-002.faiss").write_bytes(b"short")
    with pytest.raises(Corrupt, match=r"shard-002\.faiss is not the"):
        store.publish(uri, version)
    assert not (tmp_path / store.CURRENT).exists()


def test_many_publishers_leave_one_whole_version_live(people, write_index, tmp_path):
    v, uri = people(), str(tmp_path)
    made = [write_index(tmp_path, v, SPEC, seed=s) for s in (1, 2, 3, 4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda version: store.publish(uri, version), made * 5))
    assert store.current(uri) in made
    assert sum(x.live for x in store.versions(uri)) == 1


def test_current_says_what_is_wrong(people, write_index, tmp_path):
    with pytest.raises(Missing, match="there is no index"):
        store.current(str(tmp_path / "nowhere"))
    with pytest.raises(Missing, match="there is no index"):
        store.versions(str(tmp_path / "nowhere"))
    version = write_index(tmp_path, people(), SPEC)
    store.publish(str(tmp_path), version)
    (tmp_path / store.CURRENT).write_text("gone\n")
    with pytest.raises(Corrupt, match="'gone', which is not there"):
        store.current(str(tmp_path))


def test_another_artefacts_folder_is_left_alone(tmp_path):
    storage.write_bytes(str(tmp_path / "part-000000.parquet"), b"x")
    with pytest.raises(Occupied, match=r"part-000000\.parquet and is no index"):
        store.begin(str(tmp_path), {})


def test_the_first_template_stays(people, tmp_path):
    version, _ = store.begin(str(tmp_path), {"a": 1})
    assert store.template(str(tmp_path), version) is None
    assert (
        store.put_template(str(tmp_path), version, b"one") == b"one" == store.put_template(str(tmp_path), version, b"2")
    )
    assert store.template(str(tmp_path), version) == b"one"
