"""Image bytes to the pixels that a model gets: one function for training, embedding, search and verification.

Reading the bytes is in ``sources``; scaling pixels to floats is the embedder's first operation. What costs much, or in
a format whose header does not say what it costs, is done in a process of its own, see ``apart``.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from metric_core.errors import ImageUnreadable
from metric_core.image import align, apart
from metric_core.image.decoding import Costly, decode
from metric_core.image.limits import ANY, DEFAULT, HERE, Limits, Room
from metric_core.image.spec import BLANK_MEAN_FACE, Preprocessing

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

LARGE = 4_000_000
"""Pixels of a picture of which only the part in use is mirrored: the mirror images take several times its memory."""

ARCFACE = (38.2946, 51.6963, 73.5318, 51.5014, 56.0252, 71.7366, 41.5493, 92.3655, 70.7299, 92.2041)
"""Positions of the eyes, the nose and the corners of the mouth in an aligned picture of 112x112 pixels: x1, y1 … x5,
y5, left before right as seen in the picture; (0, 0) is the centre of the first pixel (insightface
``utils/face_align.py``)."""


def preprocess(
    data: bytes,
    how: Preprocessing,
    landmarks: Sequence[float] | None = None,
    limits: Limits = DEFAULT,
    *,
    careful: bool = False,
) -> np.ndarray:
    """Image bytes to the network's input.

    Args:
        data: an image file's bytes.
        how: the model's preprocessing.
        landmarks: x1, y1 … x5, y5 as in ``ARCFACE``, in pixels of the upright picture; used only to align by arcface.
        limits: of pictures that are read.
        careful: do not decode in this process, whatever the picture's header says.

    Returns:
        uint8 (C, S, S), C = ``how.channels``, S = ``how.size``.

    Raises:
        ImageUnreadable: as ``decode``; also with the codes no-landmarks and bad-landmarks when aligning by arcface, and
            as ``apart.call``.
    """
    if how.align == "arcface" and landmarks is None:
        raise ImageUnreadable("no-landmarks: the model aligns faces (arcface) by landmarks in the catalogue")
    if not careful:
        try:
            return _input(data, how, landmarks, limits, HERE)
        except Costly:
            pass
    points = None if landmarks is None else [float(number) for number in landmarks]
    return apart.call({"how": asdict(how), "landmarks": points, "limits": asdict(limits)}, data)


def shrunk(data: bytes, side: int, limits: Limits = DEFAULT) -> np.ndarray:
    """A whole picture to look at, scaled down to fit into a square of ``side``: uint8 (H, W, 3).

    Raises:
        ImageUnreadable: as ``preprocess``.
    """
    try:
        return _shrunk(data, side, limits, HERE)
    except Costly:
        return apart.call({"side": side, "limits": asdict(limits)}, data)


def small(data: bytes, limits: Limits = DEFAULT) -> np.ndarray:
    """``thumbnail`` of an image's bytes. Raises ImageUnreadable as ``preprocess``."""
    try:
        return thumbnail(decode(data, limits, HERE))
    except Costly:
        return apart.call({"limits": asdict(limits)}, data)


def answer(request: dict[str, Any], data: bytes) -> np.ndarray:
    """What ``preprocess``, ``shrunk`` and ``small`` ask of a process of its own. Raises ImageUnreadable."""
    limits = Limits(**request["limits"])
    if "how" in request:
        return _input(data, Preprocessing(**request["how"]), request["landmarks"], limits, ANY)
    return _shrunk(data, request["side"], limits, ANY) if "side" in request else thumbnail(decode(data, limits, ANY))


def warm() -> None:
    """Load and allocate what all pictures share, so that it does not count as the first one's."""
    Image.init()
    Image.core.set_block_size(1 << 20)  # type: ignore[attr-defined]  # Pillow's blocks of 16 MiB are hardly ever full
    how = Preprocessing(16, "rgb", align="mean-face", mean_face=BLANK_MEAN_FACE)
    _input(b"P5 9 9 255\n" + bytes(81), how, None, DEFAULT, ANY)


def _input(
    data: bytes, how: Preprocessing, landmarks: Sequence[float] | None, limits: Limits, room: Room
) -> np.ndarray:
    picture = _in_mode(decode(data, limits, room), "L" if how.colour == "grey" else "RGB")
    if how.align == "arcface" and landmarks is not None:
        picture = _by_landmarks(picture, landmarks, how)
    elif how.align == "mean-face":
        picture = _by_mean_face(picture, how)
    else:
        picture = picture.resize((how.size, how.size), FILTERS[how.resize], box=_square(picture, how.crop))
    pixels = np.asarray(picture, dtype=np.uint8)
    return np.ascontiguousarray(pixels.reshape(how.size, how.size, how.channels).transpose(2, 0, 1))


def _shrunk(data: bytes, side: int, limits: Limits, room: Room) -> np.ndarray:
    picture = decode(data, limits, room)
    picture.thumbnail((side, side))
    return np.array(picture.convert("RGB"))


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    return picture if picture.mode == mode else picture.convert(mode)  # convert would copy it


def thumbnail(picture: Image.Image) -> np.ndarray:
    """The central square in the form that ``align`` compares: uint8 (S, S), grey."""
    side = (align.SIDE, align.SIDE)
    return np.asarray(picture.convert("L").resize(side, Image.Resampling.BILINEAR, box=_square(picture, 1.0)))


def _square(picture: Image.Image, share: float) -> tuple[float, float, float, float]:
    """The central square whose side is ``share`` of the shorter side: left, top, right, bottom, in pixels."""
    side = share * min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    return left, top, left + side, top + side


def _by_mean_face(picture: Image.Image, how: Preprocessing) -> Image.Image:
    """The central square, transformed to the pose that looks most like the mean face."""
    (pose,) = align.find(thumbnail(picture)[None], align.from_text(how.mean_face))
    half = min(picture.size) / 2
    centre = complex(picture.width, picture.height) / 2 + pose.shift * half
    return _transformed(picture, pose.turn * (how.crop * 2 * half / how.size), centre, how, mirrored=True)


def _by_landmarks(picture: Image.Image, landmarks: Sequence[float], how: Preprocessing) -> Image.Image:
    """The picture under the similarity transform that brings the landmarks nearest to the template."""
    if len(landmarks) != 10 or not np.isfinite(landmarks).all():
        raise ImageUnreadable(f"bad-landmarks: {list(landmarks)[:11]}; x and y of 5 points were expected")
    # Points are complex numbers; a similarity is z -> turn * z + shift. The least-squares one is Umeyama's (1991,
    # eqs. 40-42) without reflections. Half a pixel is added because Pillow's (0, 0) is the corner of the first pixel.
    from_5 = np.array(landmarks[0::2]) + 1j * np.array(landmarks[1::2]) + (0.5 + 0.5j)
    to_5 = (np.array(ARCFACE[0::2]) + 1j * np.array(ARCFACE[1::2]) + (0.5 + 0.5j)) * (how.size / 112)
    spread_5 = from_5 - from_5.mean()
    turn = (spread_5.conj() * (to_5 - to_5.mean())).sum() / max((abs(spread_5) ** 2).sum(), 1e-9)
    if not 1e-3 < abs(turn) < 1e3:
        raise ImageUnreadable(f"bad-landmarks: {list(landmarks)}; they do not form a face")
    middle = (1 + 1j) * how.size / 2
    return _transformed(picture, 1 / turn, from_5.mean() + (middle - to_5.mean()) / turn, how)


def _transformed(
    picture: Image.Image, turn: complex, centre: complex, how: Preprocessing, *, mirrored: bool = False
) -> Image.Image:
    """A square cut from the picture: its centre is at ``centre``, and one of its pixels is a step of ``turn``, both in
    pixels of the picture. Outside the picture it is black or, if ``mirrored``, a mirror image of the picture for up to
    a quarter of the shorter side."""
    # An affine transform reads 2x2 or 4x4 pixels whatever its scale, so larger reductions are done beforehand.
    factor = max(1, int(abs(turn)))
    if factor > 1:
        picture, turn, centre = picture.reduce(factor), turn / factor, centre / factor
    rim = min(picture.size) // 4
    if mirrored and picture.width * picture.height > LARGE:
        picture, centre, rim = _around(picture, centre, abs(turn) * how.size, rim)
    if mirrored:
        pixels = np.asarray(picture)
        picture = Image.fromarray(np.pad(pixels, [(rim, rim), (rim, rim), (0, 0)][: pixels.ndim], mode="reflect"))
        centre += rim * (1 + 1j)
    shift = centre - turn * (1 + 1j) * how.size / 2
    affine = (turn.real, -turn.imag, shift.real, turn.imag, turn.real, shift.imag)
    smooth = how.resize in ("bicubic", "lanczos")
    resample = Image.Resampling.BICUBIC if smooth else Image.Resampling.BILINEAR
    return picture.transform((how.size, how.size), Image.Transform.AFFINE, affine, resample)


def _around(picture: Image.Image, centre: complex, side: float, rim: int) -> tuple[Image.Image, complex, int]:
    """The part of a picture that a square of ``side`` around ``centre``, however it is turned, can touch; the centre in
    that part; and the rim of mirror images that it can touch, at most ``rim``."""
    reach = int(side) + 8
    box = (
        max(0, min(int(centre.real) - reach, picture.width - reach)),
        max(0, min(int(centre.imag) - reach, picture.height - reach)),
        min(picture.width, max(int(centre.real) + reach, reach)),
        min(picture.height, max(int(centre.imag) + reach, reach)),
    )
    return picture.crop(box), centre - complex(box[0], box[1]), min(rim, reach)
