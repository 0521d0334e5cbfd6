import dataclasses
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.packed import as_is

from metric_core.errors import DataError, ImageUnreadable, Missing
from metric_core.evaluate import pairs
from metric_core.sources import catalogue, pickled
from metric_core.sources.fetching import fetch, fetch_many

# Every byte there is, lengths around the opcodes' limits, and the words that the encoding is told by.
IMAGES = [bytes(range(256)), b"\xff\xd8\xff" * 200, b"", b"x", b"latin1", b"\\u0041\\x41\n", bytes(255), bytes(70_000)]
SAME = [True, False, False, True]


def contents(address: Path) -> list[tuple[str, str, bytes]]:
    source = catalogue.scan(str(address))
    found = list(source.faces)
    data = fetch_many(source.root, [dataclasses.asdict(f) for f in found])
    return [(f.identity, f.key, one) for f, one in zip(found, data) if isinstance(one, bytes)]


WHO = ["pair-0", "pair-0", "pair-1a", "pair-1b", "pair-2a", "pair-2b", "pair-3", "pair-3"]
EXPECTED = [(who, str(n), data) for n, (who, data) in enumerate(zip(WHO, IMAGES))]


def python2(images: list[bytes], same: list[bool]) -> bytes:
    """As Python 2 writes str under protocol 2, which is how InsightFace's own sets were made."""
    out = b"\x80\x02]q\x00("
    for number, image in enumerate(images, start=1):
        out += b"U" + struct.pack("<B", len(image)) if len(image) < 256 else b"T" + struct.pack("<i", len(image))
        out += image + b"r" + struct.pack("<I", number)
    return out + b"e]q\x01(" + b"".join(b"\x88" if s else b"\x89" for s in same) + b"e\x86q\x02."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    images = [image for image in IMAGES if image or protocol > 2]  # an empty one is written as a call of bytes()
    images += IMAGES[: len(IMAGES) - len(images)]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((images, SAME), protocol))
    assert [data for _, _, data in contents(tmp_path / "lfw.bin")] == images


def test_who_and_which_and_what(tmp_path: Path) -> None:
    (tmp_path / "lfw.bin").write_bytes(python2(IMAGES, SAME))
    assert contents(tmp_path / "lfw.bin") == EXPECTED
    assert catalogue.scan(str(tmp_path / "lfw.bin")).name == "lfw"
    listed = pairs.load(str(tmp_path / "lfw.bin"))
    assert listed.a_key_N.tolist() == ["0", "2", "4", "6"]
    assert listed.b_key_N.tolist() == ["1", "3", "5", "7"]
    assert listed.same_N.tolist() == SAME
    assert listed.fold_N.tolist() == [0, 1, 2, 3]


def test_folds_are_insightface_s(tmp_path: Path) -> None:
    """Ten consecutive ones of the same length; what does not divide goes to the first ones."""
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(([b"x"] * 46, [True] * 23)))
    fold_N = pairs.load(str(tmp_path / "lfw.bin")).fold_N
    assert np.bincount(fold_N).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert (np.diff(fold_N) >= 0).all()


def test_one_image_in_several_pairs_and_other_forms(tmp_path: Path) -> None:
    """One object twice is written as a reference; lists may stand for tuples, and 0 and 1 for booleans."""
    one, two = b"one" * 100, b"two" * 100
    for protocol in (0, 2, 4):
        (tmp_path / "lfw.bin").write_bytes(pickle.dumps([[one, two, one, one], [0, 1]], protocol))
        assert [data for _, _, data in contents(tmp_path / "lfw.bin")] == [one, two, one, one]
        assert pairs.load(str(tmp_path / "lfw.bin")).same_N.tolist() == [False, True]


class Harmful:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_is_run(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps(([b"x", Harmful(tmp_path / "made")], [True]), protocol))
    with pytest.raises(DataError, match=r"(the opcode STACK_GLOBAL .*|asks for \w+\.mkdir, which) .*is not run"):
        pickled.read(str(tmp_path / "lfw.bin"))
    assert not (tmp_path / "made").exists()
    pickle.loads((tmp_path / "lfw.bin").read_bytes())
    assert (tmp_path / "made").exists(), "what unpickling would have done"


def test_the_one_function_is_called_with_nothing_else(tmp_path: Path) -> None:
    whole = pickle.dumps(([b"\xff", b"y"], [True]), 2)
    for before, after in (
        (b"c_codecs\nencode", b"c_codecs\ndecode"),
        (b"latin1", b"utf-16"),
        (b"\x86q\x04R", b"\x85q\x04R"),
    ):
        assert before in whole
        (tmp_path / "lfw.bin").write_bytes(whole.replace(before, after, 1))
        with pytest.raises(DataError, match=r"asks for _codecs\.decode, which is not run|not a pickle of a"):
            pickled.read(str(tmp_path / "lfw.bin"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([b"x", b"y"], "holds no verification set"),
        (([b"x", b"y"], True), "holds no verification set"),
        (([b"x", "y"], [True]), "an image is not bytes"),
        (([b"x", b"y"], [2]), "a pair is marked neither true nor false"),
        (([b"x", b"y"], [b"z"]), "a pair is marked neither true nor false"),
        (([b"x", b"y", b"z"], [True]), "3 images and 1 pairs; expected two images per pair"),
        (([], []), "0 images and 0 pairs"),
        (([b"x", b"y"], [None]), "the opcode NONE  does not belong"),
        (([b"x", b"y"], {}), "the opcode EMPTY_DICT"),
        (([b"x", b"y"], [np.bool_(True)]), "the opcode STACK_GLOBAL"),
        (([np.zeros(3, np.uint8)] * 2, [True]), "the opcode STACK_GLOBAL"),
    ],
)
def test_other_pickles(tmp_path: Path, value: object, message: str) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps(value, 4))
    with pytest.raises(DataError, match=message):
        pickled.read(str(tmp_path / "x.bin"))


def test_where_images_lie(tmp_path: Path) -> None:
    """Catalogues point at these places for good: an image's bytes, or a whole opcode with the text for them."""
    (tmp_path / "x.bin").write_bytes(python2([b"one", b"\x04" * 300], [True]))
    first, second = pickled.read(str(tmp_path / "x.bin")).images
    assert (first.kind, first.offset, first.length) == (pickled.BYTES, 8, 3)
    assert (second.kind, second.offset, second.length) == (pickled.BYTES, 21, 300)
    (tmp_path / "x.bin").write_bytes(data := pickle.dumps(([b"one", b"\xff"], [True]), 2))
    first, second = pickled.read(str(tmp_path / "x.bin")).images
    assert (first.kind, data[first.offset :][: first.length]) == (pickled.TEXT, b"X\x03\0\0\0one")
    assert (second.kind, data[second.offset :][: second.length]) == (pickled.TEXT, b"X\x02\0\0\0\xc3\xbf")


@pytest.mark.parametrize(
    "data",
    [
        b"]r\xff\xff\xff\x7f.",  # an object of the memo with a high number: the memo would take 32 GiB
        b"]p4000000000\n.",
        b"]p-1\n.",
        b"\x8e" + (2**62).to_bytes(8, "little") + b"x.",  # strings longer than the file
        b"B\xff\xff\xff\xffx.",
        b"\x95" + b"\xff" * 8 + b"].",
        b"I" + b"9" * 5000 + b"\n.",
        b"X\x01\x00\x00\x00\xff.",
        b"\x80\xff].",
        b"K\x00Q.",  # the unpickler's own way to a string
        b"\x82\x01.",  # an extension, if some library has registered one
        b"c\xff\n\n.",
        b"]]a" * 10 + b".",
    ],
)
def test_hostile_pickles(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.bin") as caught:
        pickled.read(str(tmp_path / "x.bin"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "byte"),
    [
        (lambda whole: whole[:-30_000], 1190),  # in the image of 70 000 bytes
        (lambda whole: whole.replace(b"e]q\x01(", b"e\xffq\x01(", 1), 71_201),  # no opcode
        (lambda whole: whole.replace(b"e]q\x01(", b"ehqq\x01(", 1), 71_201),  # object 113 of the memo, which has fewer
        (lambda whole: whole[:-1] + b"a.", 71_213),  # appends to what is no list
    ],
)
def test_damage_is_named_by_its_byte(tmp_path: Path, damage: Callable[[bytes], bytes], byte: int) -> None:
    (tmp_path / "x.bin").write_bytes(damage(python2(IMAGES, SAME)))
    with pytest.raises(DataError, match=rf"x\.bin, byte {byte}: not a pickle of a verification set: "):
        pickled.read(str(tmp_path / "x.bin"))


def test_no_pickles(tmp_path: Path) -> None:
    whole = python2(IMAGES, SAME)
    for data in [b"", b"no pickle", b".", b"0.", b"(.", b"e.", b"h\x07.", b"R.", b"a.", b"\x8e" + b"\xff" * 8] + [
        whole[:length] for length in range(0, len(whole), 5000)
    ]:
        (tmp_path / "x.bin").write_bytes(data)
        with pytest.raises(DataError, match=r"x\.bin"):
            pickled.read(str(tmp_path / "x.bin"))
    with pytest.raises(Missing):
        pickled.read(str(tmp_path / "no.bin"))


def test_a_set_that_changed(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(pickle.dumps((IMAGES[3:5], [True]), 2))
    source = catalogue.scan(str(tmp_path / "x.bin"))
    first, _ = source.faces
    (tmp_path / "x.bin").write_bytes(b"\xff" * 200)
    with pytest.raises(ImageUnreadable, match=r"^changed: .*x\.bin"):
        fetch(source.root, dataclasses.asdict(first))
    with pytest.raises(ImageUnreadable, match=r"^corrupt: .*x\.bin"):
        fetch(source.root, as_is(source.root, first))
