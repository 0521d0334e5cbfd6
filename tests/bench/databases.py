"""Vector databases beside our index: who comes first, for the faces of one's own artefacts as probes.

    python tests/bench/databases.py [--quick] [--json] [--folder FOLDER] [--system NAME]

Runs docs/vector-databases.md on FOLDER/runs/{model,embeddings,delta,index} and FOLDER/demo-out/pictures, which the
README's commands write; nothing is changed there. "right person" is the share of probes whose own person comes first,
"same answer" that of probes for which both name the same person, or two with the same score.

The page's Qdrant is the client's local mode, which scans. Qdrant's engine itself, the package qdrant-edge-py, has
another interface than the page's; here it answers from HNSW over float16 vectors.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import table
from table import Case, more

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT), str(ROOT / "tests")]

from support import databases  # noqa: E402  # found by the line above


def cases(folder: Path, systems: list[str]) -> Iterator[Case]:
    """All rows of the table. Raises SystemExit for a system that is not installed."""
    for system in systems:
        missing = [module for module in databases.NEEDS[system] if not importlib.util.find_spec(module)]
        if missing:
            raise SystemExit(f"{system} needs {', '.join(missing)}: install infra/constraints-databases.txt")
        with tempfile.TemporaryDirectory(prefix="likeness-") as scratch:
            os.chdir(scratch)  # where the page's snippets put their databases
            Path("runs").mkdir()
            for name in ("runs/model", "runs/embeddings", "runs/delta", "runs/index", "demo-out"):
                Path(name).symlink_to(folder / name)
            with contextlib.redirect_stdout(sys.stderr), databases.loaded(system) as names:
                found = list(compared(system, names, names["theirs"]))
                if system == "Qdrant":
                    found += compared("Qdrant's engine, HNSW, float16", names, edge(names, scratch))
            os.chdir(folder)
        yield from found


def compared(system: str, names: dict[str, Any], theirs: list[Any], tie: float = 1e-6) -> Iterator[Case]:
    """Our answers beside ``theirs``, (identity, face_id, score) of each probe; ``names``: what the page defines."""
    own, ours = names["known"].identity_N[:: names["every"]], names["ours"]
    right = [sum(row[0] == one for row, one in zip(rows, own)) / len(own) for rows in (ours, theirs)]
    same = sum(one[0] == other[0] or abs(one[2] - other[2]) < tie for one, other in zip(ours, theirs)) / len(own)
    unit = f"of {len(own)} probes in {len(names['known'])} faces"
    yield more(f"{system}: right person first", right[0], right[1], unit)
    yield more(f"{system}: same answer", 1.0, same, unit)


def edge(names: dict[str, Any], folder: str) -> list[tuple[str, int, float]]:
    """The answers of Qdrant's engine to the page's probes."""
    import qdrant_edge as qdrant

    config = qdrant.EdgeConfig(
        vectors=qdrant.EdgeVectorParams(
            size=names["later"].dim,
            distance=qdrant.Distance.Dot,
            datatype=qdrant.VectorStorageDatatype.Float16,
        ),
        hnsw_config=qdrant.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10),  # kB: small ones, too
        optimizers=qdrant.EdgeOptimizersConfig(indexing_threshold=10),
    )
    Path(folder, "edge").mkdir()
    shard = qdrant.EdgeShard.create(str(Path(folder, "edge")), config)
    for batch in names["batches"](names["later"], 256):
        points = [qdrant.Point(i, v.tolist(), {"identity": name}) for i, name, v in batch]
        shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.optimize()
    found = []
    for probe_D, own in zip(names["probe_QD"], names["own_Q"].tolist()):
        request = qdrant.SearchRequest(
            qdrant.Query.Nearest(probe_D.tolist()),
            limit=1,
            filter=qdrant.Filter(must_not=[qdrant.HasIdCondition({own})]),
            params=qdrant.SearchParams(hnsw_ef=200, indexed_only=True),
            with_payload=True,
        )
        (best,) = shard.search(request)
        found.append((best.payload["identity"], best.id, best.score))
    shard.close()
    return found


if __name__ == "__main__":
    parser = table.parser(__doc__, "PostgreSQL only")
    parser.add_argument("--folder", type=Path, default=Path(), help="where runs/ and demo-out/ are (default: here)")
    parser.add_argument("--system", choices=databases.NEEDS, help="this one only (default: all)")
    options = parser.parse_args()
    only = options.system or ("PostgreSQL" if options.quick else None)
    chosen = [only] if only else list(databases.NEEDS)
    table.show(list(cases(options.folder.resolve(), chosen)), as_json=options.json)
