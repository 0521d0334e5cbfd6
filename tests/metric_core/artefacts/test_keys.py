"""Keys of pictures by their paths: a table of twins, and random folders against what every key must fulfil."""

import itertools
import random
from pathlib import PurePosixPath

import pytest

from metric_core.artefacts import keys


@pytest.mark.parametrize(
    "expected",
    [
        {"a/1.jpg": "a/1", "a/2.webp": "a/2", "b/1.webp": "b/1"},
        {"a/1.jpg": "a/1", "a/1.webp": "a/1.webp"},
        {"a/1.avif": "a/1.avif", "a/1.png": "a/1", "a/1.webp": "a/1.webp"},
        {"a/1.JPG": "a/1", "a/1.jpeg": "a/1.jpeg"},
        {"a/1.JPG": "a/1", "a/1.Jpg": "a/1.Jpg", "a/1.jpg": "a/1.jpg"},
        {"a/1.jpg": "a/1", "a/1.jpg.png": "a/1.jpg", "a/1.webp": "a/1.webp"},
        {"a/1.JPG": "a/1", "a/1.jpg": "a/1.jpg/", "a/1.jpg.png": "a/1.jpg"},
        {"a/1.JPG": "a/1", "a/1.jpg": "a/1.jpg/", "a/1.jpg.jpg": "a/1.jpg", "a/1.jpg.png": "a/1.jpg.png"},
        {"a/1": "a/1/", "a/1.0001": "a/1.0001", "a/1.tif": "a/1"},
    ],
)
def test_one_twin_has_the_plain_key(expected: dict[str, str]) -> None:
    for paths in itertools.permutations(expected):
        assert keys.of(paths) == [expected[path] for path in paths]


def test_a_key_that_was_given_is_not_taken_again() -> None:
    assert keys.of(["a/1.jpg", "a/1.png"], {"a/1.png"}) == ["a/1", "a/1.png/"]


def test_keys_of_random_folders() -> None:
    """Unique, and plain for whoever has no twin; an order of endings written down once decides among the others."""
    draw = random.Random(0)
    names = ["".join(word) for word in itertools.product(["1", "2"], ["", ".jpg", ".c"], [".JPG", ".jpg", ".png"])]
    for _ in range(500):
        paths = [f"a/{name}" for name in draw.sample(names, draw.randint(1, len(names)))]
        found = dict(zip(paths, keys.of(paths)))
        assert len(set(found.values())) == len(paths)
        for path, key in found.items():
            plain = str(PurePosixPath(path).with_suffix(""))
            twins = [other for other in paths if str(PurePosixPath(other).with_suffix("")) == plain]
            wins = min(twins, key=lambda twin: (twin.lower().endswith(".png"), twin)) == path
            assert key in ([plain] if wins else [path, f"{path}/"])


def test_the_order_of_endings_is_pinned() -> None:
    """Ids follow from it."""
    first = ".jpg .jpeg .jpe .jfif .png .apng .bmp .gif .ico .mpo .pbm .pgm .ppm .pnm .tif .tiff .webp .jp2 .avif"
    assert keys.IMAGE_ENDINGS[:19] == tuple(first.split())


@pytest.mark.parametrize("path", ["a/1.jpg", "a.b/1", "a/1.b.jpg", "a/.jpg", "1.", "a/..jpg", "a/1..jpg", "/x/1.jpg"])
def test_endings_are_those_of_paths(path: str) -> None:
    assert keys.ending(path) == PurePosixPath(path).suffix
    assert keys.plain(path) == str(PurePosixPath(path).with_suffix(""))


def test_a_tag_says_which_twin_it_is_where_that_is_needed() -> None:
    paths = ["a/1.jpg", "a/1.webp", "a/2.jpg", "a/2.webp", "a/3.jpg"]
    found = keys.distinct_tags(paths, keys.of(paths), ["t", "t", "t", "u", "t"])
    assert found == ["t.jpg", "t.webp", "t", "u.webp", "t"]


@pytest.mark.parametrize(
    ("row", "others", "twin"),
    [
        (("a/1", "file", "a/1.jpg"), {"a/1.jpg", "a/1.jpg/"}, None),
        (("a/1.jpg", "file", "a/1.jpg"), {"a/1", "a/1.jpg/"}, "a/1"),
        (("a/1.jpg/", "file", "a/1.jpg"), {"a/1", "a/1.jpg"}, "a/1"),
        (("a/1.jpg", "file", "a/1.jpg.png"), {"a/1.jpg.png", "a/1.jpg.png/"}, None),
        (("a/1", "file", "/else/a//1.jpg"), {"a/1.jpg", "a/1.jpg/"}, None),
        (("a/1.jpg", "file", "./a/1.jpg"), {"a/1", "a/1.jpg/"}, "a/1"),
        (("ann-1", "file", "a/1.jpg"), set(), None),
        (("a/1.webp", "tar", "x.tar"), {"a/1", "a/1.webp/"}, "a/1"),
        (("7", "recordio", "x.rec"), set(), None),
        (("a/1.jpg", "parquet", "x.parquet"), set(), None),
    ],
)
def test_other_keys_of_a_row(row: tuple[str, str, str], others: set[str], twin: str | None) -> None:
    assert set(keys.others(*row)) == others
    assert keys.plain_of_twin(*row) == twin


def test_only_rows_of_tars_with_a_plain_key_hide_their_ending() -> None:
    assert keys.hides_ending("a.b/1", "tar")
    assert keys.hides_ending("a/0.05", "tar")
    assert keys.others("a/0.05", "tar", "x.tar") == []
    assert not keys.hides_ending("a/1.WEBP", "tar")
    assert not keys.hides_ending("a/1", "file")
    assert keys.others("a/1", "tar", "x.tar") == []
    assert keys.plain_of_twin("a/1", "tar", "x.tar") is None
    assert len(set(keys.SPELLINGS)) == 3 * len(keys.IMAGE_ENDINGS)
    assert set(keys.SPELLINGS) >= {".jpg", ".JPG", ".Jpg", ".jp2", ".JP2", ".Jp2"}
