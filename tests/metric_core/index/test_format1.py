"""Versions of format 1 are opened, and answer as they did when they were written."""

# N: rows, D: components.

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_core.artefacts import manifest, migrate
from metric_core.artefacts.collection import Collection
from metric_core.errors import Corrupt
from metric_core.index import check, codec
from metric_core.index import version as versions
from metric_core.index.corpus import Rows
from metric_core.index.engine import faiss
from metric_core.index.search import Index
from metric_core.index.store import IndexStore
from metric_core.index.version import Version

FROZEN = Path(__file__).parents[2] / "frozen" / "1"


def _written(out: Path, v: Rows, factory: str, shards: int = 3, nprobe: int | None = None) -> Version:
    """A version as the code of format 1 wrote it; rows in no particular order."""
    version, dim = Version(str(out), "0123456789abcdef"), v.embedding_ND.shape[1]
    folder = Path(version.uri)
    folder.mkdir(parents=True)
    template = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    template.train(v.embedding_ND)
    trained = faiss.serialize_index(template)
    listed = []
    for number in range(shards):
        part = v.take(np.flatnonzero(v.face_id_N.astype(np.uint64) % shards == number))
        index = codec.load(trained.tobytes())
        if factory == "Flat":
            index = faiss.IndexIDMap2(index)
        index.add_with_ids(part.embedding_ND, part.face_id_N)
        faiss.write_index(index, str(folder / f"shard-{number:03d}.faiss"))
        order = np.argsort(part.face_id_N)
        names = part.identity.cast(pa.string()).take(pa.array(order))
        pq.write_table(
            pa.table({"face_id": part.face_id_N[order], "identity": names}), folder / f"identities-{number:03d}.parquet"
        )
        data, beside = (
            (folder / name).read_bytes() for name in (f"shard-{number:03d}.faiss", f"identities-{number:03d}.parquet")
        )
        listed.append(
            {
                "number": number,
                "rows": len(part),
                "bytes": len(data),
                "sha256": versions.digest(data),
                "identities_sha256": versions.digest(beside),
                "template": "t" * 64,
            }
        )
    content = {
        "fingerprint": "f" * 64,
        "namespace": "test",
        "spec": {"dim": dim, "factory": factory, "shards": shards, "nprobe": nprobe},
        "template": "t" * 64,
        "shards": listed,
        "rows": len(v),
        "nprobe": nprobe,
        "recall": {"recall": 1.0},
        "inputs": {"embeddings": "e" * 64},
    }
    body = {"format": 1, "kind": "index", "content": content, "provenance": {"finished": "2025-01-01T00:00:00+00:00"}}
    body["digest"] = manifest.digest(migrate.hashed("index", "content", content))
    (folder / "manifest.json").write_text(json.dumps(body))
    (folder / "plan.json").write_text(json.dumps({"format": 1, "kind": "index", "plan": {}}))
    return version


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
    assert frozen.format() == 1


@pytest.mark.parametrize(("factory", "nprobe"), [("Flat", None), ("IVF4,Flat", 4)])
def test_an_older_version_equals_a_scan_of_everything(factory, nprobe, people, tmp_path):
    v = people()
    version = _written(tmp_path, v, factory, nprobe=nprobe)
    index = Index.open(str(tmp_path), version.id)
    assert (index.rows, index.nprobe, index.fingerprint) == (300, nprobe, "f" * 64)
    assert index.names.to_pylist() == sorted(set(v.identity.to_pylist()))
    near = index.search(v.embedding_ND[:40], 12)
    name_of = dict(zip(v.face_id_N.tolist(), v.identity.to_pylist()))
    for q in range(40):
        score_N = v.embedding_ND @ v.embedding_ND[q]
        order = np.argsort(-score_N)[:12]
        assert near.face_id_QK[q].tolist() == v.face_id_N[order].tolist()
        np.testing.assert_allclose(near.score_QK[q], score_N[order], atol=1e-6)
        names = index.names.take(pa.array(near.code_QK[q])).to_pylist()
        assert names == [name_of[face] for face in near.face_id_QK[q].tolist()]
    assert check.lookup(index) == (0, 300)


@pytest.mark.parametrize(("factory", "nprobe"), [("Flat", None), ("IVF4,Flat", 4)])
def test_ties_go_by_face_id_and_filters_hold(factory, nprobe, tmp_path):
    axis = np.arange(200) % 4
    id_N = np.random.default_rng(3).permutation(200).astype(np.int64) * 7
    names = pa.array([f"p{a}" for a in axis]).dictionary_encode()
    v = Rows(id_N, names, None, np.eye(4, dtype=np.float32)[axis])
    index = Index.open(str(tmp_path), _written(tmp_path, v, factory, nprobe=nprobe).id)
    near = index.search(np.eye(4, dtype=np.float32), 70)
    for q in range(4):
        mine, others = np.sort(id_N[axis == q]), np.sort(id_N[axis != q])
        assert near.face_id_QK[q].tolist() == [*mine.tolist(), *others[:20].tolist()]
    only = index.only(identities=["p1"]).search(np.eye(4, dtype=np.float32)[:1], 60).face_id_QK[0]
    assert only.tolist() == [*np.sort(id_N[axis == 1]).tolist(), *[-1] * 10]


def test_an_empty_shard_of_an_older_version(people, tmp_path):
    v = people()
    even = v.take(np.flatnonzero(v.face_id_N % 2 == 0))
    for factory, nprobe in (("Flat", None), ("IVF2,Flat", 2)):
        index = Index.open(str(tmp_path / factory), _written(tmp_path / factory, even, factory, 2, nprobe).id)
        assert [shard.rows for shard in index.shards] == [len(even), 0]
        assert (index.search(even.embedding_ND, 1).face_id_QK[:, 0] == even.face_id_N).all()


def test_an_older_version_is_published_and_listed_and_its_damage_refused(people, tmp_path):
    version, store = _written(tmp_path, people(), "IVF4,Flat", nprobe=2), IndexStore(str(tmp_path))
    store.publish(version)
    assert store.current() == version
    (info,) = store.versions()
    assert (info.finished, info.live, info.rows) == (True, True, 300)
    beside = Path(version.uri, "identities-001.parquet")
    whole = beside.read_bytes()
    beside.write_bytes(whole[:-1] + b"x")
    with pytest.raises(Corrupt, match=r"identities-001\.parquet: its sha256"):
        Index.open(str(tmp_path))
    beside.write_bytes(whole)
    Path(version.uri, "shard-002.faiss").unlink()
    with pytest.raises(Corrupt, match=r"shard-002\.faiss is missing or not the"):
        store.publish(version)
