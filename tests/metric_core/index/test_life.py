"""Versions of an index come, go back and are removed, while others read."""

import multiprocessing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.drivers import PATIENCE

from metric_core.errors import Corrupt, Missing
from metric_core.index import history, prune
from metric_core.index.search import Index
from metric_core.index.store import IndexStore


@pytest.fixture
def store(tmp_path):
    return IndexStore(str(tmp_path))


@pytest.fixture
def made(people, write_index, store):
    """Three versions of equal shards, and one of other people."""
    v = people()
    return [*(write_index(store.uri, v, seed=seed) for seed in (1, 2, 3)), write_index(store.uri, people(130), seed=4)]


def test_going_back_leads_to_what_was_live_before(store, made):
    a, b, c, _ = made
    for version in (a, b, c):
        store.publish(version, f"at {version.id}")
    assert [one.when for one in history.read(store.uri)] == [f"at {v.id}" for v in (a, b, c)]
    assert store.earlier() == b
    store.roll_back(store.earlier())
    assert store.current() == b
    assert store.earlier() == a, "not c, which was left"
    store.publish(c)
    assert store.earlier(a.id) == a
    store.roll_back(store.earlier(a.id))
    assert store.current() == a
    with pytest.raises(Missing, match=rf"no version was live before {a.id}; no other one is there"):
        store.earlier()
    store.publish(b, forced=["rows 3 2"])
    with pytest.raises(Missing, match=rf"version {c.id} was live before {b.id}; those that were .*: {a.id}"):
        store.earlier(c.id)
    assert [one.forced for one in history.read(store.uri)] == [[], ["rows 3 2"]]


def test_a_job_that_was_killed_before_it_wrote_the_history(store, made):
    a, b, c, _ = made
    store.publish(a)
    store.publish(b)
    Path(store.uri, "CURRENT").write_text(f"{c.id}\n")
    assert store.earlier() == b
    Path(store.uri, "HISTORY").write_text("[{")
    with pytest.raises(Missing, match="no version was live before"):
        store.earlier()
    store.publish(a)
    assert [one.version for one in history.read(store.uri)] == [a.id]


def test_a_damaged_version_is_not_gone_back_to_and_a_damaged_live_one_is_left(store, made):
    a, b, *_ = made
    store.publish(a)
    store.publish(b)
    whole = Path(b.file("manifest.json")).read_text()
    Path(b.file("manifest.json")).write_text("{}")
    assert store.earlier() == a
    Path(b.file("manifest.json")).write_text(whole)
    damaged = Path(a.place(a.content(), "names.arrow"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(Corrupt, match=r"names\.arrow"):
        store.roll_back(a)
    assert store.current() == b


def test_pruning_keeps_the_live_version_and_all_that_kept_ones_list(store, made):
    a, b, c, other = made
    store.publish(b)
    with pytest.raises(ValueError, match="is the live one"):
        prune.prune(store, [b.id])
    only = set(other.sizes()) - set(b.sizes())
    lost = f"{store.uri}/shards/.half-written"
    Path(lost).write_bytes(b"12345")
    own = sum(path.stat().st_size for version in (a, other) for path in Path(version.uri).iterdir())
    expected = own + sum(other.sizes()[address] for address in only) + 5
    dry = prune.prune(store, [a.id, other.id], dry=True)
    assert a.finished
    assert Path(lost).exists(), "nothing was removed"
    done = prune.prune(store, [a.id, other.id])
    assert done == dry
    assert (set(done.files), done.bytes) == (only | {lost}, expected)
    assert [info.id for info in store.versions()] == sorted([b.id, c.id], key=[b.id, c.id].index)
    assert not any(Path(address).exists() for address in only)
    for version in (b, c):
        assert Index.open(store.uri, version.id).rows == 300
        version.require_whole()


def test_an_unfinished_version_keeps_what_it_has_made(people, write_index, store):
    begun = write_index(store.uri, people(130), until=2)
    receipts = [begun.receipt(number)[0] for number in (0, 1)]
    kept = {begun.address(one, ending) for one in receipts for ending in one.files}
    extra = Path(store.uri, "shards", "0" * 32 + ".faiss")
    extra.write_bytes(b"of a version that is gone")
    Path(begun.file("shard-001.json")).write_text("damaged")
    done = prune.prune(store, [])
    assert set(done.files) == {str(extra)} | {begun.address(receipts[1], ending) for ending in receipts[1].files}
    assert all(Path(address).exists() for address in kept - set(done.files))
    done = prune.prune(store, [begun.id])
    assert not list(Path(store.uri, "shards").iterdir())
    assert not list(Path(store.uri, "versions").iterdir())


def test_what_a_damaged_version_lists_is_not_guessed(store, made):
    Path(made[0].file("manifest.json")).write_text("{}")
    with pytest.raises(Corrupt, match=f"the manifest of version {made[0].id} is damaged"):
        prune.prune(store, [made[1].id])
    assert made[1].finished
    prune.prune(store, [made[0].id, made[1].id])
    assert not made[1].finished


def test_a_reader_notices_another_version_or_mask(people, write_index, store):
    v = people()
    first, second = write_index(store.uri, v), write_index(store.uri, v, masked=v.face_id_N[:5].tolist())
    store.publish(first)
    index = Index.open(store.uri)
    assert index.refresh(0).shards is index.shards
    store.publish(second)
    assert index.refresh().version == first, "within ten seconds"
    now = index.refresh(0)
    assert (now.version, now.left) == (second, 295)
    assert index.left == 300, "what was opened stays as it is"
    with pytest.raises(ValueError, match="restricted to some rows"):
        index.only(face_ids=[1]).refresh(0)


def _read(uri, probe_QD, faces, opened, done, told):
    """Search until told to end; tells which versions answered, how often, and what was wrong."""
    index, answers, wrong = Index.open(uri), Counter(), []
    opened.release()
    while not done.wait(0.01):
        index = index.refresh(0)
        found = set(index.search(probe_QD, 5).face_id_QK.ravel().tolist())
        answers[index.version.id] += 1
        if not found <= faces[index.version.id]:
            wrong.append(found)
    told.put((dict(answers), wrong))


@pytest.mark.slow
def test_readers_never_mix_two_versions(people, write_index, store):
    """Every face of one version is a face of nobody in the other."""
    v = people(130)
    half = len(v) // 2
    parts = [v.take(np.arange(half)), v.take(np.arange(half, 2 * half))]
    made = [write_index(store.uri, part, "IVF4,Flat", nprobe=4, seed=n) for n, part in enumerate(parts, 1)]
    faces = {version.id: set(part.face_id_N.tolist()) for version, part in zip(made, parts)}
    store.publish(made[0])
    context = multiprocessing.get_context("spawn")
    opened, done, told = context.Semaphore(0), context.Event(), context.Queue()
    how = store.uri, v.embedding_ND[:20], faces, opened, done, told
    readers = [context.Process(target=_read, args=how, daemon=True) for _ in range(4)]
    for reader in readers:
        reader.start()
    for _ in readers:
        assert opened.acquire(timeout=PATIENCE), "a reader did not open the index"
    for number in range(1, 201):
        store.publish(made[number % 2])
    done.set()
    for answers, wrong in [told.get(timeout=PATIENCE) for _ in readers]:
        assert not wrong
        assert answers.keys() == faces.keys()
    for reader in readers:
        reader.join(PATIENCE)
        assert reader.exitcode == 0
