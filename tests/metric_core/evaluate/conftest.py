from collections.abc import Callable

import numpy as np
import pytest

from metric_core.artefacts.embeddings import Vectors
from metric_core.artefacts.faces import face_id


@pytest.fixture
def people() -> Callable[..., Vectors]:
    """A function that makes unit vectors of people with the given numbers of pictures, with keys as in LFW."""

    def make(sizes: list[int], dim: int = 8, noise: float = 0.7, seed: int = 0) -> Vectors:
        random = np.random.default_rng(seed)
        emb, keys = [], []
        for person, size in enumerate(sizes):
            emb.append(random.standard_normal(dim) + noise * random.standard_normal((size, dim)))
            keys += [f"P_{person}/P_{person}_{i + 1:04d}" for i in range(size)]
        emb_ND = np.concatenate(emb)
        emb_ND /= np.linalg.norm(emb_ND, axis=1, keepdims=True)
        return Vectors(
            np.array([face_id("test", key) for key in keys], np.int64),
            np.array([key.split("/")[0] for key in keys], object),
            emb_ND.astype(np.float32),
        )

    return make
