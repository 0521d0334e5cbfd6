"""Arrow schemas of the artefacts, and the check that every reader and writer calls.

Columns are plain Arrow types, so that pyarrow, pandas, polars and DuckDB read them without this package.
"""

from collections.abc import Sequence

import pyarrow as pa

from metric_core.errors import SchemaMismatch

FACES = pa.schema(
    [
        pa.field("face_id", pa.int64(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field(
            "kind", pa.string(), nullable=False
        ),  # file, tar, recordio, recordio-parts, parquet, pickle, pickle-text
        pa.field("uri", pa.string(), nullable=False),  # relative to the root named in the manifest
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("row_group", pa.int32()),
        pa.field("row", pa.int32()),
        pa.field("column", pa.string()),
        pa.field("content_tag", pa.string(), nullable=False),
        pa.field("view", pa.string()),
        pa.field("split", pa.string()),
        # 10 numbers; not a list of fixed size, which pyarrow 25 cannot read when all are null
        pa.field("landmarks", pa.list_(pa.float32())),
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("face_id", pa.int64(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)

# The inputs of an embed job, one file per part, so that inputs = embedded + quarantined can be checked.
TAGS = pa.schema(
    [
        pa.field("face_id", pa.int64(), nullable=False),
        pa.field("content_tag", pa.string(), nullable=False),  # of the bytes that were embedded
        pa.field("row_hash", pa.int64(), nullable=False),  # of all that an embedding depends on; see delta.row_hashes
    ]
)

GONE = pa.schema([pa.field("face_id", pa.int64(), nullable=False)])

TOMBSTONES = pa.schema(
    [
        pa.field("face_id", pa.int64()),
        pa.field("identity", pa.string()),  # a keyed hash, in hex
    ]
)

MATCHES = pa.schema(
    [
        pa.field("query", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("face_id", pa.int64(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),  # cosine similarity
        pa.field("accepted", pa.bool_()),  # null until the index is calibrated
    ]
)


def unlabelled(labelled: pa.Schema) -> pa.Schema:
    """The same columns for a corpus in which faces may have no name: ``identity`` is null there. Only artefacts of such
    a corpus are written with it; every other one keeps its bytes."""
    place = labelled.get_field_index("identity")
    return labelled.set(place, labelled.field(place).with_nullable(True))


UNLABELLED_FACES = unlabelled(FACES)

# ``key`` says which picture was found where nobody is named; null where the Faces are not at hand.
UNLABELLED_MATCHES = unlabelled(MATCHES).append(pa.field("key", pa.string()))


def embeddings(dim: int, dtype: pa.DataType | None = None) -> pa.Schema:
    """The schema of an Embeddings part with ``dim`` components of ``dtype`` (default float32) per face."""
    return pa.schema(
        [
            pa.field("face_id", pa.int64(), nullable=False),
            pa.field("identity", pa.string(), nullable=False),
            pa.field("view", pa.string()),
            pa.field("embedding", pa.list_(dtype or pa.float32(), dim), nullable=False),
            pa.field("norm", pa.float32(), nullable=False),  # length before normalisation, a quality signal
        ]
    )


def check(table: pa.Table, schema: pa.Schema, where: str, coded: Sequence[str] = ()) -> pa.Table:
    """The table with the fields of the schema, if its columns and types are those and nulls are only where they may be.

    Other writers put columns in another order, call what can hold nulls what here cannot, or name a list's items
    differently; rows of tables that differ in this could not be put together.

    ``coded``: columns that were read as dictionaries of what is in the file; the type of their values is compared.

    Raises:
        SchemaMismatch: names every column that is missing, unknown, of another type, null where it must not be or no
            text.
    """
    problems = []
    for f in schema:
        if (times := table.column_names.count(f.name)) != 1:
            problems.append(f"{f.name} is there {times} times" if times else f"{f.name} is missing")
            continue
        found = table.schema.field(f.name).type
        if f.name in coded and pa.types.is_dictionary(found):
            found = found.value_type
        if found != f.type:
            problems.append(f"{f.name} is {found}, not {f.type}")
        elif not f.nullable and table[f.name].null_count:
            problems.append(f"{f.name} has {table[f.name].null_count} nulls")
        elif pa.types.is_string(f.type) and not _is_utf8(table[f.name]):
            problems.append(f"{f.name} holds text that is not UTF-8")
    problems += [f"{name} is unknown" for name in table.column_names if name not in schema.names]
    if problems:
        raise SchemaMismatch(f"{where}: {'; '.join(problems)}; expected columns {', '.join(schema.names)}")
    fields = [f.with_type(table.schema.field(f.name).type) if f.name in coded else f for f in schema]
    wanted = pa.schema(fields)
    return table if table.schema.equals(wanted) else table.select(schema.names).cast(wanted)


def _is_utf8(column: pa.ChunkedArray) -> bool:
    """Parquet's readers take a writer's word for it, and Python fails at each such text."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
