"""From the locators of Faces rows to the bytes of their images."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metric_core import storage
from metric_core.errors import ImageUnreadable, Missing
from metric_core.sources import parquet, pickled, recordio

LOCATOR = ("kind", "uri", "offset", "length", "row_group", "row", "column", "content_tag")
"""The columns of Faces that say where an image is, and in which state of the file."""

GAP = 128 << 10
"""Bytes between two images that are read too, to get both at once: less than a request to a store costs in time."""
SPAN = 16 << 20
"""Bytes read at once at most, unless one image is larger."""
FRESH_S = 10.0
"""Seconds for which a shard that was found unchanged is not looked at again."""

UNWRAP = {recordio.PARTS: recordio.payload, pickled.TEXT: pickled.decode}
"""Kinds whose range holds the image in a form of its own."""

Row = Mapping[str, Any]
Fetched = bytes | Missing | ImageUnreadable


def fetch(root: str, row: Row) -> bytes:
    """The image bytes that a Faces row points at.

    Raises:
        Missing: the file is not there, or ends before the image does.
        ImageUnreadable: what holds the image is damaged.
    """
    (found,) = fetch_many(root, [row])
    if isinstance(found, bytes):
        return found
    raise found


def fetch_many(root: str, rows: Sequence[Row]) -> list[Fetched]:
    """The image bytes of several rows, or the error that ``fetch`` raises for a row.

    Neighbours in one file are read together, files of an object store at the same time, a row group of Parquet once.
    """
    address_N = [storage.resolve(root, row["uri"]) for row in rows]
    out = _out_of_date(rows, address_N)
    rest = [at for at in range(len(rows)) if at not in out]
    cells = [at for at in rest if rows[at]["kind"] == "parquet"]
    for at in sorted(cells, key=lambda at: (address_N[at], rows[at]["row_group"])):
        out[at] = _cell(address_N[at], rows[at])
    spans = _spans(rows, address_N, [at for at in rest if at not in out and rows[at]["length"] != 0])
    answers = storage.read_many([(s.address, s.first, s.last and s.last - s.first) for s in spans])
    for span, answer in zip(spans, answers):
        for at in span.rows:
            out[at] = _cut(answer, span, rows[at]) if isinstance(answer, bytes) else _told(answer, span.address)
    return [out.get(at, b"") for at in range(len(rows))]


_seen: dict[tuple[str, str], float] = {}
"""When a shard was last found in a state, by its address and content tag."""


def _out_of_date(rows: Sequence[Row], address_N: list[str]) -> dict[int, Fetched]:
    """Why rows of shards that are not what was catalogued are not read: other people may be where these were. A file of
    its own holds the one face in whatever state it is."""
    state = {at: (address_N[at], row["content_tag"]) for at, row in enumerate(rows) if row["kind"] != "file"}
    answers = {which: _changed(*which) for which in set(state.values())}
    return {at: answer for at, which in state.items() if (answer := answers[which]) is not None}


def _changed(address: str, tag: str) -> Fetched | None:
    now = time.monotonic()
    if now - _seen.get((address, tag), -FRESH_S) < FRESH_S:
        return None
    try:
        found = storage.content_tag(address)
    except (Missing, *storage.FILE_ERRORS) as error:
        return _told(error, address)
    if found != tag:
        return ImageUnreadable(
            f"changed: {address} is {found} and was {tag} when it was catalogued; catalogue again to another --out"
        )
    _seen[address, tag] = now
    return None


def _told(error: Missing | OSError, address: str) -> Missing | ImageUnreadable:
    return error if isinstance(error, Missing) else ImageUnreadable(f"unreadable: {address}: {error}")


@dataclass
class _Span:
    """Bytes that are read at once."""

    address: str
    first: int
    last: int | None
    """Exclusive; None is to the end."""
    rows: list[int]
    """Whose images lie there."""


def _spans(rows: Sequence[Row], address_N: list[str], which: list[int]) -> list[_Span]:
    spans: list[_Span] = []
    for at in sorted(which, key=lambda at: (address_N[at], rows[at]["offset"] or 0)):
        address, first = address_N[at], rows[at]["offset"] or 0
        last = None if rows[at]["length"] is None else first + rows[at]["length"]
        before = spans[-1] if spans else None
        if (
            before is not None
            and before.address == address
            and before.last is not None
            and last is not None
            and first - before.last <= GAP
            and last - before.first <= SPAN
        ):
            before.last = max(before.last, last)
            before.rows.append(at)
        else:
            spans.append(_Span(address, first, last, [at]))
    return spans


def _cut(data: bytes, span: _Span, row: Row) -> Fetched:
    """One row's image out of what was read at once."""
    if row["length"] is None:
        return data
    start = row["offset"] - span.first
    if len(data) < start + row["length"]:
        return Missing(
            f"{span.address}: it ends before byte {row['offset'] + row['length']}, where the catalogue has a face; it "
            f"was changed since: catalogue again to another --out"
        )
    image = data[start : start + row["length"]]
    try:
        return UNWRAP[row["kind"]](image, span.address) if row["kind"] in UNWRAP else image
    except ImageUnreadable as error:
        return error


def _cell(address: str, row: Row) -> Fetched:
    try:
        return parquet.fetch(address, row["row_group"], row["row"], row["column"])
    except ImageUnreadable as error:
        return error
    except (Missing, *storage.FILE_ERRORS) as error:
        return _told(error, address)
