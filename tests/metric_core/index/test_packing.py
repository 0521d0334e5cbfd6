"""Blocks that are packed many at a time are those of FAISS's own packers, which take one row at a time."""

# B: blocks, P: rows of a block, C: bytes of a code.

from typing import Any

import numpy as np
import pytest
from support.index_versions import FAMILIES

from metric_core.index import codec, template
from metric_core.index.corpus import Rows
from metric_core.index.engine import faiss
from metric_core.index.packing import Packing
from metric_core.index.spec import IndexSpec

packed = pytest.mark.parametrize("factory", [one for one in FAMILIES if IndexSpec(16, one).fast_scan])


def _lists(factory: str, sample: Rows) -> Any:
    spec = IndexSpec(16, factory)
    index = template.for_search(codec.load(template.train(sample.embedding_ND, spec, 0)), spec)
    return index, faiss.downcast_InvertedLists(faiss.extract_index_ivf(index).invlists)


@packed
def test_blocks_are_those_of_faiss(factory, people):
    index, lists = _lists(factory, people(2000))
    how = Packing.of(lists)
    code_BPC = np.random.default_rng(0).integers(0, 256, (3, how.rows, how.code_bytes), dtype=np.uint8)
    expected = np.zeros((3, how.block_bytes), np.uint8)
    for code_PC, block in zip(code_BPC, expected):
        lists.packer.pack_all(faiss.swig_ptr(code_PC), faiss.swig_ptr(block))
    assert (how.pack(code_BPC) == expected).all()
    assert (how.unpack(expected) == code_BPC).all()
    assert (how.block_bytes, how.code_bytes) == (lists.block_size, IndexSpec(16, factory).code_bytes)
    assert index.ntotal == 0


@packed
def test_no_blocks_are_no_rows(factory, people):
    _, lists = _lists(factory, people(2000))
    how = Packing.of(lists)
    assert how.unpack(np.empty((0, how.block_bytes), np.uint8)).shape == (0, how.rows, how.code_bytes)
    assert how.pack(np.empty((0, how.rows, how.code_bytes), np.uint8)).shape == (0, how.block_bytes)
