"""Reads the image bytes that the locators of Faces rows point at."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metric_core import storage
from metric_core.artefacts import roots
from metric_core.errors import ImageUnreadable, Missing, NotReadable
from metric_core.image.limits import DEFAULT
from metric_core.sources import bounds, parquet, pickled, recordio

LOCATOR = ("kind", "uri", "offset", "length", "row_group", "row", "column", "content_tag")
"""The columns of Faces that say where an image is, and which version of the file it is in."""

GAP = 128 << 10
"""Largest gap in bytes between two images that are read in one request: reading the gap takes less time than a second
request to a store."""
SPAN = 16 << 20
"""Most bytes per request, unless a single image is larger."""
FRESH_S = 10.0
"""Seconds before a shard that was found unchanged is checked again."""

UNWRAP = {recordio.PARTS: recordio.payload, pickled.TEXT: pickled.decode}
"""Kinds whose byte range holds an encoded image, and the functions that decode it."""

Row = Mapping[str, Any]
Fetched = bytes | Missing | ImageUnreadable


def fetch(root: str, row: Row) -> bytes:
    """The image bytes that a Faces row points at.

    Raises:
        Missing: the file is not there, or ends before the image does.
        ImageUnreadable: the file that holds the image is damaged, was changed since it was catalogued, or is not
            below the catalogue's roots.
    """
    (answer,) = fetch_many(root, [row])
    if isinstance(answer, bytes):
        return answer
    raise answer


def fetch_many(root: str, rows: Sequence[Row], most: int = DEFAULT.max_bytes) -> list[Fetched]:
    """The image bytes of several rows, or the error that ``fetch`` raises for a row; images of more than ``most`` bytes
    are not read.

    Neighbours in one file are read together, files of an object store concurrently, each Parquet row group once.
    """
    found_N = [roots.address(root, row["uri"]) for row in rows]
    address_N = [found or "" for found in found_N]
    out: dict[int, Fetched] = {at: _outside(root, rows[at]["uri"]) for at, found in enumerate(found_N) if found is None}
    inside = {at: row for at, row in enumerate(rows) if at not in out}
    out |= _too_large(inside, most) | _out_of_date(inside, address_N)
    rest = [at for at in range(len(rows)) if at not in out]
    cells = [at for at in rest if rows[at]["kind"] == "parquet"]
    for at in sorted(cells, key=lambda at: (address_N[at], rows[at]["row_group"])):
        out[at] = _cell(address_N[at], rows[at])
    spans = _spans(rows, address_N, [at for at in rest if at not in out and rows[at]["length"] != 0])
    answers = storage.read_many([(s.address, s.first, s.last and s.last - s.first) for s in spans], most)
    for span, answer in zip(spans, answers):
        for at in span.rows:
            out[at] = _cut(answer, span, rows[at]) if isinstance(answer, bytes) else _as_answer(answer, span.address)
    return [out.get(at, b"") for at in range(len(rows))]


def _too_large(rows: Mapping[int, Row], most: int) -> dict[int, Fetched]:
    """The errors of rows whose images were larger than ``most`` bytes when they were catalogued."""
    sizes = {at: bounds.size_of(row["kind"], row["length"], row["content_tag"]) for at, row in rows.items()}
    return {
        at: ImageUnreadable(f"too-large: {size} bytes, at most {most}") for at, size in sizes.items() if size > most
    }


_seen: dict[tuple[str, str], float] = {}
"""When a shard was last found unchanged, by its address and content tag."""


def _outside(root: str, uri: str) -> ImageUnreadable:
    further = root.further if isinstance(root, roots.Root) else None
    return ImageUnreadable(
        f"outside: {uri[:200]!r} is not below {' or '.join([root, *(further or ())][:3])}, where the catalogue's "
        f"pictures are; catalogue again to another --out"
    )


def _out_of_date(rows: Mapping[int, Row], address_N: list[str]) -> dict[int, Fetched]:
    """The errors of rows, by number, whose shard is missing, or was changed since it was catalogued: other people may
    be at their offsets now. Files with one image each are read whatever their tag."""
    state = {at: (address_N[at], row["content_tag"]) for at, row in rows.items() if row["kind"] != "file"}
    answers = {which: _changed(*which) for which in set(state.values())}
    return {at: answer for at, which in state.items() if (answer := answers[which]) is not None}


def _changed(address: str, tag: str) -> Fetched | None:
    now = time.monotonic()
    if now - _seen.get((address, tag), -FRESH_S) < FRESH_S:
        return None
    try:
        found = storage.content_tag(address)
    except (Missing, *storage.FILE_ERRORS) as error:
        return _as_answer(error, address)
    if found != tag:
        return ImageUnreadable(
            f"changed: {address} is {found} and was {tag} when it was catalogued; catalogue again to another --out"
        )
    _seen[address, tag] = now
    return None


def _as_answer(error: Missing | NotReadable | OSError, address: str) -> Missing | ImageUnreadable:
    if isinstance(error, NotReadable):
        return ImageUnreadable(f"unreadable: {error}")
    return error if isinstance(error, Missing) else ImageUnreadable(f"unreadable: {address}: {error}")


@dataclass
class _Span:
    """A byte range of a file that is read in one request."""

    address: str
    first: int
    last: int | None
    """Exclusive; None: to the end of the file."""
    rows: list[int]
    """The rows whose images are in the range."""


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
    """One row's image from the bytes of its span."""
    if row["length"] is None:
        return data
    start = row["offset"] - span.first
    if len(data) < start + row["length"]:
        return Missing(
            f"{span.address} ends before byte {row['offset'] + row['length']}, where the catalogue has a face; it was "
            f"changed since: catalogue again to another --out"
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
        return _as_answer(error, address)
