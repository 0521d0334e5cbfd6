"""The steps of an index build on few embeddings, with inverted lists, which would not be chosen for so few rows."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.tiny import Chain

from metric_core.artefacts.collection import Collection
from metric_core.errors import Unfinished
from metric_core.index.search import Index
from metric_core.index.spec import IndexSpec
from metric_core.index.store import IndexStore
from workflows.index.build import Build
from workflows.index.config import IndexConfig


def _times(folder: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(folder).iterdir()}


def test_a_build_continues_with_what_is_missing(chain: Chain, tmp_path: Path) -> None:
    source, store = Collection.open(chain.embeddings), IndexStore(str(tmp_path))
    spec = IndexSpec(source.dim, "IVF2,Flat", shards=3, nprobe=1)
    version, _ = store.begin({"spec": asdict(spec)})
    work = Build(IndexConfig(embeddings=chain.embeddings, out=store.uri), source, spec, version)
    template = work.template()
    receipts = sorted(work.shards(template), key=lambda shard: shard.number)
    assert [shard.number for shard in receipts] == [0, 1, 2]
    assert sum(shard.rows for shard in receipts) == source.rows
    with pytest.raises(Unfinished):
        store.publish(version)

    Path(version.uri, "shard-001.json").unlink()
    before = _times(version.uri)
    assert work.template() == template
    again = sorted(work.shards(template), key=lambda shard: shard.number)
    assert again == receipts
    written = {name for name, when in _times(version.uri).items() if when != before.get(name)}
    assert written == {"shard-001.faiss", "identities-001.parquet", "shard-001.json"}

    content = work.content(template, receipts[::-1])
    assert content.shards == receipts
    tuned = work.tune(content)
    assert tuned.nprobe in (1, 2)
    assert tuned.recall >= 0.99
    version.finish(replace(content, nprobe=tuned.nprobe, recall=asdict(tuned)), {})
    store.publish(version)
    index = Index.open(store.uri)
    assert (index.version, index.rows, index.nlist, index.nprobe) == (version, source.rows, 2, tuned.nprobe)
