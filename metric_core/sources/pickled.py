"""InsightFace's verification sets (``lfw.bin``, ``cfp_fp.bin``): a pickle of images and of which pairs are genuine.

A pickle is a program, so it is not run: its opcodes are read as data, and only the few that such a set needs.
"""

import pickletools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from metric_core import storage
from metric_core.errors import DataError, ImageUnreadable
from metric_core.sources.found import Found

BYTES, TEXT = "pickle", "pickle-text"
"""Kinds of locator: an image's bytes, or a whole opcode with a text that stands for them, as older protocols write."""

LENGTHS = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "SHORT_BINSTRING": 1, "BINSTRING": 4}
"""Opcodes that bytes follow, and how many of theirs tell the length."""
TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
NUMBERS = ("INT", "BININT", "BININT1", "BININT2")
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NOTHING = ("PROTO", "FRAME")
ENCODE = "_codecs encode"
"""The one function that may be named: how Python 3 writes bytes for Python 2, as a text and its encoding."""


@dataclass
class Bytes:
    """Bytes in the pickle, or a text that may stand for some."""

    kind: str
    """``BYTES``, ``TEXT``, or nothing for a text that is only a text."""
    offset: int
    length: int
    text: str | None = None
    """The text, when it is short."""


@dataclass(frozen=True)
class VerificationSet:
    """Pair i is of the images 2i and 2i+1."""

    images: list[Bytes]
    same: list[bool]
    """Whether a pair is of one person."""


def faces(root: str, file: str, ignored: Counter[str]) -> Iterator[Found]:
    """The images in order; the key is an image's number, from 0.

    Such a set does not say who people are: the images of a genuine pair share an identity, all others have their own.

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
    """Where the images of a set lie, and which pairs are of one person.

    Raises:
        DataError: it is no pickle, asks for more than such a set needs, or holds something else.
        Missing: there is no such file.
    """
    found = _value(storage.read_bytes(address), address)
    images, same = found if isinstance(found, tuple | list) and len(found) == 2 else (None, None)
    if not isinstance(images, list) or not isinstance(same, list):
        raise DataError(f"{address} holds no verification set: a list of images and a list of booleans were expected")
    if not all(isinstance(i, Bytes) and i.kind for i in images) or not all(s in (0, 1) for s in same):
        raise DataError(f"{address}: an image is no bytes, or a pair is marked with something else than true or false")
    if len(images) != 2 * len(same) or not same:
        raise DataError(f"{address}: {len(images)} images and {len(same)} pairs; two images a pair were expected")
    return VerificationSet(images, [bool(s) for s in same])


def decode(data: bytes, where: str) -> bytes:
    """The bytes that an opcode with a text stands for. Raises ImageUnreadable."""
    try:
        _, text, _ = next(pickletools.genops(data))
        return str(text).encode("latin-1")
    except ValueError as error:
        raise ImageUnreadable(f"corrupt: {where}: {error}") from error


def _value(data: bytes, address: str) -> Any:
    """What the pickle describes, with ``Bytes`` for every string of bytes or letters."""
    reader = _Reader()
    name, at = "", 0
    try:
        for opcode, argument, position in pickletools.genops(data):
            name, at = opcode.name, position or 0
            reader.end_text(at)
            if name == "STOP":
                return reader.stack.pop()
            if not reader.step(name, argument, at):
                raise DataError(
                    f"{address}, byte {at}: the opcode {name} {str(argument)[:40] if argument else ''} has no place in "
                    f"a verification set and is not run; write the set again as (list of bytes, list of bool)"
                )
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{address}, byte {at}, {name}: no pickle of a verification set: {error}") from error


class _Reader:
    """The stack and the memo of a pickle, without its objects."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []
        """What was on the stack at each mark."""
        self._memo: dict[int, Any] = {}
        self._text: Bytes | None = None

    def end_text(self, at: int) -> None:
        """Note where the last opcode ended, if it was a text."""
        if self._text is not None:
            self._text.length = at - self._text.offset
            self._text = None

    def step(self, name: str, argument: Any, at: int) -> bool:
        """Follow one opcode; False for one that is not followed."""
        stack = self.stack
        if name in LENGTHS:
            stack.append(Bytes(BYTES, at + 1 + LENGTHS[name], len(argument)))
        elif name in TEXTS:
            self._text = Bytes("", at, 0, argument if len(argument) < 16 else None)
            stack.append(self._text)
        elif name in NUMBERS or (name == "GLOBAL" and argument == ENCODE):
            stack.append(argument)
        elif name in ("NEWTRUE", "NEWFALSE"):
            stack.append(name == "NEWTRUE")
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in TUPLES:
            stack[len(stack) - TUPLES[name] :] = [tuple(stack[len(stack) - TUPLES[name] :])]
        elif name == "MARK":
            self._below.append(stack)
            self.stack = []
        elif name in ("LIST", "TUPLE", "APPENDS"):
            self.stack = self._below.pop()
            if name == "APPENDS":
                self.stack[-1].extend(stack)
            else:
                self.stack.append(stack if name == "LIST" else tuple(stack))
        elif name == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "REDUCE":
            return self._encode()
        else:
            return name in NOTHING
        return True

    def _encode(self) -> bool:
        """A call of ``_codecs.encode(text, "latin1")`` becomes the bytes that the text stands for; no other is made."""
        function, arguments = self.stack[-2:]
        if function != ENCODE or [type(a) for a in arguments] != [Bytes, Bytes] or arguments[1].text != "latin1":
            return False
        self.stack[-2:] = [replace(arguments[0], kind=TEXT)]
        return True
