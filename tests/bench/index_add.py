"""What the benchmark measures of adding a delta to an index, beside building an index of everything."""

# N: rows, Q: probes.

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import vectors
from index_process import child, likeness
from index_work import Work
from population import LAWS
from table import Case, less, more

from metric_core.artefacts import manifest
from metric_core.artefacts.embeddings import GONE, Embeddings
from metric_core.index.search import Index
from workflows.embed.store import UnitStore

PARTS = 100
"""Of the corpus, the last of which is the delta."""
GONE_OF = 1_000
"""One row in so many is gone."""
PROBES = 10_000
BATCH = 1_000
LEAST = 20
"""Times that a build must take as much as an addition."""


def cases(work: Work) -> Iterator[Case]:
    """One part in 100 is added to an index of the others, and one row in 1,000 is gone."""
    of, (ray_cpu, ray_wall) = work.main, work.ray
    corpus = vectors.mint(
        str(work.folder / f"added-{work.law}-{of.rows}"), of.rows, of.dim, parts=PARTS, law=LAWS[work.law]
    )
    base, delta = divided(
        corpus, work.folder / f"added-{work.law}-{of.rows}-base", work.folder / f"added-{work.law}-{of.rows}-delta"
    )
    name, out, whole = "add", work.folder / "added", work.folder / "whole"
    for folder in (out, whole):
        if folder.exists():
            raise SystemExit(f"{folder} is there from an earlier run; remove it")
    likeness("index", "--embeddings", base, "--out", str(out))
    before = size(out)
    used = likeness("index", "add", "--index", str(out), "--embeddings", delta)
    written, about = size(out) - before, child(added, index=str(out))
    built = likeness("index", "--embeddings", f"{base},{delta}", "--out", str(whole))
    cpu, build_cpu = used.cpu - ray_cpu - about["measuring"], built.cpu - ray_cpu
    unit = f"CPU s, without Ray's {ray_cpu:.1f} and {about['measuring']:.1f} of measuring recall; peer: build / {LEAST}"
    yield less(f"{name}/cpu", cpu, build_cpu / LEAST, f"{unit}; {about['spec']}, {about['added']} rows")
    yield less(f"{name}/wall", used.wall, built.wall, f"s; of both Ray's {ray_wall:.1f}")
    yield less(f"{name}/bytes", written / 1e6, size(whole) / LEAST / 1e6, f"MB written; peer: build / {LEAST}")
    found = child(agreement, added=str(out), whole=str(whole), rows=of.rows, dim=of.dim, law=work.law)
    yield more(f"{name}/same", found["same"], 0.99, "share of fresh probes whose first person is a full build's")
    yield more(
        f"{name}/identity",
        found["added"],
        found["whole"],
        "share of fresh probes whose person comes first; peer: a full build",
    )
    yield less(
        f"{name}/drift",
        about["changed"],
        None,
        f"rows changed / rows of the build; {about['advice'] or 'no rebuild advised'}",
    )


def divided(corpus: str, base: Path, delta: Path) -> tuple[str, str]:
    """The corpus without its last part, and a delta of it that has this part; files are linked."""
    content = Embeddings.open(corpus).manifest.content
    random = np.random.default_rng(0)
    for out, at in ((base, slice(None, -1)), (delta, slice(-1, None))):
        if (out / manifest.NAME).exists():
            continue
        more: dict[str, Any] = {name: content[name][at] for name in ("parts", "tags")}
        rows = sum(part["rows"] for part in more["parts"])
        for folder, name in (("", "parts"), ("tags", "tags")):
            (out / folder).mkdir(parents=True, exist_ok=True)
            for part in more[name]:
                os.link(Path(corpus) / folder / part["name"], out / folder / part["name"])
        more |= {"plan_id": manifest.digest([content["plan_id"], out.name]), "inputs": rows, "embedded": rows}
        if out == delta:
            first = Embeddings.open(str(base))
            columns = [table["face_id"].to_numpy() for table in first.iter_columns(["face_id"])]
            id_N = np.sort(np.concatenate(columns))
            gone_M = np.sort(random.choice(id_N, len(id_N) // GONE_OF, replace=False))
            more |= {"since": [{"plan_id": first.plan_id, "digest": first.manifest.digest}]}
            more |= {"gone": UnitStore(str(out)).put_gone(gone_M)}
            assert (out / GONE).exists()
        manifest.write(str(out), "embeddings", content | more, {"faces": "/nowhere"})
    return str(base), str(delta)


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def added(index: str) -> dict[str, Any]:
    """What the live version says about itself, and what measuring it took."""
    from metric_core.index.drift import Drift

    version = Index.open(index).version
    content = version.content()
    assert content.drift is not None
    found = Drift(**content.drift)
    return {
        "spec": content.spec.factory,
        "added": found.added,
        "changed": found.changed,
        "advice": found.advice(),
        "measuring": version.manifest().provenance["measured"]["cpu"],
    }


def agreement(added: str, whole: str, rows: int, dim: int, law: str) -> dict[str, float]:
    """{same: share of fresh probes whose first person is the same in both; added, whole: share whose person it is}"""
    people = min(PROBES, max(1, rows // 10))
    given = vectors.probes(rows, dim, people, law=LAWS[law])
    first = [_first(Index.open(uri), given.embedding_ND) for uri in (added, whole)]
    names = given.identity_N.tolist()
    right = [float(np.mean([name == own for name, own in zip(found, names)])) for found in first]
    same = float(np.mean([one == other for one, other in zip(*first)]))
    return {"same": same, "added": right[0], "whole": right[1]}


def _first(index: Index, query_QD: np.ndarray) -> list[str | None]:
    found: list[str | None] = []
    for start in range(0, len(query_QD), BATCH):
        part_QD = query_QD[start : start + BATCH]
        table = index.identify(part_QD, [str(number) for number in range(len(part_QD))], 1)
        assert pc.all(pc.equal(table["rank"], 1)).as_py()
        found += table["identity"].to_pylist()
    return found
