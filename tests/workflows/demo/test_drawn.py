"""The drawn faces: repeatable to the byte, inside their ranges, and not recognisable by a single cue."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from workflows.demo import drawn
from workflows.demo.cartoon import Person, Scene
from workflows.demo.drawn import draw, person, write_people

PEOPLE, PICTURES, SEED = 60, 6, 11
WHO = person(0, 0)


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """float32 (people, pictures, 64, 64, 3), from 0 to 255."""
    rows = [
        [draw(person(SEED, index), seed=SEED, picture=picture, size=64) for picture in range(PICTURES)]
        for index in range(PEOPLE)
    ]
    return np.array(rows, dtype=np.float32)


@pytest.fixture(scope="module")
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pictures, (n, 2), and whether both show the same person, (n,): half of them do."""
    left, right = np.triu_indices(PEOPLE * PICTURES, k=1)
    same = left // PICTURES == right // PICTURES
    random = np.random.default_rng(0)
    other = random.choice(np.flatnonzero(~same), same.sum(), replace=False)
    chosen = random.permutation(np.concatenate([np.flatnonzero(same), other]))
    return np.stack([left[chosen], right[chosen]], axis=1), same[chosen]


def accuracy(scores: np.ndarray, same: np.ndarray) -> float:
    """Fraction of pairs, (n,), that a threshold on the scores gets right, chosen on nine folds, used on the tenth."""
    fold = np.arange(len(scores)) % 10
    right = []
    for held_out in range(10):
        known = fold != held_out
        order = np.argsort(-scores[known])
        truth = same[known][order]
        best = np.argmax(np.cumsum(truth) - np.cumsum(~truth))
        right.append(np.mean((scores[~known] >= scores[known][order][best]) == same[~known]))
    return float(np.mean(right))


def by_distance(features: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> float:
    """Accuracy of features, (people, pictures, ...), compared by Euclidean distance."""
    flat = features.reshape(PEOPLE * PICTURES, -1)
    return accuracy(-np.linalg.norm(flat[pairs[0][:, 0]] - flat[pairs[0][:, 1]], axis=1), pairs[1])


def by_cosine(features: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> float:
    """Accuracy of features compared by the cosine of their angle."""
    flat = features.reshape(PEOPLE * PICTURES, -1)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return accuracy(np.sum(unit[pairs[0][:, 0]] * unit[pairs[0][:, 1]], axis=1), pairs[1])


def test_the_measure_sees_what_is_there(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    number = np.repeat(np.arange(PEOPLE, dtype=float), PICTURES)
    assert by_distance(number, pairs) == 1.0
    assert abs(by_distance(np.random.default_rng(1).random(PEOPLE * PICTURES), pairs) - 0.5) < 0.06


def test_raw_pixels_do_not_tell_people_apart(faces: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> None:
    small = faces.reshape(PEOPLE, PICTURES, 32, 2, 32, 2, 3).mean(axis=(3, 5)).reshape(PEOPLE, PICTURES, -1)
    assert by_cosine(small - small.mean(axis=-1, keepdims=True), pairs) <= 0.70
    assert by_distance(small, pairs) <= 0.70


@pytest.mark.parametrize(
    ("rows", "columns", "bound"),
    [((0, 64), (0, 64), 0.70), ((27, 44), (23, 41), 0.72), ((9, 19), (20, 44), 0.72)],
    ids=["picture", "skin", "hair"],
)
def test_a_mean_colour_does_not_tell_people_apart(
    faces: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    rows: tuple[int, int],
    columns: tuple[int, int],
    bound: float,
) -> None:
    colour = faces[:, :, slice(*rows), slice(*columns)].mean(axis=(2, 3))
    assert by_distance(colour, pairs) <= bound


class Block(torch.nn.Module):
    """A residual block that halves the picture."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(
            torch.nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            torch.nn.GroupNorm(8, after),
            torch.nn.ReLU(),
            torch.nn.Conv2d(after, after, 3, padding=1, bias=False),
            torch.nn.GroupNorm(8, after),
        )
        self.short = torch.nn.Conv2d(before, after, 1, stride=2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.inner(x) + self.short(x))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_untrained_net_does_not_tell_people_apart(
    faces: np.ndarray, pairs: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 24, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            Block(24, 48),
            Block(48, 72),
            Block(72, 96),
            torch.nn.Flatten(),
            torch.nn.Linear(96 * 16, 128),
        )
    batch = torch.from_numpy(faces.reshape(-1, 64, 64, 3)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        vectors = net(batch).numpy()
    assert by_cosine(vectors, pairs) <= 0.75
    assert by_cosine(vectors - vectors.mean(axis=0), pairs) <= 0.75


def test_a_person_s_pictures_resemble_each_other(faces: np.ndarray) -> None:
    # The mean of a person's first pictures is nearer to the mean of its last ones than to other people's.
    plain = faces / faces.mean(axis=(2, 3), keepdims=True)
    first, last = plain[:, :3].mean(axis=1), plain[:, 3:].mean(axis=1)
    first, last = first.reshape(PEOPLE, -1), last.reshape(PEOPLE, -1)
    distance = np.linalg.norm(first[:, None] - last[None], axis=2)
    # Chance is 1 in 60.
    assert np.mean(distance.argmin(axis=1) == np.arange(PEOPLE)) > 0.2


def test_a_picture_is_a_pure_function_of_its_arguments() -> None:
    who = person(3, 14)
    once = draw(who, seed=3, picture=2)
    draw(person(3, 15), seed=3, picture=9)
    np.random.random(7)  # noqa: NPY002 - numpy's global stream must not matter
    again = draw(person(3, 14), seed=3, picture=2)
    assert once.dtype == np.uint8
    assert once.shape == (96, 96, 3)
    np.testing.assert_array_equal(once, again)


def test_every_argument_counts() -> None:
    base = draw(person(3, 14), seed=3, picture=2).astype(float)
    others = [
        draw(person(3, 15), seed=3, picture=2),
        draw(person(4, 14), seed=3, picture=2),
        draw(person(3, 14), seed=4, picture=2),
        draw(person(3, 14), seed=3, picture=3),
    ]
    for other in others:
        assert np.abs(base - other).mean() > 5
    assert draw(person(3, 14), seed=3, picture=2, size=48).shape == (48, 48, 3)


def test_two_people_share_no_scene() -> None:
    # The corner shows only background. It would be the same if streams depended on the picture's number alone.
    corners = [draw(person(0, index), seed=0, picture=0)[:4, :4].mean(axis=(0, 1)) for index in range(8)]
    apart = np.abs(np.array(corners)[:, None] - np.array(corners)[None]).max(axis=2)
    assert np.median(apart[np.triu_indices(8, k=1)]) > 10


def test_people_fill_their_ranges() -> None:
    crowd = np.array([dataclasses.astuple(person(0, index)) for index in range(300)])
    low, high = np.array([part.metadata["range"] for part in dataclasses.fields(Person)]).T
    assert (crowd >= low).all()
    assert (crowd <= high).all()
    assert (crowd.min(axis=0) < low + 0.02 * (high - low)).all()
    assert (crowd.max(axis=0) > high - 0.02 * (high - low)).all()
    # Features are independent of each other.
    assert np.abs(np.corrcoef(crowd.T) - np.eye(crowd.shape[1])).max() < 0.3


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("kind", [Person, Scene])
def test_the_ends_of_every_range_can_be_drawn(kind: type, end: int, monkeypatch: pytest.MonkeyPatch) -> None:
    extreme = kind(*(part.metadata["range"][end] for part in dataclasses.fields(kind)))
    if kind is Person:
        picture = draw(extreme, seed=0, picture=0)
    else:
        monkeypatch.setattr(drawn, "_make", lambda kind, parts: extreme)
        picture = draw(WHO, seed=0, picture=0)
    assert picture.std() > 10


@pytest.mark.parametrize("thing", [0.006, 0.017, 0.028, 0.04, 0.06])
def test_every_occlusion_hides_something(thing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    make = drawn._make

    def with_thing(value: float) -> np.ndarray:
        monkeypatch.setattr(drawn, "_make", lambda kind, parts: dataclasses.replace(make(kind, parts), thing=value))
        return draw(WHO, seed=0, picture=0).astype(float)

    bare = with_thing(0.9)
    changed = np.abs(with_thing(thing) - bare).max(axis=2) > 30
    assert 0.003 < changed.mean() < 0.5


def test_write_people_writes_one_folder_per_person(tmp_path: Path) -> None:
    assert write_people(tmp_path / "all", range(4), pictures=3, seed=5, size=48) == 12
    names = sorted(str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*.jpg"))
    assert names == [f"person-{index:04d}/{picture:02d}.jpg" for index in range(4) for picture in range(3)]
    with Image.open(tmp_path / "all/person-0002/01.jpg") as image:
        assert image.format == "JPEG"
        read = np.asarray(image, dtype=float)
    # JPEG loses fine noise and colour, not the face.
    assert np.abs(read - draw(person(5, 2), seed=5, picture=1, size=48)).mean() < 8

    # A part written separately, as by one of several processes, has the same bytes.
    assert write_people(tmp_path / "part", range(2, 3), pictures=3, seed=5, size=48) == 3
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["person-0002"]
    for picture in range(3):
        name = f"person-0002/{picture:02d}.jpg"
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()
