"""Writes a catalogue of any number of rows, of pictures that do not exist, to measure what its size costs.

    python tests/bench/mint.py FOLDER [--rows 100000000]

Rows, ids, parts and manifest are as `likeness catalogue` makes them; ten faces per person, one person in ten in valid.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metric_core.artefacts import faces, manifest, schema
from metric_core.sources import catalogue

CHUNK = 1 << 18
FACES_PER_PERSON = 10


def mint(folder: str, rows: int) -> None:
    """Write the catalogue."""
    content = catalogue.write(folder, _tables(rows), "minted")
    manifest.write(folder, "faces", {"root": "/nowhere", "namespace": "minted", **content}, {})


def _tables(rows: int) -> Iterator[pa.Table]:
    for first in range(0, rows, CHUNK):
        row_N = np.arange(first, min(first + CHUNK, rows))
        person_N = row_N // FACES_PER_PERSON
        identity = pc.binary_join_element_wise("m.", _padded(person_N, 8), "")
        key = pc.binary_join_element_wise(_padded(person_N // 1000, 5), identity, _padded(row_N, 9), "/")
        values = {
            "identity": identity,
            "key": key,
            "kind": pa.repeat(pa.scalar("file"), len(row_N)),
            "uri": pc.binary_join_element_wise(key, ".jpg", ""),
            # A size and a time, as for real files.
            "content_tag": pc.binary_join_element_wise(
                _padded(4000 + row_N * 7919 % 3001, 4), _padded(17 * 10**17 + row_N * 1013904223 % 10**15, 18), "-"
            ),
            "split": pc.if_else(pa.array(person_N % 10 == 0), "valid", "train"),
            "face_id": pa.array([faces.face_id("minted", text) for text in key.to_pylist()], pa.int64()),
        }
        columns = [values.get(f.name, pa.nulls(len(row_N), f.type)) for f in schema.FACES]
        yield pa.Table.from_arrays(columns, schema=schema.FACES)


def _padded(number_N: np.ndarray, width: int) -> pa.Array:
    return pc.utf8_lpad(pa.array(number_N).cast(pa.string()), width, "0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--rows", type=int, default=100_000_000)
    options = parser.parse_args()
    start = time.monotonic()
    mint(options.folder, options.rows)
    size = sum(path.stat().st_size for path in Path(options.folder).iterdir())
    print(f"{options.rows:,} rows, {size / 1e6:,.0f} MB, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
