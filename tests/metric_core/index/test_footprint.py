"""What a search takes is measured in a process of its own."""

import sys
from dataclasses import replace

import pytest

from metric_core.errors import IndexBuildError
from metric_core.index import footprint


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_search_is_measured(people, write_index, tmp_path):
    version = write_index(tmp_path, people(130), "IVF4,PQ8x4fsr,Refine(SQfp16)", nprobe=2, depth=20)
    measured = footprint.measure(version, version.content())
    assert 0 < measured.memory < 1 << 30
    assert 0 < measured.cpu_per_probe < 0.1
    assert 0 < measured.opening < 10


def test_a_search_that_fails_is_told(people, write_index, tmp_path):
    version = write_index(tmp_path, people())
    content = version.content()
    gone = replace(content, shards=[replace(content.shards[0], digest="0" * 32), *content.shards[1:]])
    with pytest.raises(IndexBuildError, match=r"failed with code 1: .*0{32}\.faiss"):
        footprint.measure(version, gone)
