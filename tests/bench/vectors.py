"""Synthetic face vectors as finished Embeddings artefacts, of any number of rows, for the benchmark of the index.

    python tests/bench/vectors.py --out FOLDER [--rows 1000000] [--dim 128] [--law lfw] [--dtype float16] [--parts 64]
    python tests/bench/vectors.py --compare [--law lfw] [--work FOLDER] [--picture FILE] [--fit]

The second form compares scores of synthetic vectors with those of the real ones that the law is fitted to (``scores``).
Vectors depend on (law, rows, dim, seed) only, not on the number of parts.
"""

# N: pictures, D: components.

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from population import LAWS, LFW, NAMESPACE, Law, Population, names

from metric_core import storage
from metric_core.artefacts import embeddings, faces, manifest, schema
from metric_core.artefacts.embeddings import Vectors
from metric_core.artefacts.rows import Part
from workflows.embed import units
from workflows.embed.done import DoneUnits
from workflows.embed.store import UnitStore
from workflows.embed.units import UnitResult


def mint(
    folder: str, rows: int, dim: int, *, seed: int = 0, parts: int = 64, dtype: str = "float16", law: Law = LFW
) -> str:
    """Write a corpus, or continue one that was interrupted; returns its address.

    People are in source order: a person's pictures are next to each other, and so mostly in one part.

    Args:
        folder: where to write.
        rows: pictures in total.
        dim: components per vector.
        seed: random seed.
        parts: number of part files.
        dtype: float16 or float32.
        law: how the vectors are distributed.

    Raises:
        Occupied: the folder holds something else.
        ValueError: ``rows`` is below 1, ``dim`` is below the effective dimension, or two face_ids are equal.
    """
    folder = storage.absolute(folder)
    population = Population.of_rows(rows, dim, seed, law)
    model = {"law": asdict(law), "dim": dim, "seed": seed}
    plan = {**model, "rows": rows, "parts": parts, "dtype": dtype}
    if manifest.begin(folder, "embeddings", plan) is not None:
        return folder
    store, size = UnitStore(folder), -(-rows // parts)
    todo = units.cut([Part("faces-000000.parquet", rows, "")], size)
    face_id_N = _face_ids(rows)
    if len(np.unique(face_id_N)) < rows:
        raise ValueError(f"two of {rows} face_ids are equal")
    for unit, (person_N, emb_ND) in zip(todo, _in_parts(population.blocks(), size), strict=True):
        id_N = face_id_N[unit.first : unit.last]
        table = _table(id_N, person_N, emb_ND.astype(dtype))
        ids = table["face_id"]
        tags = pa.Table.from_arrays([ids, pa.array(np.full(len(id_N), "minted")), ids], schema=schema.TAGS)
        store.commit(unit, UnitResult(tags, table, [], {}))
    content = {
        "plan_id": manifest.digest(plan),
        "fingerprint": manifest.digest(model),
        "namespace": NAMESPACE,
        "dim": dim,
        "dtype": dtype,
        "split": None,
        "salts": {},
        "since": [],
        "gone": None,
        "inputs": rows,
        "embedded": rows,
        "quarantined": 0,
        "erased": 0,
        "reasons": {},
        **DoneUnits(store, todo).content(),
    }
    manifest.write(folder, "embeddings", content, {"faces": "/nowhere"})
    return folder


def probes(rows: int, dim: int, count: int, *, seed: int = 0, law: Law = LFW) -> Vectors:
    """New pictures, one each, of ``count`` people of the corpus that ``mint`` writes for (rows, dim, seed, law).

    Raises:
        ValueError: the corpus has fewer people.
    """
    return Population.of_rows(rows, dim, seed, law).probes(count)


def _face_ids(rows: int) -> np.ndarray:
    """int64 (N,): hashes of the rows' numbers."""
    thousands = [f"{n:06d}/" for n in range(-(-rows // 1000))]
    id_N: np.ndarray = faces.face_ids_with(NAMESPACE, thousands, [f"{n:03d}" for n in range(1000)]).ravel()[:rows]
    return id_N


def _in_parts(blocks: Iterator[tuple[np.ndarray, np.ndarray]], size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The blocks' rows, ``size`` at a time."""
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for block in blocks:
        held.append(block)
        if sum(len(person_N) for person_N, _ in held) >= size:
            person_N, emb_ND = (np.concatenate(column) for column in zip(*held))
            whole = len(person_N) // size * size
            for first in range(0, whole, size):
                yield person_N[first : first + size], emb_ND[first : first + size]
            held = [(person_N[whole:], emb_ND[whole:])]
    if any(len(person_N) for person_N, _ in held):
        person_N, emb_ND = (np.concatenate(column) for column in zip(*held))
        yield person_N, emb_ND


def _table(id_N: np.ndarray, person_N: np.ndarray, emb_ND: np.ndarray) -> pa.Table:
    """As ``embeddings.to_table``, without a list of names."""
    embeddings.check_unit(emb_ND, "embedding")
    order = np.argsort(id_N)
    flat = pa.array(emb_ND[order].reshape(-1))
    columns = [
        pa.array(id_N[order]),
        names(person_N[order]),
        pa.nulls(len(id_N), pa.string()),
        pa.FixedSizeListArray.from_arrays(flat, emb_ND.shape[1]),
        pa.array(np.ones(len(id_N), np.float32)),
    ]
    return pa.Table.from_arrays(columns, schema=schema.embeddings(emb_ND.shape[1], flat.type))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", help="folder to write a corpus to")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--law", choices=sorted(LAWS), default="lfw")
    parser.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    parser.add_argument("--parts", type=int, default=64)
    parser.add_argument("--compare", action="store_true", help="compare with the real vectors")
    parser.add_argument("--work", help="folder that keeps the real vectors and their model; default: a temporary one")
    parser.add_argument("--picture", metavar="FILE", help="draw the histograms")
    parser.add_argument("--fit", action="store_true", help="fit the law again, and print it")
    options = parser.parse_args()
    if options.compare == bool(options.out):
        parser.error("give either --out or --compare")
    if options.compare:
        import scores

        with tempfile.TemporaryDirectory(prefix="likeness-bench-") as folder:
            scores.compare(options.law, options.work or folder, picture=options.picture, refit=options.fit)
        return
    start = time.monotonic()
    law = LAWS[options.law]
    mint(options.out, options.rows, options.dim, dtype=options.dtype, parts=options.parts, law=law)
    size = sum(path.stat().st_size for path in Path(options.out).iterdir())
    print(f"{options.rows:,} rows, {size / 1e6:,.0f} MB, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
