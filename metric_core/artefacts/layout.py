"""How the Parquet files of an embeddings artefact are laid out and compressed, with the measurements behind that."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LAYOUT: dict[str, Any] = {
    # A unit of the usual size is one row group: a reader of a few columns makes one request per column and row group.
    "row_group_size": 8192,
    # Chosen on 2,048 vectors of 512 components of LFW faces: the file's bytes divided by those of the plain numbers,
    # and the CPU time to write and to read it:
    #                                  float32                      float16
    #   none, pyarrow's defaults       1.16   38 ms    8 ms         0.98   43 ms   24 ms
    #   snappy                         1.16   36 ms    9 ms         0.98   45 ms   24 ms
    #   zstd                           1.08   48 ms   14 ms         0.97   45 ms   24 ms
    #   none, no dictionary            1.01    9 ms    6 ms         1.02   17 ms    5 ms
    #   zstd, no dictionary            0.93   14 ms   13 ms         0.93   18 ms    7 ms
    #   zstd, byte stream split        0.85   15 ms    8 ms         0.86   19 ms    6 ms
    # Components all differ, so that a dictionary only adds bytes; their signs and exponents are similar.
    "compression": "zstd",
    "use_dictionary": ["identity", "view", "reason"],
}
BYTE_STREAMS = ["embedding.list.element", "norm"]
"""Columns that are written as byte streams when they are float32; DuckDB 2.0 cannot read float16 that way."""


def to_parquet(table: pa.Table) -> bytes:
    """The bytes of a part, or of a file beside it."""
    half = any(f.name == "embedding" and f.type.value_type == pa.float16() for f in table.schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, use_byte_stream_split=BYTE_STREAMS[1:] if half else BYTE_STREAMS, **LAYOUT)
    data: bytes = sink.getvalue().to_pybytes()
    return data
