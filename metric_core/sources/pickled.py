"""InsightFace's verification sets (``lfw.bin``, ``cfp_fp.bin``): a pickle of images and of which pairs are genuine.

A pickle is a program. Only the few opcodes that such a set needs are run, and they can call only one function, which
is ours. The images themselves are not unpickled: each is replaced by its position in the file, from which it is read
later.
"""

import bisect
import io
import pickle
import pickletools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from metric_core import storage
from metric_core.errors import DataError, ImageUnreadable
from metric_core.sources.found import Found, Notes

BYTES, TEXT = "pickle", "pickle-text"
"""Kinds of locator: an image's bytes, or a whole opcode with a text that encodes them, as older protocols write."""

STRINGS = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "SHORT_BINSTRING", "BINSTRING"}
TEXTS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "NEWTRUE", "NEWFALSE"}
SEQUENCES = {"EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
PUTS, GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
RUN = {*NUMBERS, *SEQUENCES, *PUTS, *GETS, "MEMOIZE", "MARK", "GLOBAL", "REDUCE", "PROTO", "STOP"}
"""The opcodes of a verification set, besides strings. Only GLOBAL and REDUCE could do harm, and ``_Unpickler`` limits
them to one function."""
REMEDY = "write the set again as (list of bytes, list of bool)"
MALFORMED = (
    pickle.UnpicklingError,
    EOFError,
    MemoryError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
)
"""What the standard library raises for bytes that are not a pickle; a UnicodeDecodeError is a ValueError."""


@dataclass
class Bytes:
    """The position of bytes in the pickle, or of a text that may encode bytes."""

    kind: str
    """``BYTES``, ``TEXT``, or empty for a text that does not encode bytes."""
    offset: int
    length: int
    text: str | None = None
    """The text, if it is short."""


@dataclass(frozen=True)
class VerificationSet:
    """Pairs of images: pair i has the images 2i and 2i+1."""

    images: list[Bytes]
    same: list[bool]
    """Whether both images of a pair show one person."""


def faces(root: str, file: str, notes: Notes) -> Iterator[Found]:
    """The images in order; the key is an image's number, from 0.

    Such a set does not name people: the images of a genuine pair share an identity, every other image has its own.

    Raises:
        DataError, Missing: as ``read``.
    """
    address = storage.join(root, file)
    tag = storage.content_tag(address)
    pairs = read(address)
    for number, image in enumerate(pairs.images):
        person = f"pair-{number // 2}" + ("" if pairs.same[number // 2] else "ab"[number % 2])
        yield Found(person, str(number), file, tag, kind=image.kind, offset=image.offset, length=image.length)


def read(address: str) -> VerificationSet:
    """The positions of a set's images, and which pairs show one person.

    Raises:
        DataError: it is not a pickle, needs opcodes that are not run, or is not a verification set.
        Missing: there is no such file.
    """
    found = _value(storage.read_bytes(address), address)
    images, same = found if isinstance(found, tuple | list) and len(found) == 2 else (None, None)
    if not isinstance(images, list) or not isinstance(same, list):
        raise DataError(f"{address} holds no verification set; expected a list of images and a list of booleans")
    if not all(isinstance(i, Bytes) and i.kind for i in images) or not all(s in (0, 1) for s in same):
        raise DataError(f"{address}: an image is not bytes, or a pair is marked neither true nor false")
    if len(images) != 2 * len(same) or not same:
        raise DataError(f"{address}: {len(images)} images and {len(same)} pairs; expected two images per pair")
    return VerificationSet(images, [bool(s) for s in same])


def decode(data: bytes, where: str) -> bytes:
    """The bytes that the text of an opcode encodes. Raises ImageUnreadable."""
    try:
        _, text, _ = next(pickletools.genops(data))
        return str(text).encode("latin-1")
    except ValueError as error:
        raise ImageUnreadable(f"corrupt: {where}: {error}") from error


def _value(data: bytes, address: str) -> Any:
    """The object in the pickle, with ``Bytes`` in the place of every string of bytes or letters."""
    program, strings, places = _without_strings(data, address)
    stream = io.BytesIO(program)
    try:
        return _Unpickler(stream, strings, address).load()
    except MALFORMED as error:  # the stream has been read up to the end of the opcode that failed
        last = max(bisect.bisect_left(places, (stream.tell(),)) - 1, 0)
        raise _damaged(address, places[last][1], error) from error


def _damaged(address: str, byte: int, error: Exception) -> DataError:
    return DataError(f"{address}, byte {byte}: not a pickle of a verification set: {error or type(error).__name__}")


def _opcodes(data: bytes, address: str) -> Iterator[tuple[str, Any, int, int]]:
    """Name and argument of every opcode, its first byte and the one behind it. Raises DataError at a damaged one."""
    stream = io.BytesIO(data)
    end = 0
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            first, end = end, stream.tell()
            yield opcode.name, argument, first, end
    except MALFORMED as error:
        raise _damaged(address, end, error) from error


def _without_strings(data: bytes, address: str) -> tuple[bytes, list[Bytes], list[tuple[int, int]]]:
    """The pickle with a number in the place of every string, the strings in the order of these numbers, and where each
    opcode begins: in what is returned, and in ``data``.

    Raises:
        DataError: the opcodes are damaged, or one is not of those that a verification set is written with.
    """
    program, strings, places = bytearray(), list[Bytes](), list[tuple[int, int]]()
    for count, (name, argument, first, end) in enumerate(_opcodes(data, address)):
        places.append((len(program), first))
        # The memo is an array: a high number in a short file would ask for any amount of memory. Writers count from 0.
        if name in PUTS and not 0 <= argument < 256 + count:
            raise DataError(f"{address}, byte {first}: object {argument} of the memo, after {count} opcodes; {REMEDY}")
        if name in STRINGS or name in TEXTS:
            program += pickle.BININT + len(strings).to_bytes(4, "little") + pickle.BINPERSID
            if name in STRINGS:
                strings.append(Bytes(BYTES, end - len(argument), len(argument)))
            else:
                strings.append(Bytes("", first, end - first, argument if len(argument) < 16 else None))
        elif name in RUN:
            program += data[first:end]
        elif name != "FRAME":  # it holds the length of the program, which has changed
            shown = str(argument)[:40] if argument else ""
            raise DataError(
                f"{address}, byte {first}: the opcode {name} {shown} does not belong in a verification set and is "
                f"not run; {REMEDY}"
            )
    return bytes(program), strings, places


class _Unpickler(pickle.Unpickler):
    """Runs a pickle without strings; the only function it can call is ``_codecs.encode``, which is replaced."""

    def __init__(self, program: io.BytesIO, strings: list[Bytes], address: str) -> None:
        super().__init__(program, fix_imports=False)
        self._strings = strings
        self._address = address

    def persistent_load(self, number: int) -> Bytes:
        """The string with this number."""
        return self._strings[number]

    def find_class(self, module: str, name: str, /) -> Any:
        """``_encode``, for the function by which Python 3 writes bytes for Python 2; DataError for all others."""
        if (module, name) != ("_codecs", "encode"):
            raise DataError(f"{self._address} asks for {module}.{name}, which is not run; {REMEDY}")
        return _encode


def _encode(text: Bytes, encoding: Bytes) -> Bytes:
    """``_codecs.encode(text, "latin1")``: the bytes that the text encodes. Raises ValueError for other arguments."""
    if not isinstance(text, Bytes) or not isinstance(encoding, Bytes) or encoding.text != "latin1":
        raise ValueError("bytes are written as another call than encode(text, 'latin1')")
    return replace(text, kind=TEXT)
