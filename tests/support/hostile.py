"""Pictures that cost far more than their bytes, made with a few lines each."""

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from metric_core.errors import ImageUnreadable, LikenessError
from metric_core.image.preprocess import preprocess
from metric_core.image.spec import Preprocessing
from metric_core.sources import catalogue

FACE = base64.b64encode((np.arange(1024) % 251).astype(np.uint8).tobytes()).decode()
HOW = Preprocessing(64, "rgb", align="mean-face", mean_face=FACE)
READ = "(3, 64, 64)"
"""What ``prepared`` answers for a picture that can be read."""


def prepared(path: str | None) -> str:
    """What becomes of the picture in a file: the shape of its pixels, or why it has none. None: only warms up."""
    if path is None:
        preprocess(encode(Image.new("L", (9, 9)), "PNG"), HOW, careful=True)
        preprocess(encode(Image.new("L", (9, 9)), "WEBP"), HOW)
        return ""
    try:
        return str(preprocess(Path(path).read_bytes(), HOW).shape)
    except ImageUnreadable as error:
        return str(error)


def scanned(address: str | None) -> str:
    """How many faces a source has, or the message of the error."""
    if address is None:
        return ""
    try:
        return str(len(list(catalogue.scan(address).faces)))
    except LikenessError as error:
        return str(error)


def encode(picture: Image.Image, kind: str, **how: object) -> bytes:
    """The picture's file."""
    data = io.BytesIO()
    picture.save(data, kind, **how)  # type: ignore[arg-type]
    return data.getvalue()


def png(width: int, height: int, *, depth: int = 8, colour: int = 0, interlaced: bool = False) -> bytes:
    """A black PNG; kilobytes, whatever its size."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = zlib.compressobj(9)
    line = bytes(1 + (width * bits + 7) // 8)
    body = b"".join(rows.compress(line) for _ in range(height)) + rows.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    chunks = [(b"IHDR", head), *([(b"PLTE", bytes(768))] if colour == 3 else []), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def claimed_png(width: int, height: int) -> bytes:
    """A PNG that has nothing but a header."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"")


def chunky_png(count: int) -> bytes:
    """A small PNG with many chunks that mean nothing."""
    data = png(8, 8)
    return data[:33] + chunk(b"teSt", b"") * count + data[33:]


def webp(width: int, height: int) -> bytes:
    """A lossless WebP of one colour: 34 bytes."""
    bits = width - 1 | height - 1 << 14
    body = b"\x2f" + struct.pack("<I", bits) + bytes.fromhex("0788fd0f0800")
    body += bytes(len(body) % 2)
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG in which one scan is repeated."""
    data = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xda", first + 2)
    last = data.rindex(b"\xff\xda")
    end = data.rindex(b"\xff\xd9")
    return data[:second] + data[second:last] + data[last:end] * scans + data[end:]


def many_frames(count: int) -> bytes:
    """An animated GIF of one pixel."""
    frames = [Image.new("P", (1, 1), n % 2) for n in range(2)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=10)
    first = data.rindex(b"\x21\xf9")
    return data[:first] + data[first:-1] * count + data[-1:]


def noise(side: int, mode: str) -> Image.Image:
    """A picture of coarse noise."""
    channels = len(mode) if mode != "CMYK" else 4
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, channels), np.uint8)
    return Image.fromarray(pixels.squeeze(), mode).resize((side, side), Image.Resampling.NEAREST)


def turned(side: int) -> bytes:
    """A JPEG that lies on its side."""
    exif = Image.Exif()
    exif[274] = 6
    return encode(noise(side, "RGB"), "JPEG", exif=exif)


def truncated_ppm(width: int, height: int, most: int) -> bytes:
    """A PGM that ends after its header."""
    return f"P5 {width} {height} {most}\n".encode()


def tiled_tiff(side: int, tile: int) -> bytes:
    """A TIFF of one huge tile, LZW."""
    entries = [
        (256, 4, 1, side),
        (257, 4, 1, side),
        (258, 3, 1, 8),
        (259, 3, 1, 5),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
        (322, 4, 1, tile),
        (323, 4, 1, tile),
        (324, 4, 1, 8),
        (325, 4, 1, 16),
    ]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *one) for one in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 24) + bytes(16) + directory


def ico_with(picture: bytes) -> bytes:
    """An icon that says 16 x 16 and holds a PNG of another size."""
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n(/tmp/ran) (w) file closefile\nshowpage\n"
