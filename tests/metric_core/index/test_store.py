"""The folder of an index: its versions, and which of them is live."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_core import storage
from metric_core.artefacts.collection import Collection
from metric_core.errors import Corrupt, Missing, Occupied, Unfinished
from metric_core.index.search import Index
from metric_core.index.spec import IndexSpec
from metric_core.index.store import CURRENT, IndexStore, VersionInfo
from metric_core.index.version import Version

SPEC = IndexSpec(16, "Flat", 3)
IVF = IndexSpec(16, "IVF4,Flat", 3, nprobe=2)
FROZEN = Path(__file__).parents[2] / "frozen" / "1"


@pytest.fixture
def store(tmp_path) -> IndexStore:
    return IndexStore(str(tmp_path))


@pytest.mark.parametrize("spec", [SPEC, IVF], ids=["flat", "ivf"])
def test_written_published_and_opened(spec, people, write_index, store):
    v = people()
    version = write_index(store.uri, v, spec)
    store.publish(version)
    index = Index.open(store.uri)
    assert (index.version, index.rows, index.fingerprint, index.nprobe) == (version, 300, "f" * 64, spec.nprobe)
    near = index.search(v.embedding_ND, 1, nprobe=4)
    np.testing.assert_array_equal(near.face_id_QK[:, 0], v.face_id_N)


def test_a_frozen_index_opens_and_answers_as_it_did():
    index = Index.open(str(FROZEN / "index"))
    source = Collection.open(f"{FROZEN / 'embeddings'},{FROZEN / 'delta'}")
    found = pa.concat_tables(
        index.identify(
            block.embedding_ND,
            [str(face_id) for face_id in block.face_id_N],
            3,
            exclude_face_id_Q=block.face_id_N,
        )
        for block in source.iter_vectors()
    )
    then = pq.read_table(FROZEN / "matches" / "matches.parquet")
    assert found.drop(["score"]).equals(then.drop(["score"]))
    np.testing.assert_allclose(found["score"].to_numpy(), then["score"].to_numpy(), atol=1e-6)


def test_a_frozen_version_has_the_id_of_its_plan(tmp_path):
    frozen = IndexStore(str(FROZEN / "index")).current()
    plan = json.loads((Path(frozen.uri) / "plan.json").read_text())["plan"]
    begun, finished = IndexStore(str(tmp_path)).begin(plan)
    assert begun.id == frozen.id == "03b3e71dbbabb437"
    assert finished is None


def test_the_same_plan_continues_and_gives_the_same_bytes(people, write_index, tmp_path):
    v = people()
    begun = write_index(tmp_path / "a", v, IVF, until=2)
    folder = Path(begun.uri)
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    one, other = write_index(tmp_path / "a", v, IVF), write_index(tmp_path / "b", v, IVF)
    assert one == begun
    assert one.id == other.id
    for name, when in before.items():
        assert (folder / name).stat().st_mtime_ns == when, f"{name} was written again"
    assert one.manifest().digest == other.manifest().digest


def test_killed_between_shards_there_is_nothing_to_open(people, write_index, store):
    version = write_index(store.uri, people(), SPEC, until=2)
    for attempt in (store.current, store.version, lambda: Index.open(store.uri)):
        with pytest.raises(Unfinished, match="no CURRENT"):
            attempt()
    for attempt in (lambda: store.publish(version), lambda: Index.open(store.uri, version.id)):
        with pytest.raises(Unfinished, match=r"no manifest\.json"):
            attempt()
    assert not Path(store.uri, CURRENT).exists()


def test_versions_lists_finished_and_unfinished_ones(people, write_index, store):
    v = people()
    begun = write_index(store.uri, v, SPEC, seed=3, until=1)
    second, first = write_index(store.uri, v, SPEC, seed=2), write_index(store.uri, v, SPEC, seed=1)
    store.publish(second)
    assert store.versions() == [
        VersionInfo(first.id, True, False, 300, "2025-01-01T00:00:00+00:00"),
        VersionInfo(second.id, True, True, 300, "2025-01-02T00:00:00+00:00"),
        VersionInfo(begun.id, False, False, None, None),
    ]


def test_an_unfinished_version_does_not_replace_the_live_one(people, write_index, store):
    v = people()
    live, begun = write_index(store.uri, v, SPEC, seed=1), write_index(store.uri, v, SPEC, seed=2, until=3)
    store.publish(live)
    with pytest.raises(Unfinished):
        store.publish(begun)
    assert store.current() == live == store.version()


def test_publish_swaps_current(people, write_index, store):
    v = people()
    first, second = write_index(store.uri, v, SPEC, seed=1), write_index(store.uri, v, SPEC, seed=2)
    for version in (second, first, first):
        store.publish(version)
        assert store.current() == version
    assert Path(store.uri, CURRENT).read_bytes() == f"{first.id}\n".encode()
    assert Index.open(store.uri).version == first
    assert Index.open(store.uri, second.id).version == second == store.version(second.id)


def test_publish_refuses_what_is_not_whole(people, write_index, store):
    version = write_index(store.uri, people(), SPEC)
    with pytest.raises(Missing):
        store.publish(Version(store.uri, "0" * 16))
    Path(version.uri, "shard-002.faiss").write_bytes(b"short")
    with pytest.raises(Corrupt, match=r"shard-002\.faiss is missing or not the"):
        store.publish(version)
    assert not Path(store.uri, CURRENT).exists()


def test_publish_refuses_a_version_of_another_index(people, write_index, tmp_path):
    version = write_index(tmp_path / "a", people(), SPEC)
    with pytest.raises(ValueError, match=r"belongs to .*/a, not to .*/b"):
        IndexStore(str(tmp_path / "b")).publish(version)
    assert not (tmp_path / "b").exists()


def test_many_publishers_leave_one_whole_version_live(people, write_index, store):
    v = people()
    made = [write_index(store.uri, v, SPEC, seed=s) for s in (1, 2, 3, 4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store.publish, made * 5))
    assert store.current() in made
    assert sum(x.live for x in store.versions()) == 1


def test_current_says_what_is_wrong(people, write_index, store):
    nowhere = IndexStore(f"{store.uri}/nowhere")
    for ask in (nowhere.current, nowhere.versions):
        with pytest.raises(Missing, match="there is no index"):
            ask()
    store.publish(write_index(store.uri, people(), SPEC))
    Path(store.uri, CURRENT).write_text("gone\n")
    with pytest.raises(Corrupt, match="'gone', which is not there"):
        store.current()


def test_another_artefacts_folder_is_left_alone(store):
    storage.write_bytes(f"{store.uri}/part-000000.parquet", b"x")
    with pytest.raises(Occupied, match=r"part-000000\.parquet and is no index"):
        store.begin({})
