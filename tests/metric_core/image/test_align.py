from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metric_core.errors import ConfigError
from metric_core.image import align
from metric_core.image.align import Pose
from metric_core.image.preprocess import preprocess, thumbnail
from metric_core.image.spec import Preprocessing
from workflows.demo import drawn


def faces(count: int, size: int = 64) -> list[Image.Image]:
    """Faces in front of scenes, each slightly off the centre."""
    return [Image.fromarray(drawn.draw(drawn.person(3, n), seed=3, picture=n, size=size)) for n in range(count)]


def moved(picture: Image.Image, degrees: float, dx: int, dy: int) -> Image.Image:
    """The picture with its face turned and shifted."""
    return picture.rotate(degrees, Image.Resampling.BICUBIC, translate=(dx, dy), fillcolor=(99, 99, 99))


@pytest.fixture(scope="module")
def mean_face() -> np.ndarray:
    return align.learn(np.stack([thumbnail(picture) for picture in faces(150)]))


def test_the_mean_face_finds_how_a_face_was_turned_and_shifted(mean_face: np.ndarray) -> None:
    pictures = faces(40)
    before = align.find(np.stack([thumbnail(p) for p in pictures]), mean_face)
    after = align.find(np.stack([thumbnail(moved(p, -6, 4, -4)) for p in pictures]), mean_face)
    # Pillow rotates counter-clockwise for positive degrees, so -6 turns the face clockwise.
    turned = np.median([np.degrees(np.angle(a.turn / b.turn)) for a, b in zip(after, before)])
    shifted = np.median([a.shift - b.shift for a, b in zip(after, before)])
    assert turned == pytest.approx(6, abs=3)
    assert shifted.real == pytest.approx(4 / 32, abs=0.07)
    assert shifted.imag == pytest.approx(-4 / 32, abs=0.07)


def test_a_picture_that_is_the_mean_face_stays_as_it_is(mean_face: np.ndarray) -> None:
    assert align.find(mean_face[None], mean_face) == [Pose(1, 0)]


def test_light_and_contrast_do_not_change_the_pose(mean_face: np.ndarray) -> None:
    small_NSS = np.stack([thumbnail(picture) for picture in faces(20)])
    darker = (small_NSS * 0.6 + 20).astype(np.uint8)
    same = [a == b for a, b in zip(align.find(small_NSS, mean_face), align.find(darker, mean_face))]
    assert np.mean(same) >= 0.9


def test_preprocessing_brings_faces_nearer_to_one_another(mean_face: np.ndarray, tmp_path: Path) -> None:
    """A face that was moved comes out nearly as the one that was not; without alignment it does not."""
    aligned = Preprocessing(48, "rgb", align="mean-face", mean_face=align.to_text(mean_face), crop=0.8)
    plain = Preprocessing(48, "rgb", crop=0.8)

    def pixels(picture: Image.Image, how: Preprocessing) -> np.ndarray:
        path = tmp_path / "face.png"
        picture.save(path)
        out = preprocess(path.read_bytes(), how)
        assert (out.shape, out.dtype) == ((3, 48, 48), np.uint8)
        return out.astype(float)

    def change(how: Preprocessing) -> float:
        return float(np.median([abs(pixels(p, how) - pixels(moved(p, 10, 5, 4), how)).mean() for p in faces(16)]))

    assert change(aligned) < 0.8 * change(plain)


def test_news_photographs_have_a_sharper_mean_when_aligned(data_root: Path) -> None:
    people = sorted((data_root / "lfw_dev" / "images").iterdir())[:300]
    small_NSS = np.stack([thumbnail(Image.open(next(person.glob("*.jpg")))) for person in people])
    template = align.learn(small_NSS)
    aligned = np.stack([align._moved(s, pose) for s, pose in zip(small_NSS, align.find(small_NSS, template))])
    middle = slice(6, 26)
    contrast = [align._normalised(faces)[:, middle, middle].mean(0).std() for faces in (aligned, small_NSS)]
    assert contrast[0] > 1.1 * contrast[1]


def test_text_and_back(mean_face: np.ndarray) -> None:
    np.testing.assert_array_equal(align.from_text(align.to_text(mean_face)), mean_face)
    with pytest.raises(ValueError, match="3 pixels; 32 x 32 were expected"):
        align.from_text("AAAA")


def test_a_mean_face_needs_a_picture() -> None:
    with pytest.raises(ValueError, match="at least one"):
        align.learn(np.empty((0, align.SIDE, align.SIDE), np.uint8))


@pytest.mark.parametrize(("kind", "face"), [("mean-face", ""), ("none", "AAAA")])
def test_a_mean_face_goes_with_aligning_by_it(kind: str, face: str) -> None:
    with pytest.raises(ConfigError, match="mean_face is"):
        Preprocessing(32, "grey", align=kind, mean_face=face)  # type: ignore[arg-type]
