"""Indexes of a few hundred vectors, built and stored as the index job does it."""

# N: rows, C: people, D: components, M: lists.

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from support import index_versions

from metric_core.artefacts.faces import face_id
from metric_core.index.corpus import Rows
from metric_core.index.engine import faiss
from metric_core.index.search import Index
from metric_core.index.version import Version


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
    """Builds a version, see ``support.index_versions``."""
    return index_versions.write


@pytest.fixture(scope="session")
def open_of(tmp_path_factory: pytest.TempPathFactory, write_index: Callable[..., Version]) -> Callable[..., Index]:
    """An open index of some rows; further arguments as of ``write_index``."""

    def build_and_open(v: Rows, factory: str = "Flat", **more: object) -> Index:
        uri = tmp_path_factory.mktemp("index")
        return Index.open(str(uri), write_index(uri, v, factory, **more).id)

    return build_and_open
