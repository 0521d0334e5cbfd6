"""Merging FAISS indexes. What merging with FAISS alone does to the heap shows only in a process that checks it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from metric_core.index import codec, template
from metric_core.index.engine import faiss
from metric_core.index.spec import IndexSpec

ROOT = Path(__file__).parents[3]
DIM, ROWS = 16, 512
"""Every list of packed codes below has a multiple of its blocks' bytes then."""
PACKED = ["IVF1,PQ4x4fsr,Refine(SQfp16)", "IVF1,PQ8x4fsr,Refine(SQfp16)", "IVF1,RaBitQfs,Refine(SQfp16)"]
CHECKED = "libc_malloc_debug.so.0"
"""Part of glibc from 2.34 on: with MALLOC_CHECK_=3, a process ends where it finds its heap damaged."""


def vectors() -> np.ndarray:
    x_ND = np.random.default_rng(0).standard_normal((3 * ROWS, DIM), np.float32)
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


def packed(trained: bytes, spec: IndexSpec, x_ND: np.ndarray) -> object:
    """An index of some rows, whose ids are positions, as a shard is written."""
    index, id_N, list_N = codec.load(trained), np.arange(len(x_ND)), np.zeros(len(x_ND), np.int64)
    index.add_core(len(x_ND), faiss.swig_ptr(x_ND), faiss.swig_ptr(id_N), faiss.swig_ptr(list_N))
    return template.for_search(index, spec)


def merged_and_whole(factory: str) -> None:
    """Three indexes as one have the rows, ids and codes of an index of all rows."""
    x_ND, spec = vectors(), IndexSpec(DIM, factory)
    trained = template.train(x_ND, spec, 0)
    merged, *others = (packed(trained, spec, x_ND[start : start + ROWS].copy()) for start in range(0, 3 * ROWS, ROWS))
    for other in others:
        codec.merge(merged, other)
        assert other.ntotal == 0
        assert codec.list_sizes(other) == [0]
    whole = packed(trained, spec, x_ND)
    assert merged.ntotal == len(x_ND)
    assert codec.list_sizes(merged) == [len(x_ND)]
    one, all_ = (faiss.downcast_InvertedLists(index.invlists) for index in (merged, whole))
    size = len(x_ND) // one.n_per_block * one.block_size
    np.testing.assert_array_equal(faiss.rev_swig_ptr(one.get_ids(0), len(x_ND)), np.arange(len(x_ND)))
    np.testing.assert_array_equal(*(faiss.rev_swig_ptr(lists.get_codes(0), size) for lists in (one, all_)))


@pytest.mark.parametrize("factory", PACKED)
def test_lists_that_fill_their_blocks_are_merged_within_their_bounds(factory: str) -> None:
    if not list(Path("/").glob(f"lib*/**/{CHECKED}")):
        pytest.skip(f"no {CHECKED} here")
    checked = {"PYTHONPATH": str(ROOT), "LD_PRELOAD": CHECKED, "MALLOC_CHECK_": "3"}
    command = [sys.executable, __file__, factory]
    done = subprocess.run(command, env=os.environ | checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


if __name__ == "__main__":
    merged_and_whole(sys.argv[1])


def test_vectors_of_a_packed_index_that_was_read_are_decoded(tmp_path):
    """FAISS 1.15 crashes here, which ends the process, unless the pointer that it forgets is set."""
    x_ND, spec = vectors(), IndexSpec(DIM, "IVF1,PQ8x4fsr")
    index = packed(template.train(x_ND, spec, 0), spec, x_ND)
    faiss.write_index(index, str(tmp_path / "index"))
    for read in (codec.read_file(tmp_path / "index"), codec.load(faiss.serialize_index(index))):
        vector_D = np.empty(DIM, np.float32)
        faiss.extract_index_ivf(read).reconstruct_from_offset(0, 40, faiss.swig_ptr(vector_D))
        assert vector_D @ x_ND[40] > 0.5
