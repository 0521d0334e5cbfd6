"""What the command that built an index does after faces were erased from it: nothing, or it mends without them."""

from pathlib import Path

import numpy as np
import pytest
from support import indexed
from support.indexed import Built

from metric_core.artefacts import erasing_embeddings
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.erasing import Target
from metric_core.index import erase
from metric_core.index.search import Index
from workflows.index import check, job
from workflows.index.config import CheckConfig

GONE = np.array([7, 300, 301, 302, 303, 304], np.int64)
"""A face, and all of p0060."""


@pytest.fixture
def erased(built: Built) -> Built:
    """An index and its embeddings without some faces."""
    erasing_embeddings.erase(Embeddings.open(built.embeddings), Target(GONE))
    erase.erase(str(built.out), GONE, [])
    return built


def test_the_version_counts_as_built_and_nothing_comes_back(erased, capfd):
    before = indexed.times(erased.out)
    result = job.run(erased.options())
    assert "is built already" in capfd.readouterr().err
    assert indexed.times(erased.out) == before
    assert (result["rows"], result["people"]) == (794, 159)
    assert "p0060" not in Index.open(erased.out).names.to_pylist()
    assert check.run(CheckConfig(index=str(erased.out)))["rows"] == 794


@pytest.mark.parametrize(
    "pattern", ["shards/*.faiss", "shards/*.rows", "versions/*/shard-001.json", "files/*.names.arrow"]
)
def test_what_is_damaged_afterwards_is_mended_without_them(pattern, erased):
    digest, before = erased.digest, indexed.contents(erased.out)
    sorted(Path(erased.out).glob(pattern))[0].unlink()
    job.run(erased.options())
    assert erased.digest == digest
    if "json" not in pattern:  # neighbours are found again with their receipt, more of them than were left
        assert indexed.contents(erased.out).items() >= {k: v for k, v in before.items() if "manifest" not in k}.items()
    assert not np.isin(Index.open(erased.out).shards[0].face_id_N, GONE).any()
