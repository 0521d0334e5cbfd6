import csv
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from metric_core.errors import ConfigError, ImageUnreadable
from metric_core.image.decoding import decode
from metric_core.image.preprocess import ARCFACE, preprocess
from metric_core.image.spec import Preprocessing

HOW = Preprocessing(32, "rgb")


def encode(picture: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **more)
    return buffer.getvalue()


def test_every_odd_image_decodes_or_has_a_reason(data_root: Path) -> None:
    """The files come with what a lenient reader makes of each; ours agrees on all 44."""
    folder = data_root / "odd_images"
    rows = list(csv.DictReader((folder / "EXPECTED.tsv").read_text().splitlines(), delimiter="\t"))
    assert len(rows) == 44
    for row in rows:
        data = (folder / row["file"]).read_bytes()
        if row["pillow_13.0.0_default_outcome"].startswith("decodes"):
            assert preprocess(data, HOW).shape == (3, 32, 32), row["file"]
        else:
            with pytest.raises(ImageUnreadable, match=r"^(empty|not-an-image|too-large|truncated|corrupt): "):
                preprocess(data, HOW)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(picture: Image.Image, orientation: int) -> None:
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = picture if back is None else picture.transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(preprocess(encode(stored, exif=exif), HOW), preprocess(encode(picture), HOW))


def test_exif_that_cannot_be_read_or_written_is_ignored(picture: Image.Image) -> None:
    for exif in (b"Exif\0\0II\x2b\x00\x08\x00\x00\x00", b"Exif\0\0II*\x00\x08\x00", b"no exif at all"):
        np.testing.assert_array_equal(preprocess(encode(picture, exif=exif), HOW), preprocess(encode(picture), HOW))
    # An orientation, and a tag whose number of values does not fit into its type when it is written.
    tags = [struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0), struct.pack("<HHIi", 0x9204, 10, 1, 8)]
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(tags) + struct.pack("<I", 0)
    turned = encode(picture.transpose(Image.Transpose.ROTATE_180), exif=exif)
    np.testing.assert_array_equal(preprocess(turned, HOW), preprocess(encode(picture), HOW))


def test_whatever_the_decoder_raises_makes_the_picture_unreadable(
    picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: Exception) -> None:
        def load(_: object) -> None:
            raise error

        monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)

    for error in (struct.error("8 bytes"), AttributeError("x"), OverflowError("x"), zlib.error("x")):
        fails(error)
        with pytest.raises(ImageUnreadable, match=rf"^corrupt: {type(error).__name__}: "):
            decode(encode(picture))
    fails(MemoryError())
    with pytest.raises(MemoryError):  # the machine's fault, not the picture's
        decode(encode(picture))


def test_modes_are_handled_on_purpose() -> None:
    grey = Image.linear_gradient("L").resize((64, 64))
    plain = preprocess(encode(grey), HOW)
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    np.testing.assert_array_equal(preprocess(encode(sixteen), HOW), plain)
    dark = Image.fromarray(np.asarray(grey).astype(np.uint16))  # 16-bit, yet below 256: black, not a picture
    assert preprocess(encode(dark), HOW).max() <= 1
    cmyk = preprocess(encode(grey.convert("RGB").convert("CMYK"), "TIFF"), HOW)
    assert np.abs(cmyk.astype(int) - plain).mean() < 2
    hidden = Image.merge("RGBA", [grey, grey, grey, Image.new("L", (64, 64), 0)])
    assert (preprocess(encode(hidden), HOW) == 128).all(), "transparent pixels become mid-grey"


def test_crop_keeps_the_centre() -> None:
    frame = Image.new("L", (100, 60), 0)
    frame.paste(255, (35, 15, 65, 45))
    how = Preprocessing(16, "grey", crop=0.5, resize="box")
    assert (preprocess(encode(frame), how) == 255).all()
    whole = preprocess(encode(frame), Preprocessing(16, "grey", resize="box"))
    assert abs(whole.mean() - 255 / 4) < 2


def test_grey_and_colour_channels() -> None:
    red = Image.new("RGB", (32, 32), (255, 0, 0))
    assert preprocess(encode(red), Preprocessing(16, "grey")).shape == (1, 16, 16)
    assert (preprocess(encode(red), Preprocessing(16, "grey")) == 76).all()  # ITU-R 601: 0.299 x 255
    assert preprocess(encode(red), Preprocessing(16, "rgb"))[:, 0, 0].tolist() == [255, 0, 0]


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match=r"size is .*; it must be from 16 to 1024"):
        Preprocessing(8, "grey")
    with pytest.raises(ConfigError, match=r"crop is .*; it must be above 0 and at most 1"):
        Preprocessing(32, "grey", crop=0)
    with pytest.raises(ConfigError, match=r"crop is 0\.5 but align is arcface"):
        Preprocessing(32, "grey", crop=0.5, align="arcface")


def scene(width: int, height: int) -> Image.Image:
    """A smooth picture with no symmetry."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [np.sin(x / 9 + c) + np.cos(y / (7 + c)) + np.sin((x + 2 * y) / 23) for c in range(3)]
    return Image.fromarray((np.stack(channels, -1) * 40 + 128).astype(np.uint8))


def umeyama(from_52: np.ndarray, to_52: np.ndarray) -> np.ndarray:
    """The 2x3 matrix of the best similarity, by singular values as in Umeyama (1991)."""
    middle_from, middle_to = from_52.mean(0), to_52.mean(0)
    u, d, vt = np.linalg.svd((to_52 - middle_to).T @ (from_52 - middle_from) / 5)
    sign = np.diag([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    turn = u @ sign @ vt * (d @ np.diag(sign)) / ((from_52 - middle_from) ** 2).sum(1).mean()
    return np.concatenate([turn, (middle_to - turn @ middle_from)[:, None]], 1)


def warped(picture: Image.Image, matrix: np.ndarray, size: int) -> np.ndarray:
    """Bilinear sampling, one pixel at a time; centres of pixels are at whole numbers."""
    pixels = np.asarray(picture).astype(float)
    back = np.linalg.inv(np.concatenate([matrix, [[0, 0, 1]]]))
    out = np.full((size, size, 3), np.nan)
    for y in range(size):
        for x in range(size):
            px, py, _ = back @ (x, y, 1)
            i, j = int(np.floor(px)), int(np.floor(py))
            if 0 <= i < picture.width - 1 and 0 <= j < picture.height - 1:
                a, b = px - i, py - j
                out[y, x] = (1 - b) * ((1 - a) * pixels[j, i] + a * pixels[j, i + 1])
                out[y, x] += b * ((1 - a) * pixels[j + 1, i] + a * pixels[j + 1, i + 1])
    return out


@pytest.mark.parametrize("seed", range(4))
def test_alignment_is_umeyama_and_bilinear_sampling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = scene(190, 170)
    template_52 = np.array(ARCFACE).reshape(5, 2)
    turn, scale = rng.uniform(-0.6, 0.6), rng.uniform(0.6, 1.4)
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    landmarks_52 = (template_52 - 56) @ rotation.T + (95, 85) + rng.normal(0, 2, (5, 2))
    found = preprocess(
        encode(picture), Preprocessing(112, "rgb", align="arcface"), landmarks_52.ravel().tolist()
    ).transpose(1, 2, 0)
    expected = warped(picture, umeyama(landmarks_52, template_52), 112)
    inside = np.isfinite(expected)
    assert inside.mean() > 0.5
    assert np.abs(found - expected)[inside].max() <= 1


def test_what_lies_on_the_template_stays() -> None:
    picture = scene(112, 112)
    for resize in ("bilinear", "bicubic", "lanczos", "box"):
        out = preprocess(encode(picture), Preprocessing(112, "rgb", resize=resize, align="arcface"), ARCFACE)  # type: ignore[arg-type]
        assert np.abs(out.transpose(1, 2, 0).astype(int) - np.asarray(picture)).max() <= 1


@pytest.mark.parametrize("size", [48, 112, 160])
@pytest.mark.parametrize("scale", [0.7, 3.0, 9.0])
def test_landmarks_come_to_their_places_at_any_size(size: int, scale: float) -> None:
    """Five bright discs, one per landmark: each comes to lie at its place on the template."""
    side = int(130 * scale)
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    # The template turned by 90 degrees and scaled.
    landmarks = [(float(scale * (118 - py)), float(scale * (8 + px))) for px, py in np.array(ARCFACE).reshape(5, 2)]
    for number, (px, py) in enumerate(landmarks):
        disc = np.where((x - px) ** 2 + (y - py) ** 2 < (4 * scale) ** 2, 255, 0).astype(np.uint8)
        flat = [c for point in landmarks for c in point]
        out = preprocess(encode(Image.fromarray(disc)), Preprocessing(size, "grey", align="arcface"), flat)[0]
        weight = out.astype(float) / out.sum()
        rows, columns = np.indices(out.shape)
        centre = (columns * weight).sum(), (rows * weight).sum()
        expected = (np.array(ARCFACE[2 * number : 2 * number + 2]) + 0.5) * size / 112 - 0.5
        np.testing.assert_allclose(centre, expected, atol=0.35)


def test_alignment_does_not_alias() -> None:
    """A chequerboard of single pixels becomes grey when shrunk; plain sampling would draw stripes."""
    board = (np.indices((900, 900)).sum(0) % 2 * 255).astype(np.uint8)
    landmarks = (np.array(ARCFACE) * 7.9).tolist()
    out = preprocess(encode(Image.fromarray(board)), Preprocessing(112, "grey", align="arcface"), landmarks)
    assert abs(out.mean() - 127.5) < 3
    assert out.std() < 3


def test_landmarks_are_those_of_the_upright_picture() -> None:
    picture = scene(150, 130)
    landmarks = (np.array(ARCFACE) + 11).tolist()
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = encode(picture.transpose(Image.Transpose.ROTATE_90), exif=exif)
    how = Preprocessing(112, "rgb", align="arcface")
    expected = preprocess(encode(picture), how, landmarks)
    np.testing.assert_array_equal(preprocess(stored, how, landmarks), expected)
    plain = Preprocessing(112, "rgb")
    np.testing.assert_array_equal(preprocess(encode(picture), plain, landmarks), preprocess(encode(picture), plain))
    assert not np.array_equal(preprocess(encode(picture), plain), expected)


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (None, r"^no-landmarks: the model aligns faces \(arcface\)"),
        ([1.0] * 10, "^bad-landmarks: .* do not form a face"),
        ([1.0] * 9, "^bad-landmarks: .* 5 points were expected"),
        ([*ARCFACE[:9], float("nan")], "^bad-landmarks: .* 5 points were expected"),
        ([n * 1e6 for n in ARCFACE], "^bad-landmarks: .* do not form a face"),
    ],
)
def test_landmarks_that_cannot_be(landmarks: list[float] | None, message: str) -> None:
    with pytest.raises(ImageUnreadable, match=message):
        preprocess(encode(scene(50, 50)), Preprocessing(112, "rgb", align="arcface"), landmarks)
