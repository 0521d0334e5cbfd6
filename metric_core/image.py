"""Image bytes to the pixels a model sees: one function for training, embedding, search and verification.

Where the bytes come from is left to ``data.readers``; scaling pixels to floats is the embedder's first operation.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

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

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024:
            raise ValueError(f"image size must be 16 to 1024 pixels, got {self.size}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop must lie in (0, 1], got {self.crop}")

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
        except Image.DecompressionBombError as error:
            raise ImageUnreadable(f"too-large: {error}") from error
        except UnidentifiedImageError as error:
            raise ImageUnreadable(f"not-an-image: the first bytes are {data[:8]!r}") from error
        except OSError as error:
            code = "truncated" if "truncated" in str(error) else "corrupt"
            raise ImageUnreadable(f"{code}: {error}") from error
        except (ValueError, SyntaxError, IndexError, EOFError) as error:  # what Pillow's parsers let escape
            raise ImageUnreadable(f"corrupt: {error}") from error


def preprocess(data: bytes, how: Preprocessing) -> np.ndarray:
    """Image bytes to what the network is fed.

    Returns:
        uint8 (C, S, S), C = ``how.channels``, S = ``how.size``.

    Raises:
        ImageUnreadable: as ``decode``.
    """
    picture = decode(data).convert("L" if how.colour == "grey" else "RGB")
    side = how.crop * min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    picture = picture.resize((how.size, how.size), FILTERS[how.resize], box=(left, top, left + side, top + side))
    pixels = np.asarray(picture, dtype=np.uint8)
    return np.ascontiguousarray(pixels.reshape(how.size, how.size, how.channels).transpose(2, 0, 1))


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError):
        return picture  # unreadable EXIF says nothing about orientation; the pixels are fine


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
