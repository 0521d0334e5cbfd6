"""Every picture format that is read, as the embed job prepares it."""

from functools import partial
from pathlib import Path

import numpy as np
from fuzz import changes
from fuzz.case import Case, Change, Format
from PIL import Image
from support.hostile import HOW, encode, noise

from metric_core.image.preprocess import preprocess

SIDE = 24
KINDS: dict[str, tuple[bytes, int, tuple[bytes, ...]]] = {
    "JPEG": (
        b"\xff\xd8\xff",
        0,
        (b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xda", b"\xff\xdb", b"\xff\xe1", b"Exif"),
    ),
    "PNG": (b"\x89PNG", 0, (b"IHDR", b"PLTE", b"tRNS", b"IDAT")),
    "GIF": (b"GIF8", 0, (b"\x2c", b"\x21\xf9", b"GIF89a")),
    "BMP": (b"BM", 0, (b"BM", b"\x28\0\0\0")),
    "PPM": (b"P", 0, (b"P5", b"P6", b"P4", b"P2", b"\n")),
    "WEBP": (b"WEBP", 8, (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANMF")),
    "TIFF": (b"", 0, (b"II*\0", b"\x00\x01\x03\0", b"\x01\x01\x03\0", b"\x02\x01\x03\0", b"\x11\x01", b"\x17\x01")),
    "ICO": (b"\0\0\1\0", 0, (b"\0\0\1\0", b"IHDR", b"\x28\0\0\0")),
    "JPEG2000": (b"", 0, (b"\xff\x4f", b"\xff\x51", b"\xff\x52", b"\xff\x5c", b"\xff\x90", b"jp2h", b"ihdr", b"jp2c")),
    "AVIF": (b"ftyp", 4, (b"ftyp", b"meta", b"iloc", b"ispe", b"av1C", b"pixi", b"mdat", b"irot")),
}
"""Of each format, how its files begin and at which byte, and what begins structures in them."""


def _seeds(kind: str, folder: Path) -> dict[str, bytes]:
    rgb, grey = noise(SIDE, "RGB"), noise(SIDE, "L")
    alpha = noise(SIDE, "RGBA")
    wide = Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) * 99)
    turned = Image.Exif()
    turned[274] = 6
    made: dict[str, dict[str, tuple[Image.Image, dict[str, object]]]] = {
        "JPEG": {
            "rgb": (rgb, {"exif": turned}),
            "progressive": (grey, {"progressive": True}),
            "cmyk": (noise(SIDE, "CMYK"), {}),
        },
        "PNG": {"rgb": (rgb, {}), "alpha": (alpha, {}), "palette": (rgb.quantize(8), {}), "wide": (wide, {})},
        "GIF": {
            "one": (rgb.quantize(8), {}),
            "more": (rgb.quantize(8), {"save_all": True, "append_images": [grey.quantize(4)]}),
        },
        "BMP": {"rgb": (rgb, {}), "palette": (rgb.quantize(8), {}), "bits": (grey.convert("1"), {})},
        "PPM": {"rgb": (rgb, {}), "grey": (grey, {}), "bits": (grey.convert("1"), {}), "wide": (wide, {})},
        "WEBP": {"lossy": (rgb, {}), "lossless": (rgb, {"lossless": True}), "alpha": (alpha, {})},
        "TIFF": {
            "raw": (rgb, {}),
            "lzw": (grey, {"compression": "tiff_lzw"}),
            "jpeg": (rgb, {"compression": "jpeg"}),
            "deflate": (wide, {"compression": "tiff_adobe_deflate"}),
            "fax": (grey.convert("1"), {"compression": "group4"}),
        },
        "ICO": {"png": (alpha, {"sizes": [(16, 16)]}), "bmp": (alpha, {"sizes": [(16, 16)], "bitmap_format": "bmp"})},
        "JPEG2000": {"rgb": (rgb, {}), "raw": (grey, {"no_jp2": True}), "tiles": (rgb, {"tile_size": (16, 16)})},
        "AVIF": {"rgb": (rgb, {}), "alpha": (alpha, {})},
    }
    return {name: encode(picture, kind, **how) for name, (picture, how) in made[kind].items()}


def _read(case: Case, folder: Path) -> object:
    return preprocess(case.data, HOW)


def _begins(kind: str, case: Case) -> bool:
    if kind == "TIFF":
        return case.data[:4] in (b"II*\0", b"MM\0*", b"II+\0")
    if kind == "JPEG2000":
        return case.data[:4] == b"\xff\x4f\xff\x51" or case.data[4:8] == b"jP  "
    magic, at, _ = KINDS[kind]
    return case.data[at : at + len(magic)] == magic


def _changes(kind: str, name: str) -> list[Change]:
    return [changes.chunk, changes.near(KINDS[kind][2])] if kind == "PNG" else [changes.near(KINDS[kind][2])]


MODULES = tuple(f"metric_core/image/{name}.py" for name in ("decoding", "preprocess", "apart"))

FORMATS = [
    Format(
        kind.lower(),
        partial(_seeds, kind),
        _read,
        partial(_begins, kind),
        partial(_changes, kind),
        MODULES,
        magics=KINDS[kind][2],
    )
    for kind in KINDS
]
