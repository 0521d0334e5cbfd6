"""Indexes of a few hundred vectors, built and stored as the index job does it."""

# N: rows, C: people, D: components, M: lists.

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metric_core.artefacts.faces import face_id
from metric_core.index import shard, template, truth, tuning
from metric_core.index import version as versions
from metric_core.index.corpus import Rows
from metric_core.index.engine import faiss
from metric_core.index.search import Index
from metric_core.index.shard import File
from metric_core.index.spec import IndexSpec
from metric_core.index.store import IndexStore
from metric_core.index.truth import Probes, Truth
from metric_core.index.version import Content, Shard, Version


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests run side by side, and FAISS's waiting threads would take the processors from the others."""
    faiss.omp_set_num_threads(1)


@pytest.fixture(scope="session")
def people() -> Callable[..., Rows]:
    """Makes unit vectors of ``count`` people with ``each`` pictures, in no particular order of id."""

    def make(
        count: int = 60, each: int = 5, dim: int = 16, noise: float = 0.5, seed: int = 0, views: bool = False
    ) -> Rows:
        random = np.random.default_rng(seed)
        centre_CD = random.standard_normal((count, dim))
        emb_ND = np.repeat(centre_CD, each, axis=0) + noise * random.standard_normal((count * each, dim))
        emb_ND /= np.linalg.norm(emb_ND, axis=1, keepdims=True)
        keys = [f"p{i // each:03d}/{i % each}" for i in range(count * each)]
        view = pa.array([("left", "right", None)[i % 3] for i in range(len(keys))]).dictionary_encode()
        return Rows(
            np.array([face_id("test", key) for key in keys], np.int64),
            pa.array([key.split("/")[0] for key in keys]).dictionary_encode(),
            view if views else None,
            emb_ND.astype(np.float32),
        )

    return make


@pytest.fixture(scope="session")
def blocks_of() -> Callable[[Rows, int], list[Rows]]:
    """Cuts rows into blocks of some rows, as the parts of an artefact are."""

    def cut(v: Rows, rows: int) -> list[Rows]:
        return [v.take(np.arange(start, min(start + rows, len(v)))) for start in range(0, len(v), rows)]

    return cut


@pytest.fixture(scope="session")
def write_index() -> Callable[..., Version]:
    """Builds a version the way the index job does.

    ``until``: only that many shards, and no manifest. ``masked``: faces that must not be found.
    """

    def write(
        uri: Path | str,
        v: Rows,
        factory: str = "Flat",
        *,
        shards: int = 3,
        nprobe: int | None = None,
        depth: int | None = None,
        seed: int = 1,
        until: int | None = None,
        masked: Sequence[int] = (),
        trained: bytes | None = None,
    ) -> Version:
        spec = IndexSpec(v.embedding_ND.shape[1], factory)
        plan = {"spec": factory, "seed": seed, "rows": len(v), "shards": shards, "masked": list(masked)}
        version, done = IndexStore(str(uri)).begin(plan)
        if done is not None:
            return version
        trained = trained or template.train(v.embedding_ND, spec, seed)
        some = v.take(np.arange(0, len(v), max(1, len(v) // 20)))
        probes = Probes(some.face_id_N, some.identity.to_pylist(), some.embedding_ND)
        version.put(versions.TEMPLATE, trained)
        version.put(versions.PROBES, versions.ipc(probes.to_table()))
        version.put(versions.CHOICE, b"{}")
        for number, at_N in enumerate(np.array_split(np.arange(len(v)), shards)[:until]):
            if version.receipt(number) is not None:
                continue
            near = probes.nearest()
            with tempfile.TemporaryDirectory() as folder:
                built = shard.build(trained, spec, [v.take(at_N)], len(at_N), Path(folder), near)
                neighbours = versions.ipc(truth.best_table(near.best()))
                version.put_shard(number, built, versions.digest(trained), neighbours)
        if until is None:
            content = _content(version, spec, shards, trained, probes, len(v), masked)
            content = replace(content, nprobe=nprobe or (1 if spec.nlist else None), depth=depth)
            if len(probes) and not len(masked):
                known = Truth.parse(version.read_checked(versions.TRUTH, content.files[versions.TRUTH]))
                point = tuning.measure(Index.load(version, content), known, content.nprobe, depth)
                content = replace(content, recall=asdict(point))
            version.finish(content, {"finished": f"2025-01-0{seed}T00:00:00+00:00", "faces": "FACES"})
        return version

    return write


def _content(
    version: Version,
    spec: IndexSpec,
    shards: int,
    trained: bytes,
    probes: Probes,
    rows: int,
    masked: Sequence[int],
) -> Content:
    """Of the manifest, and the files that are made of all shards."""
    receipts: list[Shard] = []
    names, near = [], []
    for number in range(shards):
        found = version.receipt(number)
        assert found is not None
        receipts.append(found[0])
        near.append(truth.parse_best(found[1]))
        with version.local_files(found[0]) as paths:
            names.append(shard.read_rows(paths["rows"])["identity"].dictionary)
    own = dict(zip((versions.NAMES, versions.CODES), versions.named(names)))
    own[versions.TRUTH] = versions.ipc(Truth(probes, truth.merged(near)).to_table())
    for name, data in own.items():
        version.put(name, data)
    for name in (versions.TEMPLATE, versions.PROBES, versions.CHOICE):
        own[name] = version.read(name) or b""
    masks = []
    if len(masked):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"face_id": pa.array(masked, pa.int64())}), sink)
        data = sink.getvalue().to_pybytes()
        version.put("mask-000.parquet", data)
        masks = [{"name": "mask-000.parquet", "rows": len(masked), "sha256": versions.digest(data), "why": "erased"}]
    return Content(
        fingerprint="f" * 64,
        namespace="test",
        spec=spec,
        template=versions.digest(trained),
        shards=receipts,
        rows=rows,
        people=len(pa.ipc.open_file(own[versions.NAMES]).read_all()),
        nprobe=None,
        depth=None,
        recall={"identity": 1.0},
        inputs={"embeddings": "e" * 64},
        choice={},
        files={name: File(len(data), versions.digest(data)) for name, data in sorted(own.items())},
        masks=masks,
    )


@pytest.fixture(scope="session")
def open_of(tmp_path_factory: pytest.TempPathFactory, write_index: Callable[..., Version]) -> Callable[..., Index]:
    """An open index of some rows; further arguments as of ``write_index``."""

    def build_and_open(v: Rows, factory: str = "Flat", **more: object) -> Index:
        uri = tmp_path_factory.mktemp("index")
        return Index.open(str(uri), write_index(uri, v, factory, **more).id)

    return build_and_open
