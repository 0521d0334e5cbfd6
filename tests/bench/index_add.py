"""What the benchmark measures of adding a delta to an index, beside building an index of everything."""

# N: rows, Q: probes.

from __future__ import annotations

import os
import shutil
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
from metric_core.index.store import IndexStore
from workflows.embed.store import UnitStore

PARTS = 100
"""Of the corpus, the last of which is the delta."""
GONE_OF = 1_000
"""One row in so many is gone."""
PROBES = 10_000
BATCH = 1_000
EXACT, DEPTH = 500, 2_048
"""Of them, those for which all lists are scanned, and the candidates that are compared then."""
LEAST = 20
"""Times that a build must take as much as an addition."""


def cases(work: Work) -> Iterator[Case]:
    """One part in 100 is added to an index of the others, and one row in 1,000 is gone."""
    of, (ray_cpu, ray_wall) = work.main, work.ray
    stem = work.folder / f"added-{work.law}-{of.rows}"
    corpus = vectors.mint(str(stem), of.rows, of.dim, parts=PARTS, law=LAWS[work.law])
    base, delta = divided(corpus, Path(f"{stem}-base"), Path(f"{stem}-delta"))
    out, whole, other = (Path(f"{stem}-{name}") for name in ("index", "whole", "other-seed"))
    for folder in (out, whole, other):
        shutil.rmtree(folder, ignore_errors=True)
    likeness("index", "--embeddings", base, "--out", str(out))
    before = size(out)
    used = likeness("index", "add", "--index", str(out), "--embeddings", delta, "--no-publish")
    (new,) = (found.id for found in IndexStore(str(out)).versions() if not found.live)
    published = likeness("index", "publish", "--index", str(out), "--version", new)
    written, about = size(out) - before, child(added, index=str(out))
    built = likeness("index", "--embeddings", f"{base},{delta}", "--out", str(whole))
    likeness("index", "--embeddings", f"{base},{delta}", "--out", str(other), "--seed", "1")
    cpu, build_cpu = used.cpu - ray_cpu - about["measuring"], built.cpu - ray_cpu
    apart = f"without Ray's {ray_cpu:.1f} and {about['measuring']:.1f} of measuring recall"
    unit = f"CPU s, {apart}; peer: build / {LEAST}; {about['spec']}, {about['added']} rows"
    yield less("add/cpu", cpu, build_cpu / LEAST, unit)
    yield less("add/publish", published.cpu, None, "CPU s, to compare it with the live version and publish it")
    yield less("add/wall", used.wall, built.wall, f"s, Ray's {ray_wall:.1f} in both; peer: build")
    yield less("add/bytes", written / 1e6, size(whole) / LEAST / 1e6, f"MB written; peer: build / {LEAST}")
    fresh = {"rows": of.rows, "dim": of.dim, "law": work.law}
    found = child(agreement, one=str(out), other=str(whole), **fresh)
    seeds = child(agreement, one=str(whole), other=str(other), **fresh)
    yield more(
        "add/identity", found["one"], found["other"], "share of fresh probes whose person comes first; peer: build"
    )
    yield more(
        "add/same", found["same"], seeds["same"], "share of them with a build's answer; peer: builds of two seeds"
    )
    yield more("add/right", found["right"], seeds["right"], "share of them right or wrong alike; peer: as before")
    yield more("add/exact", found["exact"], 0.99, f"share of {EXACT} of them with a build's answer, all lists scanned")
    advice = about["advice"] or "no rebuild advised"
    yield less("add/drift", about["changed"], None, f"rows changed / rows of the build; {advice}")


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


def agreement(one: str, other: str, rows: int, dim: int, law: str) -> dict[str, float]:
    """How fresh probes, new pictures of people of the corpus, are answered by two indexes.

    Returns:
        {one, other: share whose person comes first; same: share with the same first person; right: share whose person
        comes first in both or in neither; exact: share with the same first person where all lists are scanned}
    """
    given = vectors.probes(rows, dim, min(PROBES, max(1, rows // 10)), law=LAWS[law])
    names, opened = given.identity_N.tolist(), [Index.open(uri) for uri in (one, other)]
    first = [_first(index, given.embedding_ND) for index in opened]
    right = [np.array([name == own for name, own in zip(found, names)]) for found in first]
    deep = [_scanned(index, given.embedding_ND[:EXACT]) for index in opened]
    return {
        "one": float(right[0].mean()),
        "other": float(right[1].mean()),
        "same": _alike(*first),
        "right": float((right[0] == right[1]).mean()),
        "exact": _alike(*deep),
    }


def _alike(one: list[str | None], other: list[str | None]) -> float:
    return sum(mine == theirs for mine, theirs in zip(one, other)) / len(one)


def _first(index: Index, query_QD: np.ndarray) -> list[str | None]:
    """The first person of each probe."""
    found: list[str | None] = []
    for start in range(0, len(query_QD), BATCH):
        part_QD = query_QD[start : start + BATCH]
        table = index.identify(part_QD, [str(number) for number in range(len(part_QD))], 1)
        assert pc.all(pc.equal(table["rank"], 1)).as_py()
        found += table["identity"].to_pylist()
    return found


def _scanned(index: Index, query_QD: np.ndarray) -> list[str | None]:
    """The person of the nearest vector of each probe, of all lists and many candidates."""
    near = index.search(query_QD, 1, nprobe=index.nlist, depth=DEPTH)
    found: list[str | None] = index.names.take(near.code_QK[:, 0]).to_pylist()
    return found
