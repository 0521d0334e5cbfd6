"""Columns of the artefacts, as other programs read them: they change on purpose, with a new format number."""

import pyarrow as pa
import pytest

from metric_core.artefacts import schema
from metric_core.errors import SchemaMismatch

EXPECTED = {
    "FACES": """
        face_id: int64 not null
        identity: string not null
        key: string not null
        kind: string not null
        uri: string not null
        offset: int64
        length: int64
        row_group: int32
        row: int32
        column: string
        content_tag: string not null
        view: string
        split: string
        landmarks: list<item: float>
          child 0, item: float""",
    "QUARANTINE": """
        face_id: int64 not null
        uri: string not null
        reason: string not null
        detail: string not null""",
    "TAGS": """
        face_id: int64 not null
        content_tag: string not null
        row_hash: int64 not null""",
    "GONE": """
        face_id: int64 not null""",
    "TOMBSTONES": """
        face_id: int64
        identity: string""",
    "MATCHES": """
        query: string not null
        rank: int32 not null
        identity: string not null
        face_id: int64 not null
        score: float not null
        accepted: bool""",
    "embeddings, float32": """
        face_id: int64 not null
        identity: string not null
        view: string
        embedding: fixed_size_list<item: float>[4] not null
          child 0, item: float
        norm: float not null""",
    "embeddings, float16": """
        face_id: int64 not null
        identity: string not null
        view: string
        embedding: fixed_size_list<item: halffloat>[4] not null
          child 0, item: halffloat
        norm: float not null""",
}

# A corpus in which faces may have no name: these columns differ, and no other.
EXPECTED["UNLABELLED_FACES"] = EXPECTED["FACES"].replace("identity: string not null", "identity: string")
EXPECTED["UNLABELLED_MATCHES"] = (
    EXPECTED["MATCHES"].replace("identity: string not null", "identity: string") + "\n        key: string"
)
EXPECTED["embeddings, unlabelled"] = EXPECTED["embeddings, float32"].replace(
    "identity: string not null", "identity: string"
)

SCHEMAS = {name: value for name, value in vars(schema).items() if isinstance(value, pa.Schema)} | {
    "embeddings, float32": schema.embeddings(4),
    "embeddings, float16": schema.embeddings(4, pa.float16()),
    "embeddings, unlabelled": schema.unlabelled(schema.embeddings(4)),
}


def test_every_schema_is_pinned() -> None:
    assert SCHEMAS.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_columns(name: str) -> None:
    indent = "\n        "
    assert indent + SCHEMAS[name].to_string().replace("\n", indent) == EXPECTED[name]


def test_tables_of_other_writers_get_the_fields_of_the_schema() -> None:
    other = {"face_id": pa.int64(), "embedding": pa.list_(pa.field("element", pa.float32()), 2), "norm": pa.float32()}
    values = {"norm": [1.0], "embedding": [[1.0, 2.0]], "view": ["left"], "identity": ["a"], "face_id": [7]}
    table = pa.table({name: pa.array(value, other.get(name, pa.string())) for name, value in values.items()})
    expected = schema.embeddings(2)
    found = schema.check(table, expected, "x.parquet")
    assert found.schema.equals(expected)
    assert found.to_pydict() == {name: values[name] for name in expected.names}
    assert schema.check(found, expected, "x.parquet") is found
    coded = table.set_column(3, "identity", table["identity"].dictionary_encode())
    assert pa.types.is_dictionary(schema.check(coded, expected, "x.parquet", ["identity"])["identity"].type)


@pytest.mark.parametrize("coded", [False, True])
def test_text_that_is_not_utf8_is_told(coded: bool) -> None:
    wrong = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    if coded:
        wrong = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), wrong, safe=False)
    table = pa.table({"face_id": pa.array([1], pa.int64()), "uri": wrong, "reason": ["a"], "detail": ["b"]})
    with pytest.raises(SchemaMismatch, match=r"x\.parquet: uri holds text that is not UTF-8; expected columns"):
        schema.check(table, schema.QUARANTINE, "x.parquet", ["uri"] if coded else [])


def test_everything_that_does_not_fit_is_named() -> None:
    table = pa.table({"face_id": pa.array([1, None], pa.int64()), "extra": [1, 2], "uri": [1, 2], "reason": ["a", "b"]})
    with pytest.raises(SchemaMismatch) as error:
        schema.check(table, schema.QUARANTINE, "x.parquet")
    for text in ("x.parquet: face_id has 1 nulls", "uri is int64, not string", "detail is missing", "extra is unknown"):
        assert text in str(error.value)
