"""Alignment without landmarks: a picture is rotated, scaled and shifted until it looks most like the mean face.

The mean face is learnt from pictures of roughly centred faces, by repeatedly aligning them to their own mean
("congealing": Learned-Miller, PAMI 28, 2006; for faces Huang, Jain and Learned-Miller, ICCV 2007; here by correlation).
Transforming whole pictures by the pose that was found is in ``preprocess``.
"""

# S: side of the small pictures that are compared. V: side of the template's window. T: poses. N: pictures.

import base64
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import ndimage

from metric_core.image.spec import MEAN_FACE_SIDE, mean_face_pixels

SIDE = MEAN_FACE_SIDE
"""S: side of the small grey pictures that are compared, in pixels."""
WINDOW = 22
"""V: side of the template's central window, in pixels, which is compared with every position in the picture."""
SCALES = (0.88, 0.94, 1.0, 1.06, 1.12)
TURNS = (-12.0, -6.0, 0.0, 6.0, 12.0)
"""Rotations that are tried, in degrees."""
ROUNDS = 4
"""Rounds of aligning and averaging; the mean does not change visibly after the third."""

_NEIGHBOURHOOD = 9  # side of the square whose mean and deviation normalise a pixel, in pixels: about an eye
_NOISE = 5.0  # standard deviation below which a neighbourhood counts as flat; pixels are 0 to 255
# Penalties, in units of correlation, for poses far from the picture's own: a half-hidden face matches best at random.
_PER_PIXEL2, _PER_LOG_SCALE, _PER_DEGREE = 6e-4, 0.1, 1e-3


@dataclass(frozen=True)
class Pose:
    """A similarity transform: point z of the aligned picture is point ``turn``·z + ``shift`` of the given one.

    Points are complex numbers x + iy, y downwards; a picture's edges are at -1 and 1.
    """

    turn: complex
    """Rotation and scale; its absolute value is below 1 if the face is too small."""
    shift: complex
    """Where the aligned picture's centre lies in the given picture."""


def learn(small_NSS: np.ndarray) -> np.ndarray:
    """The mean face of some pictures.

    Args:
        small_NSS: uint8 (N, S, S), grey; a thousand are enough.

    Returns:
        uint8 (S, S): the template.

    Raises:
        ValueError: N is 0.
    """
    if not len(small_NSS):
        raise ValueError("found no pictures; a mean face needs at least one")
    template_SS = _bytes(_normalised(small_NSS).mean(0))
    for _ in range(ROUNDS):
        moved = [_moved(one_SS, pose) for one_SS, pose in zip(small_NSS, find(small_NSS, template_SS))]
        template_SS = _bytes(_normalised(np.stack(moved)).mean(0))
    return template_SS


def to_text(template_SS: np.ndarray) -> str:
    """A template, uint8 (S, S), as base64, the form in which a model's JSON holds it."""
    return base64.b64encode(template_SS.tobytes()).decode()


def from_text(text: str) -> np.ndarray:
    """The inverse of ``to_text``. Raises ValueError when the text is not such a template."""
    return np.frombuffer(mean_face_pixels(text), np.uint8).reshape(SIDE, SIDE)


def find(small_NSS: np.ndarray, template_SS: np.ndarray) -> list[Pose]:
    """For each picture, uint8 (N, S, S), the pose that correlates best with the template, uint8 (S, S)."""
    weight_VVT, turn_T, penalty_T = _bank(template_SS.tobytes())
    windows = np.lib.stride_tricks.sliding_window_view(_normalised(small_NSS), (WINDOW, WINDOW), axis=(1, 2))
    flat = np.ascontiguousarray(windows).reshape(-1, WINDOW * WINDOW)
    deviation = flat.std(1, keepdims=True) * WINDOW + 1e-6
    places = SIDE - WINDOW + 1
    score = ((flat @ weight_VVT) / deviation).reshape(len(small_NSS), places, places, len(turn_T))
    offset = np.arange(places) - (places - 1) / 2
    score -= penalty_T + _PER_PIXEL2 * (offset[:, None, None] ** 2 + offset[None, :, None] ** 2)
    best_N = score.reshape(len(small_NSS), -1).argmax(1)
    y_N, x_N, t_N = np.unravel_index(best_N, score.shape[1:])
    shift_N = (offset[x_N] + 1j * offset[y_N]) * (2 / SIDE)
    return [Pose(complex(turn_T[t]), complex(shift)) for t, shift in zip(t_N, shift_N)]


@lru_cache(maxsize=4)
def _bank(template: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The template's window in every pose, mean 0 and length 1, (V·V, T); the turns, (T,); their penalties, (T,)."""
    template_SS = np.frombuffer(template, np.uint8).reshape(SIDE, SIDE).astype(np.float32)
    rim = (SIDE - WINDOW) // 2
    views, turns, penalties = [], [], []
    for scale, degrees in product(SCALES, TURNS):
        turn = scale * np.exp(1j * np.radians(degrees))
        view = _moved(template_SS, Pose(1 / turn, 0))[rim : rim + WINDOW, rim : rim + WINDOW].ravel()
        view = view - view.mean()
        views.append(view / (np.linalg.norm(view) + 1e-6))
        turns.append(turn)
        penalties.append(_PER_LOG_SCALE * abs(np.log(scale)) + _PER_DEGREE * abs(degrees))
    return np.stack(views, 1), np.array(turns), np.array(penalties)


def _moved(picture_SS: np.ndarray, pose: Pose) -> np.ndarray:
    """The picture, (S, S), transformed so that the face at ``pose`` becomes aligned, float32 (S, S)."""
    middle = (SIDE - 1) / 2
    matrix = np.array([[pose.turn.real, pose.turn.imag], [-pose.turn.imag, pose.turn.real]])  # of (y, x)
    centre = np.array([pose.shift.imag, pose.shift.real]) * (SIDE / 2) + middle
    offset = centre - matrix @ [middle, middle]
    moved_SS: np.ndarray = ndimage.affine_transform(
        picture_SS.astype(np.float32), matrix, offset, order=1, mode="mirror"
    )
    return moved_SS


def _normalised(small_NSS: np.ndarray) -> np.ndarray:
    """float32 (N, S, S): each pixel minus its neighbourhood's mean, divided by its deviation, so that light cancels."""
    x_NSS = small_NSS.astype(np.float32)
    size = (1, _NEIGHBOURHOOD, _NEIGHBOURHOOD)
    x_NSS = x_NSS - ndimage.uniform_filter(x_NSS, size, mode="mirror")
    plain_NSS: np.ndarray = x_NSS / np.sqrt(ndimage.uniform_filter(x_NSS**2, size, mode="mirror") + _NOISE**2)
    return plain_NSS


def _bytes(mean_SS: np.ndarray) -> np.ndarray:
    """The values scaled to 0 to 255, uint8 (S, S)."""
    low, high = mean_SS.min(), mean_SS.max()
    bytes_SS: np.ndarray = np.rint((mean_SS - low) / max(high - low, 1e-6) * 255).astype(np.uint8)
    return bytes_SS
