"""Image bytes to a whole picture, upright, 8 bits per channel. Preparing it for a model is in ``preprocess``.

What a picture will cost is known from its header, before anything is decompressed: a file of 34 bytes can ask for
gigabytes, one of 30 KiB for minutes.
"""

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from metric_core.errors import ImageUnreadable
from metric_core.image.limits import ANY, DEFAULT, FORMATS, MEMORY, SCANS, Limits, Room

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

BAND = 250_000
"""Pixels of a large picture that are converted at a time, so that only the result is a second copy of it."""
SMALL, SMALL_FILE = 1 << 20, 1 << 12
"""Pixels of a JPEG whose scans need not be counted if its file has no more than so many bytes, as it has no more than
one scan for ten of them; a larger file must have fewer pixels. Counting costs more than all other checks together."""
STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes per pixel of Pillow's modes; all others have 4."""
DECODER = {"WEBP": 17, "AVIF": 10, "JPEG2000": 20}
"""Bytes per pixel that these decoders take at most, the result included, as measured; others take the result alone."""
UNSURE = (b"II", b"MM", b"\0\0\1\0", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
"""First bytes of TIFF, ICO and JPEG 2000, whose headers do not bound what decoding costs; AVIF has ftyp at byte 4."""


class Costly(Exception):
    """Decoding the picture may take more than the given ``Room``, though it is within all limits."""


def decode(data: bytes, limits: Limits = DEFAULT, room: Room = ANY) -> Image.Image:
    """A whole picture, upright, 8 bits per channel, mode L or RGB.

    Raises:
        ImageUnreadable: its message starts with a reason code (empty, not-an-image, too-large, too-many-scans,
            truncated, corrupt, unsupported) and a colon.
        Costly: it may take more than ``room``; nothing was decompressed.
    """
    if not data:
        raise ImageUnreadable("empty: 0 bytes")
    if len(data) > limits.max_bytes:
        raise ImageUnreadable(f"too-large: {len(data)} bytes, at most {limits.max_bytes}")
    if room is not ANY and (len(data) > room.file or data.startswith(UNSURE) or data[4:8] == b"ftyp"):
        raise Costly
    # Pillow warns about metadata that it skips, such as broken EXIF; only pixels matter here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _decoded(data, limits, room)
        except (ImageUnreadable, Costly, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            raise ImageUnreadable(f"too-large: {error}") from error
        except UnidentifiedImageError as error:
            raise ImageUnreadable(
                f"not-an-image: the first bytes are {data[:8]!r}; expected one of {', '.join(FORMATS)}"
            ) from error
        except OSError as error:
            code = "truncated" if "truncated" in str(error) else "corrupt"
            raise ImageUnreadable(f"{code}: {error}") from error
        except Exception as error:  # Pillow's parsers can raise anything, such as struct.error
            raise ImageUnreadable(f"corrupt: {type(error).__name__}: {error}") from error


def _decoded(data: bytes, limits: Limits, room: Room) -> Image.Image:
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":  # Pillow's reader allocates the whole canvas when it opens
        _check(*_webp_size(data), DECODER["WEBP"], len(data), limits, room)
    picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    scans, coefficients = _scans(picture, data)
    if scans > SCANS:
        raise ImageUnreadable(f"too-many-scans: {scans} scans in a JPEG, at most {SCANS}")
    stored, grey = STORED.get(picture.mode, 4), picture.mode[0] in "1LI"
    final = 1 if grey else 4
    peak = max(
        DECODER.get(picture.format or "", stored + coefficients),
        stored + (0 if picture.mode in ("L", "RGB") else final),
        5,  # RGB and, beside it, the same in grey
    )
    _check(*picture.size, peak, len(data), limits, room, scans)
    picture.load()
    turn = _turn(picture)
    if turn is not None:
        _check(*picture.size, 2 * final, len(data), limits, room)
    picture = _eight_bit(picture)
    return picture if turn is None else picture.transpose(turn)


def _check(width: int, height: int, per_pixel: float, file: int, limits: Limits, room: Room, scans: int = 1) -> None:
    """Raises ImageUnreadable if a picture is too large, Costly if it is too large for ``room``."""
    pixels = width * height
    if pixels > limits.max_pixels:
        raise ImageUnreadable(f"too-large: {width}x{height} pixels, at most {limits.max_pixels}")
    memory = int(pixels * per_pixel) + file
    if memory > MEMORY:
        raise ImageUnreadable(
            f"too-large: decoding {width}x{height} pixels in this format takes {memory // 10**6} MB, at most "
            f"{MEMORY // 10**6}; save it smaller"
        )
    if memory > room.memory or pixels > room.pixels or pixels * scans > room.work:
        raise Costly


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP, from its first chunk (RFC 9649, sec. 2.5 to 2.7)."""
    kind, head = data[12:16], data[20:30]
    if len(head) == 10 and kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if len(head) == 10 and kind == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    if len(head) >= 5 and kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise ImageUnreadable(f"corrupt: a WebP whose first chunk is {kind!r}")


def _scans(picture: Image.Image, data: bytes) -> tuple[int, float]:
    """The number of scans of a JPEG, and the bytes per pixel for the coefficients that its decoder keeps if there are
    several; 1 and 0 for other formats, and for what is too small for either to matter."""
    pixels = picture.width * picture.height
    if picture.format not in ("JPEG", "MPO") or pixels * max(SMALL_FILE, len(data)) <= SMALL_FILE * SMALL:
        return 1, 0
    scans = data.count(b"\xff\xda")  # also in embedded previews, so that this is at least the number
    if scans > SCANS:
        scans = _scans_of_first(data)
    if scans <= 1 and "progressive" not in picture.info:
        return scans, 0
    layers: Any = picture.layer  # type: ignore[attr-defined]  # (id, horizontal and vertical sampling, table)
    whole = max(h for _, h, _, _ in layers) * max(v for _, _, v, _ in layers)
    return scans, 2 * sum(h * v for _, h, v, _ in layers) / whole


def _scans_of_first(data: bytes) -> int:
    """The number of scans of the first JPEG in a file, without those in its application segments."""
    at, scans = 2, 0
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xD9:
            break
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # no segment: stuffing, fill, restart, start
            at += 1 if marker == 0xFF else 2
            continue
        scans += marker == 0xDA
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return scans


def _turn(picture: Image.Image) -> Image.Transpose | None:
    # Not Pillow's exif_transpose, which also rewrites the EXIF and fails if it cannot.
    try:
        return UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  # unreadable EXIF gives no orientation; the pixels are fine
        return None


def _eight_bit(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ImageUnreadable("unsupported: floating-point pixels, which have no agreed value for white")
    if picture.mode.startswith("I"):
        return _by_bands(picture, "L", _from_16_bit)
    if picture.has_transparency_data:
        return _by_bands(picture, "RGB", _over_grey)
    if picture.mode in ("L", "RGB"):
        return picture
    mode = "L" if picture.mode == "1" else "RGB"
    return _by_bands(picture, mode, lambda band: band.convert(mode))


def _by_bands(picture: Image.Image, mode: str, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The picture after a change of each pixel by itself."""
    rows = max(1, BAND // picture.width)
    if rows >= picture.height:
        return change(picture)
    out = Image.new(mode, picture.size)
    for top in range(0, picture.height, rows):
        out.paste(change(picture.crop((0, top, picture.width, min(top + rows, picture.height)))), (0, top))
    return out


def _from_16_bit(picture: Image.Image) -> Image.Image:
    # 16-bit PNG, TIFF and PGM arrive as 0..65535; Pillow's own conversion would clip them to white.
    return Image.fromarray(np.rint(np.clip(np.asarray(picture), 0, 65535) / 257).astype(np.uint8))


def _over_grey(picture: Image.Image) -> Image.Image:
    layered = picture.convert("RGBA")
    ground = Image.new("RGBA", layered.size, (128, 128, 128, 255))
    return Image.alpha_composite(ground, layered).convert("RGB")
