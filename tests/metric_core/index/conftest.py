from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from metric_core.artefacts.embeddings import Vectors
from metric_core.artefacts.faces import face_id
from metric_core.index import build, codec, store
from metric_core.index.search import OpenIndex
from metric_core.index.spec import IndexSpec


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
def write_index(blocks_of: Callable[[Vectors, int], list[Vectors]]) -> Callable[..., str]:
    """Builds a version the way the index job does, and returns its id."""

    def write(uri: Path | str, v: Vectors, spec: IndexSpec, *, seed: int = 1, until: int | None = None) -> str:
        uri = str(uri)
        version, done = store.begin(uri, {"spec": asdict(spec), "seed": seed, "rows": len(v)})
        if done is not None:
            return version
        blocks = blocks_of(v, 100)
        template = store.template(uri, version)
        if template is None:
            chosen = build.sample(blocks, spec.train_rows, seed, "train")
            template = store.put_template(uri, version, build.train_template(chosen.embedding_ND, spec, seed))
        shards = []
        for number in range(spec.shards)[:until]:
            if (shard := store.receipt(uri, version, number)) is None:
                built = build.build_shard(template, build.of_shard(blocks, number, spec.shards))
                rows = int((build.shard_of(v.face_id_N, spec.shards) == number).sum())
                build.check_shard(built, number, spec.shards, rows, template)
                shard = store.put_shard(uri, version, number, built)
            shards.append(shard)
        if until is None:
            content = store.Content(
                "f" * 64, "test", spec, codec.template_hash(template), shards, len(v), spec.nprobe, {"recall": 1.0}
            )
            store.finish(uri, version, content, {"finished": f"2025-01-0{seed}T00:00:00+00:00"})
        return version

    return write


@pytest.fixture
def open_of(tmp_path: Path, write_index: Callable[..., str]) -> Callable[[Vectors, IndexSpec], OpenIndex]:
    """An open index of some vectors."""

    def build_and_open(v: Vectors, spec: IndexSpec) -> OpenIndex:
        uri = tmp_path / f"index-{spec.factory}-{spec.shards}-{len(v)}"
        return store.open_index(str(uri), write_index(uri, v, spec))

    return build_and_open
