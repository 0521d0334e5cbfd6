"""MXNet RecordIO files (``train.rec``), with or without InsightFace's header record; MXNet itself is not needed.

    file      records, one after the other
    record    parts; more than one only where the data has the magic number at a multiple of 4, which is left out
    part      magic, place and length in one word, data, zeros up to a multiple of 4
    data      IRHeader (flag, label, id, id2), then ``flag`` labels that replace ``label`` if flag > 0, then the image

The framing is dmlc-core's ``src/recordio.cc``, the data MXNet's ``recordio.IRHeader``. InsightFace adds records
without an image (``recognition/_datasets_/face2rec2.py``). Record 0 has the labels (first, end): records first to end-1
are people. The labels (from, to) of such a record are the range of the person's images, ``to`` excluded.
"""

import io
import math
import struct
from array import array
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from metric_core import storage
from metric_core.errors import DataError, ImageUnreadable
from metric_core.image.limits import DEFAULT
from metric_core.sources import bounds
from metric_core.sources.found import UNLISTED, Found, Notes

WHOLE, PARTS = "recordio", "recordio-parts"
"""Kinds of locator: the bytes of the image if its record has one part, else those of the whole record."""

MAGIC = b"\x0a\x23\xd7\xce"
PART = struct.Struct("<4sI")
HEADER = struct.Struct("<IfQQ")
LABELS = 4096
"""Most labels of a record: the person, and whatever else its writer knew."""
ONLY, FIRST, MIDDLE, LAST = range(4)
"""Places of a part in its record, the upper 3 bits of the second word."""


class _Images:
    """A file's images as columns, in the order of their bytes: there may be many millions."""

    def __init__(self) -> None:
        self.number, self.offset, self.length = array("q"), array("q"), array("q")
        self.label, self.in_parts = array("d"), array("b")
        self.without: dict[int, tuple[float, ...]] = {}
        """Labels of the records that have no image, by number."""


def faces(root: str, file: str, prefix: str, notes: Notes) -> Iterator[Found]:
    """The faces of one .rec in the order of their bytes; the key is ``prefix`` and the record's number.

    Numbers come from the .idx of the same name if there is one, else from the records. The identity is the image's
    label.

    Raises:
        DataError: the file is not RecordIO or is cut short (the message names the byte), or a record's number or label
            does not fit.
        Missing: there is no such file.
    """
    address = storage.join(root, file)
    tag = storage.content_tag(address)
    images = _scan(address, notes)
    number_N, label_N = np.array(images.number), np.array(images.label)
    _check_numbers(number_N, address)
    _check_people(images.without, address)
    _check_ranges(images.without, number_N, label_N, address)
    for number, label, offset, length, in_parts in zip(
        images.number, images.label, images.offset, images.length, images.in_parts
    ):
        if label != label // 1:  # NaN too
            raise DataError(f"{address}: record {number} has the label {label}; expected a whole number")
        kind = PARTS if in_parts else WHOLE
        yield Found(str(int(label)), f"{prefix}{number}", file, tag, kind=kind, offset=offset, length=length)


def payload(record: bytes, where: str) -> bytes:
    """The image's bytes in a record of several parts. Raises ImageUnreadable when it is damaged."""
    f = io.BytesIO(record)
    try:
        data = _join(f, _parts(f, 0, len(record), where)[0])
        _, _, length = _header(data, len(data), where)
    except DataError as error:
        raise ImageUnreadable(f"corrupt: {error}") from error
    return data[len(data) - length :]


def _scan(address: str, notes: Notes) -> _Images:
    images, size = _Images(), storage.size(address)
    listed = _index(address)
    with storage.open_read(address) as f:
        start = 0
        while listed is None and start < size:
            start = _enter(images, f, start, None, size, address)
        read = size if listed is None else 0
        for number, start in listed or ():
            read += _enter(images, f, int(start), int(number), size, address) - int(start)
    if read < size:
        notes.ignored[UNLISTED] += size - read
    return images


def _index(address: str) -> Iterator[tuple[int, int]] | None:
    """(number, offset) of the records in order of offset, from the .idx beside the file; None if there is none.

    Raises:
        DataError: a line is not a number and an offset, or several have the same; the message names the lines.
    """
    names = ["number", "offset"]
    types = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.int64()))
    how, split = pyarrow.csv.ReadOptions(column_names=names), pyarrow.csv.ParseOptions(delimiter="\t")
    beside = (address[: -len(".rec")] + ending for ending in (".idx", ".IDX"))
    index = next((one for one in beside if storage.exists(one)), None)
    if index is None:
        return None
    storage.require_file(index)
    try:
        with storage.open_read(index) as f:
            table = pyarrow.csv.read_csv(f, how, split, types)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        what = " ".join(str(error).split())[:200]
        raise DataError(f"{index}: {what}; expected lines number<TAB>offset; correct or remove the file") from error
    _check_index(table, index)
    table = table.sort_by("offset")
    return zip(*(table[name].to_numpy() for name in names))


def _check_index(table: pa.Table, index: str) -> None:
    for name in table.column_names:
        column = table[name].combine_chunks()
        wrong_N = pc.fill_null(pc.less(column, 0), True)
        if wrong_N.true_count:
            line = wrong_N.index(True).as_py()
            value = "no" if column[line].as_py() is None else f"the negative {column[line].as_py()} as"
            raise DataError(
                f"{index}: line {line + 1} has {value} {name}; it was cut short or damaged: remove the file"
            )
    for name, other in (("offset", "number"), ("number", "offset")):
        column = table[name].to_numpy()
        order_N = np.argsort(column, kind="stable")
        same = np.flatnonzero(column[order_N][1:] == column[order_N][:-1])
        if len(same):
            lines = np.sort(order_N[same[0] : same[0] + 2])
            one, two = (table[other][int(line)].as_py() for line in lines)
            raise DataError(
                f"{index}: lines {lines[0] + 1} and {lines[1] + 1} give the same {name} {column[lines[0]]} to the "
                f"{other}s {one} and {two}; expected one line per record: write the index again or remove the file"
            )


def _enter(images: _Images, f: BinaryIO, start: int, number: int | None, size: int, address: str) -> int:
    """Add the record at ``start``, with its own number unless one is given; returns where the next record starts."""
    where = f"{address}, byte {start}"
    parts, end = _parts(f, start, size, where)
    if len(parts) == 1:
        offset, length = parts[0]
        f.seek(offset)
        data = f.read(min(length, HEADER.size))
        if data[:4] != bytes(4):  # labels follow
            flag = min(LABELS, int.from_bytes(data[:4], "little"))
            data += f.read(min(length - len(data), 4 * flag))
    else:
        whole = sum(size for _, size in parts)
        bounds.require_few(whole, DEFAULT.max_bytes, f"{where}: a record in {len(parts)} parts")
        data = _join(f, parts)
        length = len(data)
    own, labels, image_length = _header(data, length, where)
    number = own if number is None else number
    if number >= 1 << 63:
        raise DataError(f"{where}: the record's number {number} is larger than any number of records; it is damaged")
    if not image_length and len(labels) > 1:
        images.without[number] = labels
        return end
    images.number.append(number)
    images.label.append(labels[0])
    images.in_parts.append(len(parts) > 1)
    images.offset.append(start if len(parts) > 1 else offset + length - image_length)
    images.length.append(end - start if len(parts) > 1 else image_length)
    return end


def _parts(f: BinaryIO, start: int, size: int, where: str) -> tuple[list[tuple[int, int]], int]:
    """(offset, length) of the data of each part of the record at ``start``, and where the next record starts."""
    parts: list[tuple[int, int]] = []
    place = MIDDLE
    while place in (FIRST, MIDDLE):
        f.seek(start)
        head = f.read(PART.size)
        if len(head) < PART.size:
            raise DataError(f"{where}: a record starts but the file ends at {size}; it was cut short, copy it again")
        magic, word = PART.unpack(head)
        place, length = word >> 29, word & (1 << 29) - 1
        if magic != MAGIC or place not in ((MIDDLE, LAST) if parts else (ONLY, FIRST)):
            raise DataError(
                f"{where}: {head.hex()} is not a part of a record, which starts with {MAGIC.hex()}; the file is "
                f"damaged or not RecordIO, or its .idx belongs to another file"
            )
        parts.append((start + PART.size, length))
        if start + PART.size + length > size:
            raise DataError(
                f"{where}: {length} bytes follow but the file ends at {size}; it was cut short, copy it again"
            )
        start += PART.size + (length + 3) // 4 * 4
    return parts, start


def _join(f: BinaryIO, parts: list[tuple[int, int]]) -> bytes:
    pieces = []
    for offset, length in parts:
        f.seek(offset)
        pieces.append(f.read(length))
    return MAGIC.join(pieces)


def _header(data: bytes, length: int, where: str) -> tuple[int, tuple[float, ...], int]:
    """Number, labels and the length of the image, from the first bytes of a record's ``length`` bytes of data."""
    flag, label, number, _ = HEADER.unpack(data[: HEADER.size]) if len(data) >= HEADER.size else (0, 0.0, 0, 0)
    image_length = length - HEADER.size - 4 * flag
    if image_length < 0:
        raise DataError(
            f"{where}: {length} bytes have no room for a header and {flag} labels; this is not an image record"
        )
    if flag > LABELS:
        raise DataError(f"{where}: a record promises {flag} labels; at most {LABELS} were expected: it is damaged")
    return number, struct.unpack_from(f"<{flag}f", data, HEADER.size) if flag else (label,), image_length


def _check_numbers(number_N: np.ndarray, address: str) -> None:
    numbers, counts = np.unique(number_N, return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"{address}: {(counts > 1).sum()} record numbers occur more than once ({numbers[counts > 1][0]}, …); put "
            f"the file's own .idx beside it, which gives each record its number"
        )


def _check_people(without: dict[int, tuple[float, ...]], address: str) -> None:
    """Check that record 0 promises no more people's records than there are, and that their ranges are ranges."""
    first, end = without.get(0, (0.0, 0.0))[:2]
    if not 0 <= first <= end < math.inf:
        raise DataError(
            f"{address}: record 0 has the labels {first:g} and {end:g}; expected the range of people's records"
        )
    there = sum(first <= number < end for number in without)
    # Labels are float32, so they are rounded above 2^24.
    if end - first - there > (2 * np.spacing(np.float32(end)) if end > 1 << 24 else 0):
        raise DataError(
            f"{address}: record 0 promises {end - first:,.0f} records of people from {first:.0f} on, but {there} are "
            f"there; the file was cut short or damaged, or its .idx leaves them out: copy it again"
        )
    for number, (start, stop, *_) in without.items():
        if first <= number < end and not 0 <= start <= stop < math.inf:
            raise DataError(
                f"{address}: record {number} has no image and the labels {start:g} and {stop:g}; expected the range of "
                f"a person's images"
            )


def _check_ranges(without: dict[int, tuple[float, ...]], number_N: np.ndarray, label_N: np.ndarray, where: str) -> None:
    """Check that all images in one person's range have one label; otherwise labels do not identify people."""
    first, end = without.get(0, (0.0, 0.0))[:2]
    # Above 2^24, where ranges are rounded, only the labels count.
    people = (labels for number, labels in without.items() if first <= number < end)
    spans = sorted(labels[:2] for labels in people if labels[1] <= 1 << 24)
    if not spans or not len(number_N):
        return
    from_P, to_P = np.array(spans).T
    person_N = np.searchsorted(from_P, number_N, side="right") - 1
    inside_n = np.flatnonzero((person_N >= 0) & (number_N < to_P[person_N]))
    _, one_p, person_n = np.unique(person_N[inside_n], return_index=True, return_inverse=True)
    for at in inside_n[label_N[inside_n] != label_N[inside_n[one_p]][person_n]][:1]:
        raise DataError(
            f"{where}: record {number_N[at]} has the label {label_N[at]:g}, but others in its person's range "
            f"{spans[person_N[at]]} have another; labels and ranges must agree: write the file again"
        )
