"""Image bytes to the pixels a model sees: one function for training, embedding, search and verification.

Where the bytes come from is left to ``data.readers``; scaling pixels to floats is the embedder's first operation.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from metric_core import align
from metric_core.errors import ImageUnreadable

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are unpacked: a few kilobytes can claim gigabytes."""

DECODER_RULE = "pillow/1: exif orientation applied; 16-bit scaled to 8; alpha over mid-grey; first frame"
"""Travels in the model: a change of any of these changes embeddings, hence the fingerprint."""

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture is turned by its EXIF orientation (EXIF 2.32, sec. 4.6.4); 1 is upright."""

ARCFACE = (38.2946, 51.6963, 73.5318, 51.5014, 56.0252, 71.7366, 41.5493, 92.3655, 70.7299, 92.2041)
"""Where the eyes, the nose and the corners of the mouth lie in an aligned picture of 112x112: x1, y1 … x5, y5, left to
right as one sees them, the centre of the first pixel being 0, 0 (insightface ``utils/face_align.py``)."""


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes ``(channels, size, size)`` bytes; part of the model's fingerprint."""

    size: int
    """Side of the square the network sees, in pixels, 16 to 1024."""
    colour: Literal["grey", "rgb"]
    """grey: one channel, ITU-R 601 luma; rgb: three."""
    crop: float = 1.0
    """Side of the central square that is kept, as a share of the picture's shorter side, in (0, 1]."""
    resize: Literal["box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """Pillow's filter; all of them are antialiased when shrinking."""
    align: Literal["none", "mean-face", "arcface"] = "none"
    """mean-face: turn, scale and shift the picture until it looks most like the mean face of the training pictures;
    arcface: until its landmarks lie on ArcFace's template, which needs landmarks."""
    mean_face: str = ""
    """What mean-face goes by: ``align.to_text`` of the training pictures' mean."""

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024:
            raise ValueError(f"image size must be 16 to 1024 pixels, got {self.size}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must lie in (0, 1], got {self.crop}")
        if self.align == "arcface" and self.crop != 1:
            raise ValueError(f"crop is {self.crop} and align arcface; its template decides what is kept, so leave crop")
        if self.align == "mean-face":
            align.from_text(self.mean_face)
        elif self.mean_face:
            raise ValueError(f"align is {self.align}, which goes by no mean face, but one is given")

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 1 if self.colour == "grey" else 3


def decode(data: bytes) -> Image.Image:
    """A whole picture, upright, 8 bits a channel, mode L or RGB.

    Raises:
        ImageUnreadable: with a reason code (empty, not-an-image, too-large, truncated, corrupt,
            unsupported) before the colon.
    """
    if not data:
        raise ImageUnreadable("empty: 0 bytes")
    # Pillow warns about metadata that it skips (broken EXIF, say); only pixels matter here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = Image.open(io.BytesIO(data))
            if picture.width * picture.height > MAX_PIXELS:
                raise ImageUnreadable(f"too-large: {picture.width}x{picture.height} pixels, at most {MAX_PIXELS}")
            picture.load()
            return _eight_bit(_upright(picture))
        except (ImageUnreadable, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            raise ImageUnreadable(f"too-large: {error}") from error
        except UnidentifiedImageError as error:
            raise ImageUnreadable(f"not-an-image: the first bytes are {data[:8]!r}") from error
        except OSError as error:
            code = "truncated" if "truncated" in str(error) else "corrupt"
            raise ImageUnreadable(f"{code}: {error}") from error
        except Exception as error:  # Pillow's parsers let anything escape, struct.error for one
            raise ImageUnreadable(f"corrupt: {type(error).__name__}: {error}") from error


def preprocess(data: bytes, how: Preprocessing, landmarks: Sequence[float] | None = None) -> np.ndarray:
    """Image bytes to what the network is fed.

    Args:
        data: an image file's bytes.
        how: the model's way.
        landmarks: x1, y1 … x5, y5 as in ``ARCFACE``, in pixels of the upright picture; only looked at to align.

    Returns:
        uint8 (C, S, S), C = ``how.channels``, S = ``how.size``.

    Raises:
        ImageUnreadable: as ``decode``; or no-landmarks, bad-landmarks when the model aligns.
    """
    if how.align == "arcface" and landmarks is None:
        raise ImageUnreadable("no-landmarks: the model aligns faces (arcface) by landmarks in the catalogue")
    picture = decode(data).convert("L" if how.colour == "grey" else "RGB")
    if how.align == "arcface" and landmarks is not None:
        picture = _by_landmarks(picture, landmarks, how)
    elif how.align == "mean-face":
        picture = _by_mean_face(picture, how)
    else:
        picture = picture.resize((how.size, how.size), FILTERS[how.resize], box=_square(picture, how.crop))
    pixels = np.asarray(picture, dtype=np.uint8)
    return np.ascontiguousarray(pixels.reshape(how.size, how.size, how.channels).transpose(2, 0, 1))


def small(picture: Image.Image) -> np.ndarray:
    """The central square as ``align`` compares it: uint8 (S, S), grey."""
    side = (align.SIDE, align.SIDE)
    return np.asarray(picture.convert("L").resize(side, Image.Resampling.BILINEAR, box=_square(picture, 1.0)))


def _square(picture: Image.Image, share: float) -> tuple[float, float, float, float]:
    """The central square of a share of the shorter side: left, top, right, bottom."""
    side = share * min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    return left, top, left + side, top + side


def _by_mean_face(picture: Image.Image, how: Preprocessing) -> Image.Image:
    """The central square in the pose in which it looks most like the mean face."""
    (pose,) = align.find(small(picture)[None], align.from_text(how.mean_face))
    half = min(picture.size) / 2
    centre = complex(picture.width, picture.height) / 2 + pose.shift * half
    return _transformed(picture, pose.turn * (how.crop * 2 * half / how.size), centre, how, mirrored=True)


def _by_landmarks(picture: Image.Image, landmarks: Sequence[float], how: Preprocessing) -> Image.Image:
    """In the similarity transform that brings the landmarks nearest to the template."""
    if len(landmarks) != 10 or not np.isfinite(landmarks).all():
        raise ImageUnreadable(f"bad-landmarks: {list(landmarks)[:11]}; x and y of 5 points were expected")
    # Points as complex numbers, for which a similarity is z -> turn * z + shift. The least-squares one is Umeyama's
    # (1991, eqs. 40-42) without its reflections. Half a pixel is added since Pillow counts from pixels' corners.
    from_5 = np.array(landmarks[0::2]) + 1j * np.array(landmarks[1::2]) + (0.5 + 0.5j)
    to_5 = (np.array(ARCFACE[0::2]) + 1j * np.array(ARCFACE[1::2]) + (0.5 + 0.5j)) * (how.size / 112)
    spread_5 = from_5 - from_5.mean()
    turn = (spread_5.conj() * (to_5 - to_5.mean())).sum() / max((abs(spread_5) ** 2).sum(), 1e-9)
    if not 1e-3 < abs(turn) < 1e3:
        raise ImageUnreadable(f"bad-landmarks: {list(landmarks)}; they are no face's")
    middle = (1 + 1j) * how.size / 2
    return _transformed(picture, 1 / turn, from_5.mean() + (middle - to_5.mean()) / turn, how)


def _transformed(
    picture: Image.Image, turn: complex, centre: complex, how: Preprocessing, *, mirrored: bool = False
) -> Image.Image:
    """A square of which a step of one pixel is a step of ``turn`` in the picture, and whose middle is at ``centre``
    there. Beyond the picture it is black or, for a quarter of the shorter side, its own mirror image."""
    # An affine transform looks at 2x2 or 4x4 pixels whatever it shrinks by, so what shrinks more is shrunk before.
    factor = max(1, int(abs(turn)))
    if factor > 1:
        picture, turn, centre = picture.reduce(factor), turn / factor, centre / factor
    if mirrored:
        rim = min(picture.size) // 4
        pixels = np.asarray(picture)
        picture = Image.fromarray(np.pad(pixels, [(rim, rim), (rim, rim), (0, 0)][: pixels.ndim], mode="reflect"))
        centre += rim * (1 + 1j)
    shift = centre - turn * (1 + 1j) * how.size / 2
    affine = (turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag)
    smooth = how.resize in ("bicubic", "lanczos")
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.BILINEAR
    return picture.transform((how.size, how.size), Image.Transform.AFFINE, affine, resample)


def _upright(picture: Image.Image) -> Image.Image:
    # Not Pillow's exif_transpose, which also writes the EXIF anew, and fails where that cannot be done.
    try:
        turn = UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  # unreadable EXIF says nothing about orientation; the pixels are fine
        return picture
    return picture if turn is None else picture.transpose(turn)


def _eight_bit(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ImageUnreadable("unsupported: floating-point pixels have no agreed white")
    if picture.mode.startswith("I"):
        # 16-bit PNG, TIFF and PGM arrive as 0..65535; Pillow's own conversion would clip them to white.
        return Image.fromarray(np.rint(np.clip(np.asarray(picture), 0, 65535) / 257).astype(np.uint8))
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        ground = Image.new("RGBA", layered.size, (128, 128, 128, 255))
        return Image.alpha_composite(ground, layered).convert("RGB")
    return picture if picture.mode in ("L", "RGB") else picture.convert("L" if picture.mode == "1" else "RGB")
