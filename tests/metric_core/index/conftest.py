from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from metric_core.artefacts.embeddings import Vectors
from metric_core.artefacts.faces import face_id
from metric_core.index import build, codec
from metric_core.index.search import Index
from metric_core.index.spec import IndexSpec
from metric_core.index.store import IndexStore
from metric_core.index.version import Content, Version


@pytest.fixture
def people() -> Callable[..., Vectors]:
    """Makes unit vectors of ``count`` people with ``each`` pictures, in no particular order of id."""

    def make(count: int = 60, each: int = 5, dim: int = 16, noise: float = 0.5, seed: int = 0) -> Vectors:
        random = np.random.default_rng(seed)
        center_CD = random.standard_normal((count, dim))
        emb_ND = np.repeat(center_CD, each, axis=0) + noise * random.standard_normal((count * each, dim))
        emb_ND /= np.linalg.norm(emb_ND, axis=1, keepdims=True)
        keys = [f"p{i // each:03d}/{i % each}" for i in range(count * each)]
        return Vectors(
            np.array([face_id("test", key) for key in keys], np.int64),
            np.array([key.split("/")[0] for key in keys], object),
            emb_ND.astype(np.float32),
        )

    return make


@pytest.fixture
def blocks_of() -> Callable[[Vectors, int], list[Vectors]]:
    """Cuts vectors into blocks of some rows, as the parts of an artefact are."""

    def cut(v: Vectors, rows: int) -> list[Vectors]:
        return [
            Vectors(v.face_id_N[i : i + rows], v.identity_N[i : i + rows], v.embedding_ND[i : i + rows])
            for i in range(0, len(v), rows)
        ]

    return cut


@pytest.fixture
def write_index(blocks_of: Callable[[Vectors, int], list[Vectors]]) -> Callable[..., Version]:
    """Builds a version the way the index job does; ``until``: only that many shards, and no manifest."""

    def write(uri: Path | str, v: Vectors, spec: IndexSpec, *, seed: int = 1, until: int | None = None) -> Version:
        version, done = IndexStore(str(uri)).begin({"spec": asdict(spec), "seed": seed, "rows": len(v)})
        if done is not None:
            return version
        blocks = blocks_of(v, 100)
        template = version.template()
        if template is None:
            chosen = build.sample(blocks, spec.train_rows, seed, "train")
            template = version.put_template(build.train_template(chosen.embedding_ND, spec, seed))
        shards = []
        for number in range(spec.shards)[:until]:
            if (shard := version.receipt(number)) is None:
                built = build.build_shard(template, build.of_shard(blocks, number, spec.shards))
                rows = int((build.shard_of(v.face_id_N, spec.shards) == number).sum())
                build.check_shard(built, number, spec.shards, rows, template)
                shard = version.put_shard(number, built)
            shards.append(shard)
        if until is None:
            trained = codec.template_hash(template)
            content = Content("f" * 64, "test", spec, trained, shards, len(v), spec.nprobe, {"recall": 1.0})
            version.finish(content, {"finished": f"2025-01-0{seed}T00:00:00+00:00", "faces": "FACES"})
        return version

    return write


@pytest.fixture
def open_of(tmp_path: Path, write_index: Callable[..., Version]) -> Callable[[Vectors, IndexSpec], Index]:
    """An open index of some vectors."""

    def build_and_open(v: Vectors, spec: IndexSpec) -> Index:
        uri = tmp_path / f"index-{spec.factory}-{spec.shards}-{len(v)}"
        return Index.open(str(uri), write_index(uri, v, spec).id)

    return build_and_open
