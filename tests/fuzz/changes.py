"""Changes of bytes, and of what stands in them: JSON, lines of text, Parquet, tar, PNG, zip, safetensors.

All of them draw from Hypothesis, so that a seed gives the same inputs everywhere.
"""

import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzz.case import Case, Change, Draw, Format
from hypothesis import strategies as st

WORDS = (
    b"\x00", b"\xff", b"\x7f", b"\x80", b"\n", b"\r\n", b",", b'"', b"\t", b"/", b"../", b"\xc3\x28", b"\xed\xa0\x80",
    b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f", b"\x80\x00\x00\x00", b"\x00" * 8, b"\xff" * 8,
    b"\x00" * 7 + b"\x80", b"PAR1", b"\x28\xb5\x2f\xfd", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"NaN", b"-1", b"1e999",
    b"[" * 2000, b"9" * 400, b"\xef\xbb\xbf", b"\xff\xfe", b"true", b"null",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, 1e308, "", " ", "a", "..", "../x", "/", "0",
    "\0", "\n", "a\nb", "é", "x" * 5000, [], [[]], [0], {}, {"": {}}, {"name": "x"}, "float16", "http://127.0.0.1:1/x",
    "zip://a::b", "nosuch://x", "file:///dev/zero", "/dev/zero", "\ud800", "f" * 64, [None], [1, 2, 3],
)  # fmt: skip
"""Values of JSON that stand in the place of others."""
TEXTS = tuple(value.encode("utf-8", "surrogatepass") for value in VALUES if isinstance(value, str))


def mutated(format: Format, seeds: dict[str, bytes]) -> st.SearchStrategy[Case]:
    """Cases of a format: a seed after changes that know the format, changes that do not, or both."""

    @st.composite
    def strategy(draw: Draw) -> Case:
        name = draw(st.sampled_from(sorted(seeds)))
        data, known = seeds[name], format.changes(name)
        how = draw(st.sampled_from(("bytes", "known", "known", "known", "both"))) if known else "bytes"
        if how != "bytes":
            data = draw(st.sampled_from(known))(draw, data)
        if how != "known":
            blind = (*BLIND, near(format.magics)) if format.magics else BLIND
            for _ in range(draw(st.integers(1, 4))):
                data = draw(st.sampled_from(blind))(draw, data)
        return Case(format.name, name, data, format.sealable(name) and draw(st.booleans()))

    return strategy()


def _place(draw: Draw, data: bytes) -> int:
    """Any place, one near the start or one near the end."""
    size = len(data)
    low, high = draw(st.sampled_from(((0, size), (0, min(64, size)), (max(0, size - 64), size))))
    return draw(st.integers(low, high))


def flip(draw: Draw, data: bytes) -> bytes:
    """A bit is another one."""
    if not data:
        return data
    at = min(_place(draw, data), len(data) - 1)
    return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]


def insert(draw: Draw, data: bytes) -> bytes:
    """Bytes come in between."""
    at = _place(draw, data)
    return data[:at] + draw(st.binary(min_size=1, max_size=16)) + data[at:]


def delete(draw: Draw, data: bytes) -> bytes:
    """Some are left out."""
    at = _place(draw, data)
    return data[:at] + data[at + draw(st.sampled_from((1, 2, 4, 16, 256, len(data)))) :]


def duplicate(draw: Draw, data: bytes) -> bytes:
    """Some stand there several times."""
    at = _place(draw, data)
    piece = data[at : at + draw(st.sampled_from((1, 4, 32, 512)))]
    return data[:at] + piece * draw(st.sampled_from((2, 3, 100))) + data[at + len(piece) :]


def splice(draw: Draw, data: bytes) -> bytes:
    """The beginning, and the end from another place."""
    return data[: _place(draw, data)] + data[_place(draw, data) :]


def word(draw: Draw, data: bytes) -> bytes:
    """A number or a text that is special to some reader stands over others, or comes in between."""
    at, new = _place(draw, data), draw(st.sampled_from(WORDS))
    return data[:at] + new + data[at + (len(new) if draw(st.booleans()) else 0) :]


BLIND: tuple[Change, ...] = (flip, flip, insert, delete, duplicate, splice, word)


def near(magics: tuple[bytes, ...]) -> Change:
    """A byte is another one shortly after what begins a structure."""

    def change(draw: Draw, data: bytes) -> bytes:
        magic = draw(st.sampled_from(magics))
        places, at = [], data.find(magic)
        while at >= 0 and len(places) < 64:
            places.append(at + len(magic))
            at = data.find(magic, at + 1)
        if not places:
            return flip(draw, data)
        at = draw(st.sampled_from(places)) + draw(st.integers(0, 24))
        new = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF))) if draw(st.booleans()) else draw(st.integers(0, 255))
        return data[:at] + bytes([new]) + data[at + 1 :]

    return change


def from_value(change: Callable[[Draw, Any], Any]) -> Change:
    """A change of the value that JSON stands for."""

    def changed(draw: Draw, data: bytes) -> bytes:
        return json.dumps(change(draw, json.loads(data))).encode()

    return changed


def value(draw: Draw, body: Any) -> Any:
    """One of the values in a value is another one, has another name, or is left out."""
    places = list(_places(body))
    if not places:
        return draw(st.sampled_from(VALUES))
    inside, name = draw(st.sampled_from(places))
    how = draw(st.sampled_from(("other", "other", "other", "gone", "twice")))
    if how == "gone":
        del inside[name]
    elif how == "other":
        inside[name] = draw(st.sampled_from(VALUES))
    elif isinstance(inside, list):
        inside.insert(name, inside[name])
    else:
        inside[draw(st.sampled_from(("x", "", *inside)))] = inside[name]
    return body


def _places(body: Any) -> Any:
    if isinstance(body, dict | list):
        for name in list(body) if isinstance(body, dict) else range(len(body)):
            yield body, name
            yield from _places(body[name])


fields = from_value(value)


def lines(draw: Draw, data: bytes) -> bytes:
    """A line is gone, elsewhere, twice, or one of its cells is another one."""
    rows = data.split(b"\n")
    at, other = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, len(rows) - 1))
    how = draw(st.sampled_from(("gone", "twice", "swapped", "cell", "cell", "cell")))
    if how == "gone":
        del rows[at]
    elif how == "twice":
        rows.insert(other, rows[at])
    elif how == "swapped":
        rows[at], rows[other] = rows[other], rows[at]
    else:
        mark = next((mark for mark in (b",", b"\t", b" ") if mark in rows[at]), b",")
        cells = rows[at].split(mark)
        cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from((*WORDS, *TEXTS)))
        rows[at] = mark.join(cells)
    return b"\n".join(rows)


TYPES = (
    pa.null(), pa.bool_(), pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(),
    pa.large_string(), pa.string_view(), pa.binary(), pa.binary(4), pa.date32(), pa.timestamp("ns", "UTC"),
    pa.decimal128(38, 2), pa.list_(pa.string()), pa.list_(pa.float32()), pa.list_(pa.float32(), 3), pa.list_(pa.null()),
    pa.struct([("bytes", pa.binary()), ("path", pa.string())]), pa.struct([("bytes", pa.string())]), pa.duration("s"),
    pa.struct([("path", pa.string())]), pa.dictionary(pa.int32(), pa.string()), pa.map_(pa.string(), pa.int64()),
    pa.dictionary(pa.int8(), pa.int64()),
)  # fmt: skip
CELLS: dict[str, tuple[Any, ...]] = {
    "text": ("", " ", "..", "/", "\0", "a\nb", "x" * 5000, "../x.jpg", "nosuch://x", "/dev/zero", "0", "é", "é" * 2000),
    "number": (0, 1, -1, 127, 5, 2, float("nan"), float("inf"), 1e300, 2**62, -(2**63)),
}


def parquet(draw: Draw, data: bytes) -> bytes:
    """A column of a Parquet file is gone, has another name or type, or its cells are others; or the file is cut into
    pages and groups in another way."""
    table = pq.read_table(pa.BufferReader(data))
    at = draw(st.integers(0, table.num_columns - 1))
    name, column = table.column_names[at], table.column(at).combine_chunks()
    how = draw(st.sampled_from(("type", "type", "cell", "cell", "cell", "gone", "name", "rows", "about", "layout")))
    if how == "gone":
        table = table.remove_column(at)
    elif how == "name":
        names = (*table.column_names, "", "x", "label", "identity", "image", "path", "key", "landmarks", "bytes")
        table = table.rename_columns([draw(st.sampled_from(names)) if n == name else n for n in table.column_names])
    elif how == "type":
        table = table.set_column(at, name, _as(column, draw(st.sampled_from(TYPES))))
    elif how == "cell":
        table = table.set_column(at, pa.field(name, column.type), _with_cell(draw, column))
    elif how == "rows":
        order = draw(st.lists(st.integers(0, table.num_rows - 1), max_size=2 * table.num_rows))
        table = pa.concat_tables([table.schema.empty_table(), *(table.slice(row, 1) for row in order)])
    elif how == "about":
        about = {k: _reworded(draw, v) for k, v in (table.schema.metadata or {b"huggingface": b"{}"}).items()}
        table = table.replace_schema_metadata(about)
    return _written(draw, table, data)


def _written(draw: Draw, table: pa.Table, data: bytes) -> bytes:
    sink = io.BytesIO()
    options = {
        "compression": draw(st.sampled_from(("zstd", "none", "snappy", "gzip", "lz4", "brotli"))),
        "use_dictionary": draw(st.booleans()),
        "row_group_size": draw(st.sampled_from((1, 2, 1000))),
        "write_statistics": draw(st.booleans()),
        "data_page_version": draw(st.sampled_from(("1.0", "2.0"))),
        "store_schema": draw(st.booleans()),
    }
    try:
        pq.write_table(table, sink, **options)
    except (pa.ArrowException, ValueError):  # no such type in Parquet
        return data
    return sink.getvalue()


def _reworded(draw: Draw, about: bytes) -> bytes:
    try:
        return fields(draw, about)
    except ValueError:
        return word(draw, about)


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return column.cast(kind)
    except (pa.ArrowException, ValueError):
        return pa.nulls(len(column), kind)


def _with_cell(draw: Draw, column: pa.Array) -> pa.Array:
    cells = column.to_pylist()
    if not cells:
        return column
    value: Any = None
    if draw(st.integers(0, 3)):
        value = draw(st.sampled_from((*CELLS["text"], *CELLS["number"])))
        if isinstance(cells[0], list | dict) and draw(st.booleans()):
            value = [value] * draw(st.sampled_from((0, 1, 3, 10, len(cells[0]))))
            value = dict(zip(cells[0], value)) if isinstance(cells[0], dict) else value
        if isinstance(cells[0], bytes):
            value = str(value).encode()
    rows = range(len(cells)) if draw(st.booleans()) else [draw(st.integers(0, len(cells) - 1))]
    for row in rows:
        cells[row] = value
    try:
        return pa.array(cells, column.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.nulls(len(cells), column.type)


def footer(draw: Draw, data: bytes) -> bytes:
    """A byte of a Parquet file's footer is another one, which leaves its length and its place right."""
    length = int.from_bytes(data[-8:-4], "little")
    at = draw(st.integers(max(0, len(data) - 8 - length), len(data) - 9))
    return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]


PARQUET: list[Change] = [parquet, parquet, footer, near((b"PAR1", b"\x28\xb5\x2f\xfd"))]
"""Two of these change pages: the headers that follow the magic, and what a page says of its own length."""


def tar(draw: Draw, data: bytes) -> bytes:
    """A field of a tar's header is another one, and its checksum right; or members are in another order."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    heads = [at for at, block in enumerate(blocks) if block[257:262] == b"ustar"]
    at = draw(st.sampled_from(heads))
    how = draw(st.sampled_from(("name", "size", "type", "link", "any", "any", "twice", "prefix")))
    if how == "twice":
        blocks[at:at] = blocks[draw(st.sampled_from(heads)) : at + 2]
        return b"".join(blocks)
    first, length = {
        "name": (0, 100),
        "size": (124, 12),
        "type": (156, 1),
        "link": (157, 100),
        "prefix": (345, 155),
    }.get(how, (draw(st.integers(0, 147)), draw(st.integers(1, 12))))
    types = st.sampled_from([bytes([kind]) for kind in b"0123456789gxLKSVNDMA\0\xff"])
    sizes = st.sampled_from(
        (b"0", b"7" * 11, b"-1", b"\x80" + b"\xff" * 11, b"\xff" * 12, b" ", b"8", b"1000", b"00000000400")
    )
    names = st.sampled_from(
        (*TEXTS, b"a" * 100, b"a/b.jpg", b"/a.jpg", b"./.jpg", b"a.cls", b"a/", b"x.json", b"\xff.jpg")
    )
    new = draw({"type": types, "size": sizes, "any": st.binary(min_size=length, max_size=length)}.get(how, names))
    head = bytearray(blocks[at])
    head[first : first + length] = new[:length].ljust(length, b"\0")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    blocks[at] = bytes(head[:512])
    return b"".join(blocks)


def members(draw: Draw, data: bytes) -> bytes:
    """What a member of a tar holds is another thing; or its name is in a pax header of its own."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        inside = old.getmembers()
        at = draw(st.integers(0, len(inside) - 1))
        for number, member in enumerate(inside):
            body = old.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            if number == at:
                body = draw(st.sampled_from((flip, word, delete, insert)))(draw, body)
                member.size = len(body)
                if draw(st.booleans()):
                    member.pax_headers = {
                        draw(st.sampled_from(("path", "size", "GNU.sparse.map", "hdrcharset", "x"))): draw(
                            st.sampled_from(("", "0", "-1", "9" * 30, "a" * 300, "BINARY", "1,2,3", "é/é.jpg"))
                        )
                    }
            new.addfile(member, io.BytesIO(body) if member.isreg() else None)
    return out.getvalue()


def chunk(draw: Draw, data: bytes) -> bytes:
    """A chunk of a PNG is another one, and its checksum right."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    at = draw(st.integers(0, len(chunks) - 1))
    kind, body = chunks[at]
    how = draw(st.sampled_from(("body", "body", "kind", "gone", "twice")))
    if how == "gone":
        del chunks[at]
    elif how == "twice":
        chunks.insert(draw(st.integers(0, len(chunks))), chunks[at])
    elif how == "kind":
        chunks[at] = (
            draw(st.sampled_from((b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"fdAT", b"acTL", b"eXIf"))),
            body,
        )
    else:
        chunks[at] = kind, draw(st.sampled_from((flip, word, delete, insert)))(draw, body)
    out = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return data[:8] + b"".join(out)


def zipped(draw: Draw, data: bytes) -> bytes:
    """What a member of a zip holds is another thing, and its checksum right; or it is gone."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        at = draw(st.integers(0, len(names) - 1))
        gone = draw(st.integers(0, 5)) == 0
        for number, name in enumerate(names):
            body = old.read(name)
            if number == at:
                body = draw(st.sampled_from((flip, word, delete, insert)))(draw, body)
            if number != at or not gone:
                new.writestr(name, body)
    return out.getvalue()


def tensors(draw: Draw, data: bytes) -> bytes:
    """The header of a safetensors file says something else, and its length is right."""
    length = int.from_bytes(data[:8], "little")
    head = json.dumps(value(draw, json.loads(data[8 : 8 + length]))).encode()
    return len(head).to_bytes(8, "little") + head + data[8 + length :]


def archive(draw: Draw, data: bytes) -> bytes:
    """The array in an .npy is of another shape or type."""
    array = np.load(io.BytesIO(data), allow_pickle=False)
    array = draw(
        st.sampled_from((array[:-1], array.astype(np.int64), array.astype(np.float32), array[None], array[::-1]))
    )
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()
