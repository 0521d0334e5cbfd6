"""The folder of an index: its versions, and which of them is live."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from metric_core import storage
from metric_core.errors import Corrupt, Missing, Occupied, Unfinished
from metric_core.index.search import Index
from metric_core.index.store import CURRENT, IndexStore, VersionInfo
from metric_core.index.version import Version

REFINED = "IVF4,PQ8x4fsr,Refine(SQfp16)"


@pytest.fixture
def store(tmp_path) -> IndexStore:
    return IndexStore(str(tmp_path))


@pytest.mark.parametrize(
    ("factory", "nprobe", "depth"), [("Flat", None, None), ("IVF4,Flat", 2, None), (REFINED, 3, 30)]
)
def test_written_published_and_opened(factory, nprobe, depth, people, write_index, store):
    v = people(130)
    version = write_index(store.uri, v, factory, nprobe=nprobe, depth=depth)
    store.publish(version)
    index = Index.open(store.uri)
    assert (index.version, index.rows, index.fingerprint, index.nprobe, index.depth) == (
        version,
        650,
        "f" * 64,
        nprobe,
        depth,
    )
    assert index.names.to_pylist() == sorted(set(v.identity.to_pylist()))
    near = index.search(v.embedding_ND, 1, nprobe=4, depth=650)
    np.testing.assert_array_equal(near.face_id_QK[:, 0], v.face_id_N)


def test_the_same_plan_continues_and_gives_the_same_bytes(people, write_index, tmp_path):
    v = people(130)
    begun = write_index(tmp_path / "a", v, REFINED, until=2)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a" / "shards").iterdir()}
    assert len(before) == 6
    one, other = write_index(tmp_path / "a", v, REFINED), write_index(tmp_path / "b", v, REFINED)
    assert one == begun
    assert one.id == other.id
    for path, when in before.items():
        assert path.stat().st_mtime_ns == when, f"{path} was written again"
    assert one.manifest().digest == other.manifest().digest


def test_versions_share_shards_of_equal_content(people, write_index, store):
    v = people()
    first, second = write_index(store.uri, v, seed=1), write_index(store.uri, v, seed=2)
    assert [s.digest for s in first.content().shards] == [s.digest for s in second.content().shards]
    assert len(list(Path(store.uri, "shards").iterdir())) == 6
    both = {str(path) for folder in ("shards", "files") for path in Path(store.uri, folder).iterdir()}
    assert first.sizes().keys() == second.sizes().keys() == both


def test_killed_between_shards_there_is_nothing_to_open(people, write_index, store):
    version = write_index(store.uri, people(), until=2)
    for attempt in (store.current, store.version, lambda: Index.open(store.uri)):
        with pytest.raises(Unfinished, match="no CURRENT"):
            attempt()
    for attempt in (lambda: store.publish(version), lambda: Index.open(store.uri, version.id)):
        with pytest.raises(Unfinished, match=r"no manifest\.json"):
            attempt()
    assert not Path(store.uri, CURRENT).exists()


def test_versions_lists_finished_and_unfinished_ones(people, write_index, store):
    v = people()
    begun = write_index(store.uri, v, seed=3, until=1)
    second, first = write_index(store.uri, v, seed=2), write_index(store.uri, v, seed=1)
    store.publish(second)
    assert store.versions() == [
        VersionInfo(first.id, True, False, 300, "2025-01-01T00:00:00+00:00"),
        VersionInfo(second.id, True, True, 300, "2025-01-02T00:00:00+00:00"),
        VersionInfo(begun.id, False, False, None, None),
    ]


def test_an_unfinished_version_does_not_replace_the_live_one(people, write_index, store):
    v = people()
    live, begun = write_index(store.uri, v, seed=1), write_index(store.uri, v, seed=2, until=3)
    store.publish(live)
    with pytest.raises(Unfinished):
        store.publish(begun)
    assert store.current() == live == store.version()


def test_publish_swaps_current(people, write_index, store):
    v = people()
    first, second = write_index(store.uri, v, seed=1), write_index(store.uri, v, seed=2)
    for version in (second, first, first):
        store.publish(version)
        assert store.current() == version
    assert Path(store.uri, CURRENT).read_bytes() == f"{first.id}\n".encode()
    assert Index.open(store.uri).version == first
    assert Index.open(store.uri, second.id).version == second == store.version(second.id)


@pytest.mark.parametrize("ending", ["faiss", "rows", "vectors"])
def test_publish_refuses_what_is_not_whole(ending, people, write_index, store):
    version = write_index(store.uri, people(130), REFINED, depth=30)
    with pytest.raises(Missing):
        store.publish(Version(store.uri, "0" * 16))
    damaged = Path(version.address(version.content().shards[2], ending))
    damaged.write_bytes(b"short")
    with pytest.raises(Corrupt, match=rf"\.{ending} is missing or not the"):
        store.publish(version)
    damaged.unlink()
    with pytest.raises(Corrupt, match=rf"\.{ending} is missing or not the"):
        store.publish(version)
    assert not Path(store.uri, CURRENT).exists()


def test_publish_refuses_a_version_without_one_of_its_own_files(people, write_index, store):
    version = write_index(store.uri, people())
    Path(version.place(version.content(), "names.arrow")).unlink()
    with pytest.raises(Corrupt, match=r"names\.arrow is missing or not the"):
        store.publish(version)


def test_publish_refuses_a_version_of_another_index(people, write_index, tmp_path):
    version = write_index(tmp_path / "a", people())
    with pytest.raises(ValueError, match=r"belongs to .*/a, not to .*/b"):
        IndexStore(str(tmp_path / "b")).publish(version)
    assert not (tmp_path / "b").exists()


def test_many_publishers_leave_one_whole_version_live(people, write_index, store):
    v = people()
    made = [write_index(store.uri, v, seed=s) for s in (1, 2, 3, 4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store.publish, made * 5))
    assert store.current() in made
    assert sum(x.live for x in store.versions()) == 1


def test_current_says_what_is_wrong(people, write_index, store):
    nowhere = IndexStore(f"{store.uri}/nowhere")
    for ask in (nowhere.current, nowhere.versions):
        with pytest.raises(Missing, match="there is no index"):
            ask()
    store.publish(write_index(store.uri, people()))
    Path(store.uri, CURRENT).write_text("gone\n")
    with pytest.raises(Corrupt, match="'gone', which is not there"):
        store.current()


def test_another_artefacts_folder_is_left_alone(store):
    storage.write_bytes(f"{store.uri}/part-000000.parquet", b"x")
    with pytest.raises(Occupied, match=r"part-000000\.parquet and is no index"):
        store.begin({})


def test_a_damaged_plan_is_written_again_and_a_damaged_manifest_removed(people, write_index, store):
    version = write_index(store.uri, people())
    plan, digest = Path(version.file("plan.json")), version.manifest().digest
    whole = plan.read_bytes()
    plan.write_bytes(whole[:20])
    again = write_index(store.uri, people())
    assert plan.read_bytes() == whole
    assert again.manifest().digest == digest
    Path(version.file("manifest.json")).write_text("{}")
    again = write_index(store.uri, people())
    assert again == version
    assert again.manifest().digest == digest
