"""Image bytes to a whole picture, upright, 8 bits per channel. Preparing it for a model is in ``preprocess``."""

import io
import warnings

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from metric_core.errors import ImageUnreadable

MAX_PIXELS = 100_000_000
"""Larger pictures are refused before they are decompressed, because a file of kilobytes can unpack to gigabytes."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a picture upright, by its EXIF orientation (EXIF 2.32, sec. 4.6.4); 1 is upright already."""


def decode(data: bytes) -> Image.Image:
    """A whole picture, upright, 8 bits per channel, mode L or RGB.

    Raises:
        ImageUnreadable: its message starts with a reason code (empty, not-an-image, too-large, truncated, corrupt,
            unsupported) and a colon.
    """
    if not data:
        raise ImageUnreadable("empty: 0 bytes")
    # Pillow warns about metadata that it skips, such as broken EXIF; only pixels matter here.
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
        except Exception as error:  # Pillow's parsers can raise anything, such as struct.error
            raise ImageUnreadable(f"corrupt: {type(error).__name__}: {error}") from error


def _upright(picture: Image.Image) -> Image.Image:
    # Not Pillow's exif_transpose, which also rewrites the EXIF and fails if it cannot.
    try:
        turn = UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  # unreadable EXIF gives no orientation; the pixels are fine
        return picture
    return picture if turn is None else picture.transpose(turn)


def _eight_bit(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ImageUnreadable("unsupported: floating-point pixels, which have no agreed value for white")
    if picture.mode.startswith("I"):
        # 16-bit PNG, TIFF and PGM arrive as 0..65535; Pillow's own conversion would clip them to white.
        return Image.fromarray(np.rint(np.clip(np.asarray(picture), 0, 65535) / 257).astype(np.uint8))
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        ground = Image.new("RGBA", layered.size, (128, 128, 128, 255))
        return Image.alpha_composite(ground, layered).convert("RGB")
    return picture if picture.mode in ("L", "RGB") else picture.convert("L" if picture.mode == "1" else "RGB")
