"""Versions of an index, built and stored as the index job does it."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metric_core.index import layout, shard, template, truth, tuning
from metric_core.index import version as versions
from metric_core.index.corpus import Rows
from metric_core.index.layout import Content, Shard
from metric_core.index.search import Index
from metric_core.index.spec import IndexSpec
from metric_core.index.store import IndexStore
from metric_core.index.truth import Probes, Truth
from metric_core.index.version import Version

FAMILIES = [
    "Flat",
    "SQfp16",
    "SQ8",
    "IVF4,Flat",
    "IVF4,SQfp16",
    "IVF4,SQ8",
    "IVF4,SQ8,Refine(SQfp16)",
    "IVF4,PQ8x4fsr",
    "IVF4,PQ8x4fsr,Refine(SQ8)",
    "IVF4,PQ4x8",
    "IVF4,PQ4x8,Refine(SQfp16)",
    "IVF4,RaBitQfs,Refine(SQfp16)",
    "IVF4,RaBitQfs4,Refine(SQfp16)",
]
"""Specs that differ in what a shard's files hold."""


def write(
    uri: Path | str,
    v: Rows,
    factory: str = "Flat",
    *,
    shards: int = 3,
    nprobe: int | None = None,
    depth: int | None = None,
    seed: int = 1,
    until: int | None = None,
    masked: Sequence[int] = (),
    trained: bytes | None = None,
) -> Version:
    """Builds a version the way the index job does, without Ray.

    ``until``: only that many shards, and no manifest. ``masked``: faces that must not be found.
    """
    spec = IndexSpec(v.embedding_ND.shape[1], factory)
    plan = {"spec": factory, "seed": seed, "rows": len(v), "shards": shards, "masked": list(masked)}
    version, done = IndexStore(str(uri)).begin(plan)
    if done is not None:
        return version
    trained = trained or template.train(v.embedding_ND, spec, seed)
    some = v.take(np.arange(0, len(v), max(1, len(v) // 20)))
    probes = Probes(some.face_id_N, some.identity.to_pylist(), some.embedding_ND)
    decided = {layout.TEMPLATE: trained, layout.PROBES: versions.ipc(probes.to_table())}
    choice = {layout.DECIDED[name]: version.share(name, data).sha256 for name, data in decided.items()}
    version.put(layout.CHOICE, versions.choice_file(choice))
    for number, at_N in enumerate(np.array_split(np.arange(len(v)), shards)[:until]):
        if version.receipt(number) is not None:
            continue
        near = probes.nearest()
        with tempfile.TemporaryDirectory() as folder:
            built = shard.build(trained, spec, [v.take(at_N)], len(at_N), Path(folder), near)
            neighbours = versions.ipc(truth.best_table(near.best()))
            version.put_shard(number, built, versions.digest(trained), neighbours)
    if until is None:
        content = _content(version, spec, shards, trained, probes, len(v), masked, choice)
        content = replace(content, nprobe=nprobe or (1 if spec.nlist else None), depth=depth)
        if len(probes) and not len(masked):
            known = Truth.parse(version.read_checked(content, layout.TRUTH))
            point = tuning.measure(Index.load(version, content), known, content.nprobe, depth)
            content = replace(content, recall=asdict(point) | {"counted": int(known.counted_Q.sum())})
        version.finish(content, {"finished": f"2025-01-0{seed}T00:00:00+00:00", "faces": "FACES"})
    return version


def _content(
    version: Version,
    spec: IndexSpec,
    shards: int,
    trained: bytes,
    probes: Probes,
    rows: int,
    masked: Sequence[int],
    choice: dict[str, str],
) -> Content:
    """Of the manifest, and the files that are made of all shards."""
    receipts: list[Shard] = []
    names, near = [], []
    for number in range(shards):
        found = version.receipt(number)
        assert found is not None
        receipts.append(found[0])
        near.append(truth.parse_best(found[1]))
        with version.local_files(found[0]) as paths:
            names.append(shard.read_rows(paths["rows"])["identity"].dictionary)
    own = dict(zip((layout.NAMES, layout.CODES), versions.named(names)))
    own[layout.TRUTH] = versions.ipc(Truth(probes, truth.merged(near)).to_table())
    own |= {layout.TEMPLATE: trained, layout.PROBES: versions.ipc(probes.to_table())}
    files = {name: version.share(name, data) for name, data in sorted(own.items())}
    masks = []
    if len(masked):
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"face_id": pa.array(masked, pa.int64())}), sink)
        data = sink.getvalue().to_pybytes()
        sha256 = version.share(layout.MASK, data).sha256
        masks = [{"name": layout.MASK, "rows": len(masked), "sha256": sha256, "why": "erased", "shards": shards}]
    return Content(
        fingerprint="f" * 64,
        namespace="test",
        spec=spec,
        template=versions.digest(trained),
        shards=receipts,
        rows=rows - len(masked),
        people=len(pa.ipc.open_file(own[layout.NAMES]).read_all()),
        nprobe=None,
        depth=None,
        recall={"identity": 1.0},
        inputs={"embeddings": "e" * 64},
        choice=choice,
        files=files,
        masks=masks,
    )
