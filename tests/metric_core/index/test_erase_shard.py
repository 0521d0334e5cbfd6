"""A shard without some rows is, byte for byte, the shard that a build from the other rows makes."""

# N: rows of the shard, L: rows of a list.

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.index_versions import FAMILIES

from metric_core.index import codec, erase_shard, shard, template
from metric_core.index.corpus import Rows
from metric_core.index.engine import faiss
from metric_core.index.shard import Built
from metric_core.index.spec import IndexSpec

families = pytest.mark.parametrize("factory", FAMILIES)


def _build(folder: Path, v: Rows, spec: IndexSpec, trained: bytes) -> Built:
    folder.mkdir()
    return shard.build(trained, spec, [v], max(1, len(v)), folder)


def _gone(which: str, built: Built, spec: IndexSpec) -> np.ndarray:
    """bool (N,), the rows to remove."""
    rows = shard.read_rows(built.paths["rows"])
    gone_N = np.zeros(built.rows, bool)
    if which == "one":
        gone_N[70] = True
    elif which == "last of a block and first of the next":
        gone_N[31:33] = True
    elif which == "every third":
        gone_N[::3] = True
    elif which == "a person":
        gone_N = np.array([name in ("p007", "p120") for name in rows["identity"].to_pylist()])
    elif which == "a list":
        index = codec.read_file(built.paths["faiss"])
        ivf = faiss.try_extract_index_ivf(index)
        size = 100 if ivf is None else codec.list_sizes(ivf)[0]
        gone_N[:size] = True
    elif which == "all":
        gone_N[:] = True
    return gone_N


WHICH = ["one", "last of a block and first of the next", "every third", "a person", "a list", "all", "none"]


@pytest.mark.parametrize("which", WHICH)
@families
def test_it_is_the_shard_of_a_build_without_them(factory, which, people, tmp_path):
    spec = IndexSpec(16, factory)
    sample = people(2000, views=True)  # as many as 256 entries of a codebook need
    trained, v = template.train(sample.embedding_ND, spec, 0), sample.take(np.arange(650))
    names = pa.array([None if n % 11 == 0 else name for n, name in enumerate(v.identity.to_pylist())])
    v = Rows(v.face_id_N, names.dictionary_encode(), v.view, v.embedding_ND)
    built = _build(tmp_path / "all", v, spec, trained)
    gone_N = _gone(which, built, spec)
    gone = shard.read_rows(built.paths["rows"])["face_id"].to_numpy()[gone_N]
    (tmp_path / "less").mkdir()
    less = erase_shard.without(built.paths, spec, gone_N, tmp_path / "less")
    expected = _build(tmp_path / "again", v.take(np.flatnonzero(~np.isin(v.face_id_N, gone))), spec, trained)
    assert (less.rows, less.people) == (expected.rows, expected.people)
    assert less.files == expected.files
    assert less.digest == expected.digest
    assert set(less.files) == set(built.files)


@pytest.mark.parametrize("factory", [factory for factory in FAMILIES if IndexSpec(16, factory).fast_scan])
def test_packed_codes_are_unpacked_row_by_row(factory, people, tmp_path):
    v, spec = people(130), IndexSpec(16, factory)
    built = _build(tmp_path / "all", v, spec, template.train(v.embedding_ND, spec, 0))
    index = codec.read_file(built.paths["faiss"])
    lists = faiss.downcast_InvertedLists(faiss.extract_index_ivf(index).invlists)
    size = lists.list_size(0)
    whole_LC = erase_shard.unpacked(lists, 0, size)
    assert whole_LC.shape == (size, spec.code_bytes)
    block_BC = faiss.rev_swig_ptr(lists.get_codes(0), -(-size // 32) * lists.block_size).reshape(-1, lists.block_size)
    for row in (0, 33, size - 1):
        assert (lists.packer.unpack_1(block_BC, row) == whole_LC[row]).all()
    assert (erase_shard.unpacked(lists, 0, size, 1) == whole_LC[32:]).all()
