"""Options of how pictures are prepared for a model and how training varies them; imports nothing heavy.

What the options do is in ``preprocess`` and ``augment``.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Literal

from metric_core.options import Options, out_of_range

DECODER_RULE = "pillow/1: exif orientation applied; 16-bit scaled to 8; alpha over mid-grey; first frame"
"""Stored in the model: a change of any of these rules changes embeddings, so it must change the fingerprint."""

SIZES, CROPS = "[16, 1024]", "(0, 1]"
"""Allowed values of ``size``, in pixels, and of ``crop``, as a share."""

MEAN_FACE_SIDE = 32
"""Side of the mean face used for alignment, in pixels."""


def mean_face_pixels(text: str) -> bytes:
    """The grey pixels of a mean face, row by row, from the base64 in a model's JSON.

    Raises ValueError when it is not base64 of that many pixels.
    """
    try:
        pixels = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"it is not base64 ({error})") from error
    if len(pixels) != MEAN_FACE_SIDE**2:
        raise ValueError(f"it has {len(pixels)} pixels; {MEAN_FACE_SIDE} x {MEAN_FACE_SIDE} were expected")
    return pixels


BLANK_MEAN_FACE = base64.b64encode(bytes(MEAN_FACE_SIDE**2)).decode()
"""Used in place of the mean face while options are checked, because it is learnt only when training starts."""


@dataclass(frozen=True)
class Preprocessing(Options):
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

    def problems(self) -> list[str]:
        problems = out_of_range(self, size=SIZES, crop=CROPS)
        if self.align == "arcface" and self.crop != 1:
            problems.append(
                f"crop is {self.crop} but align is arcface, whose template determines what is kept; omit crop"
            )
        if self.align == "mean-face":
            try:
                mean_face_pixels(self.mean_face)
            except ValueError as error:
                problems.append(f"mean_face is not usable: {error}")
        elif self.mean_face:
            problems.append(f"mean_face is set but align is {self.align}, which does not use it; omit mean_face")
        return problems

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 1 if self.colour == "grey" else 3


@dataclass(frozen=True)
class Augmentation(Options):
    """How far a picture may be changed; 0 switches a change off."""

    flip: float = 0.5
    """Probability of mirroring left and right."""
    rotate: float = 10.0
    """Largest rotation in either direction, in degrees, 0 to 45."""
    scale: float = 0.1
    """Largest relative change of scale."""
    shift: float = 0.06
    """Largest shift along either axis, as a share of the side."""
    light: float = 0.25
    """Largest relative change of brightness and of contrast."""
    erase: float = 0.3
    """Probability of blanking a rectangle of up to 40 % of the side."""

    def problems(self) -> list[str]:
        share = "[0, 1]"
        return out_of_range(self, flip=share, rotate="[0, 45]", scale=share, shift=share, light=share, erase=share)
