"""Cartoon faces: the features of a person, the properties of a scene, and the polygons that show both.

Choosing people and scenes, and finishing the painted picture, is in ``drawn``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Array = np.ndarray
UNIT = 0.37  # half the height of a head, as a fraction of the picture's side
DEPTH = 0.8  # how far the face is in front of the head's middle plane, in half head heights


def _in(low: float, high: float) -> Any:
    """A float field that is drawn from [low, high]."""
    return dataclasses.field(metadata={"range": (low, high)})


@dataclasses.dataclass(frozen=True)
class Person:
    """The features that are the same in all of a person's pictures, each in the range given. Lengths are in half head
    heights, x points right and y down from the head's middle; a feature "above 0" is one that only some people have.
    """

    head_width: float = _in(0.64, 0.92)
    jaw: float = _in(1.4, 3.8)  # exponent of the lower head's superellipse: pointed to square
    chin: float = _in(0.82, 1.16)
    skin: float = _in(0.0, 1.0)  # position in the palette, as for the other colours
    blush: float = _in(0.0, 0.5)
    ear_size: float = _in(0.1, 0.36)
    ear_out: float = _in(-0.06, 0.18)
    eye_y: float = _in(-0.14, 0.12)
    eye_gap: float = _in(0.28, 0.43)  # from the face's middle line to an eye's middle
    eye_size: float = _in(0.13, 0.25)
    eye_round: float = _in(0.4, 0.9)  # height divided by width
    eye_tilt: float = _in(-0.5, 0.5)  # radians, outer corner up
    iris: float = _in(0.0, 1.0)
    brow_gap: float = _in(0.22, 0.34)  # above the eye's middle
    brow_width: float = _in(0.13, 0.28)
    brow_thick: float = _in(0.02, 0.17)
    brow_tilt: float = _in(-0.55, 0.55)
    nose_length: float = _in(0.24, 0.48)
    nose_width: float = _in(0.08, 0.3)
    nose_tip: float = _in(0.07, 0.19)
    mouth_gap: float = _in(0.17, 0.34)  # below the nose
    mouth_width: float = _in(0.15, 0.46)
    lips: float = _in(0.03, 0.17)  # thickness of the lower lip
    lip_colour: float = _in(0.0, 1.0)
    hair: float = _in(0.0, 1.0)
    hair_volume: float = _in(0.02, 0.36)
    hair_length: float = _in(-1.0, 1.0)  # above 0: how far it hangs down behind the head
    hair_curl: float = _in(0.0, 1.0)
    hairline: float = _in(-0.97, -0.56)
    hair_part: float = _in(-0.6, 0.6)
    hair_lift: float = _in(-0.35, 0.35)  # height of the notch, or depth of the lock, at the parting
    fringe: float = _in(-1.0, 1.0)  # above 0: how jagged the hairline is
    sideburn: float = _in(-0.25, 0.45)
    dye: float = _in(0.0, 1.0)  # colour of streak, knot, make-up and earrings
    shade: float = _in(-0.9, 0.9)  # above 0: strength of the make-up around the eyes
    streak: float = _in(-0.25, 0.25)  # above 0: half the width of a dyed lock
    knot: float = _in(-1.0, 1.0)  # above 0: size of a knot of hair on top
    beard: float = _in(-1.6, 0.8)  # above 0: how far it climbs the cheeks
    moustache: float = _in(-1.0, 1.0)  # above 0: how thick
    glasses: float = _in(-1.0, 1.0)  # above 0: how thick their frame is
    earrings: float = _in(-1.0, 1.0)  # above 0: how large
    freckles: float = _in(-1.0, 1.0)  # above 0: how many
    mole: float = _in(-0.06, 0.06)  # above 0: how large
    mole_x: float = _in(-0.5, 0.5)
    mole_y: float = _in(0.1, 0.7)


@dataclasses.dataclass(frozen=True)
class Scene:
    """The properties of a picture that do not depend on the person. Angles are in radians."""

    yaw: float = _in(-0.23, 0.23)
    pitch: float = _in(-0.1, 0.1)
    roll: float = _in(-0.16, 0.16)
    scale: float = _in(0.95, 1.05)
    shift_x: float = _in(-0.05, 0.05)  # fraction of the picture's side
    shift_y: float = _in(-0.02, 0.08)
    smile: float = _in(-0.03, 0.07)
    gape: float = _in(-0.12, 0.11)  # above 0: how far the mouth is open
    brows: float = _in(-0.03, 0.05)
    frown: float = _in(-0.08, 0.08)
    lids: float = _in(-0.4, 0.2)  # above 0: fraction of the eye that is shut
    blink: float = _in(0.0, 1.0)
    gaze_x: float = _in(-0.04, 0.04)
    gaze_y: float = _in(-0.02, 0.02)
    light_from: float = _in(-math.pi, math.pi)
    light_fall: float = _in(0.05, 0.30)
    light_gain: float = _in(-0.26, 0.2)  # natural logarithm, as for the next two
    light_warm: float = _in(-0.13, 0.13)
    light_green: float = _in(-0.05, 0.05)
    shadow: float = _in(-0.9, 0.25)  # above 0: darkness of a shadow over one side of the picture
    shadow_at: float = _in(-0.5, 0.5)
    bare: float = _in(0.0, 1.0)  # below 0.04: without glasses
    thing: float = _in(0.0, 1.0)  # which occlusion, see ``_occlude``; above 0.07 none
    thing_x: float = _in(-1.0, 1.0)
    thing_y: float = _in(-1.0, 1.0)
    thing_size: float = _in(0.0, 1.0)
    blur: float = _in(-1.0, 0.3)  # above 0: radius in pixels, in a picture 96 pixels wide
    noise: float = _in(0.0, 3.0)  # standard deviation; pixels are 0 to 255


# Palettes: (red, green, blue) from 0 to 255, at equally spaced positions from 0 to 1.
SKIN = np.array([(108, 70, 50), (150, 100, 72), (192, 138, 104), (224, 172, 138), (244, 204, 178)], float)
HAIR = np.array([(28, 24, 26), (66, 42, 30), (118, 72, 40), (166, 74, 36), (206, 162, 88), (168, 166, 166)], float)
IRIS = np.array([(60, 34, 18), (136, 86, 34), (96, 160, 72), (120, 190, 236)], float)
LIPS = np.array([(230, 156, 140), (206, 50, 56), (104, 20, 56)], float)
DYE = np.array([(40, 50, 150), (150, 60, 190), (50, 180, 170), (250, 140, 180), (250, 240, 220)], float)
DARK, WHITE, RED = np.array([38.0, 24, 24]), np.array([246.0, 244, 240]), np.array([196.0, 44, 50])

TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
COS, SIN = np.cos(TURN), np.sin(TURN)
ALONG = np.linspace(-1, 1, 13)  # from one end of a feature to the other
BOW = 1 - ALONG**2
AROUND = np.concatenate([ALONG, ALONG[::-1]])  # there and back: the x coordinates of a band's outline


def ink(colour: Array) -> tuple[int, ...]:
    """The colour, (3,) of any numbers, as Pillow expects it: integers from 0 to 255."""
    return tuple(min(max(int(c), 0), 255) for c in colour)


def paint_face(image: Image.Image, who: Person, scene: Scene, cloth: Array, thing: Array) -> None:
    """Paints a person on an image; ``cloth`` and ``thing``, each (3,), are the colours of clothes and occlusion."""
    pen = _Pen(who, scene, image)
    _back(pen, cloth)
    _marks(pen)
    _eye(pen, -1)
    _eye(pen, 1)
    _mouth(pen, _nose(pen))
    _hair(pen)
    _worn(pen)
    _occlude(pen, thing)


def _mix(palette: Array, place: float) -> Array:
    """The colour, (3,), at position ``place`` in [0, 1] of a palette, (colours, 3)."""
    at = place * (len(palette) - 1)
    low = min(int(at), len(palette) - 2)
    colour: Array = palette[low] + (palette[low + 1] - palette[low]) * (at - low)
    return colour


class _Pen:
    """Fills polygons that are given in the head's coordinates, transformed by the scene's pose."""

    def __init__(self, who: Person, scene: Scene, image: Image.Image) -> None:
        side, unit = image.size[0], UNIT * image.size[0] * scene.scale
        self.paint = ImageDraw.Draw(image)
        self.who, self.scene = who, scene
        self.skin, self.hair, self.dye = _mix(SKIN, who.skin), _mix(HAIR, who.hair), _mix(DYE, who.dye)
        self.turn = math.cos(scene.yaw), math.sin(scene.yaw), math.cos(scene.pitch), math.sin(scene.pitch)
        self.roll = math.cos(scene.roll) * unit, math.sin(scene.roll) * unit
        self.middle = (0.5 + scene.shift_x) * side, (0.5 + scene.shift_y) * side
        # The outline of a rotated ellipsoid is between its width and its depth.
        self.stretch = math.hypot(self.turn[0], self.turn[1] * DEPTH / who.head_width) / self.turn[0]

    def depth(self, x: Array, y: Array) -> Array:
        """How far in front of the middle plane the skin is at (x, y), all (n,)."""
        depth: Array = DEPTH * np.sqrt(np.maximum(1 - (x / self.who.head_width) ** 2 - (y / 1.25) ** 2, 0))
        return depth

    def fill(self, x: Array, y: Array, z: Array | float, colour: Array) -> None:
        """Fills the polygon with corners (x, y, z), each (n,)."""
        cos_yaw, sin_yaw, cos_pitch, sin_pitch = self.turn
        x, near = x * cos_yaw + z * sin_yaw, z * cos_yaw - x * sin_yaw
        y = y * cos_pitch + near * sin_pitch
        (cos, sin), (left, top) = self.roll, self.middle
        points = np.stack([left + x * cos - y * sin, top + x * sin + y * cos], axis=1)
        self.paint.polygon(points.ravel().tolist(), fill=ink(colour))

    def on_face(self, x: Array, y: Array, colour: Array, lift: float = 0.0) -> None:
        """Fills a polygon on the skin, or ``lift`` in front of it."""
        self.fill(x, y, self.depth(x, y) + lift, colour)

    def oval(self, x: float, y: float, wide: float, high: float, colour: Array, lift: float = 0.0) -> None:
        """Fills an ellipse around (x, y) on the skin, or ``lift`` in front of it."""
        self.on_face(x + wide * COS, y + high * SIN, colour, lift)

    def around(self, x: Array, y: Array, colour: Array, z: float = 0.0) -> None:
        """Fills a polygon in the head's middle plane, stretched so that turning the head does not make it narrower."""
        self.fill(x * self.stretch, y, z, colour)


def _head(who: Person, turn: Array) -> tuple[Array, Array]:
    """x and y, each (n,), of the bare head's outline at angles ``turn``: 0 is the right ear, pi / 2 the chin."""
    cos, sin = np.cos(turn), np.sin(turn)
    power = 2 / np.where(sin > 0, who.jaw, 2.1)
    x = who.head_width * np.sign(cos) * np.abs(cos) ** power
    return x, np.sign(sin) * np.abs(sin) ** power * np.where(sin > 0, who.chin, 1.0)


def _back(pen: _Pen, cloth: Array) -> None:
    """What is behind the face: long hair, neck, shoulders, ears, and the head itself."""
    who = pen.who
    if who.hair_length > 0:
        wave = 1 + 0.06 * who.hair_curl * np.cos(10 * TURN)
        wide = who.head_width + 0.12 + 0.6 * who.hair_volume
        x, y = np.sign(COS) * np.abs(COS) ** 0.6 * wide, np.where(SIN > 0, SIN * (0.5 + who.hair_length), SIN)
        pen.around(x * wave, y * wave, pen.hair * 0.72, -0.3)
    pen.around(np.array([-0.38, 0.38, 0.42, -0.42]), np.array([0.4, 0.4, 1.5, 1.5]), pen.skin * 0.62, -0.2)
    x = np.array([-0.4, 0.4, 1.0, 1.6, -1.6, -1.0])
    pen.around(x, np.array([1.2, 1.2, 1.3, 2.6, 2.6, 1.3]), cloth, -0.2)
    for side in (-1, 1):
        for part, shade in ((1.0, 0.88), (0.55, 0.7)):
            x = side * (who.head_width * 0.96 + who.ear_out) + 0.14 * part * COS
            pen.around(x, 0.05 + who.ear_size * part * SIN, pen.skin * shade, -0.05)
    x, y = _head(who, np.linspace(0, 2 * np.pi, 48, endpoint=False))
    pen.around(x, y, pen.skin * 0.74)
    pen.around(x * 0.97, y * 0.975, pen.skin)


def _marks(pen: _Pen) -> None:
    """What is flat on the skin: blush, freckles, mole and beard."""
    who, skin = pen.who, pen.skin
    for side in (-1, 1):
        pen.oval(side * who.head_width * 0.58, 0.36, 0.2, 0.15, skin + (RED - skin) * who.blush)
    for k in range(1, 4 + int(16 * who.freckles) if who.freckles > 0 else 0):
        pen.oval(1.2 * (0.618 * k % 1 - 0.5), 0.28 + 0.3 * (1.669 * k % 1 - 0.5), 0.034, 0.034, skin * 0.6)
    if who.beard > 0:
        x, y = _head(who, np.linspace(-0.05, math.pi + 0.05, 25))
        u, high = np.linspace(-1, 1, 25), 0.84 - 0.35 * who.beard
        edge = high + (0.1 - high) * u**4
        z = np.concatenate([0 * x, pen.depth(u * who.head_width, edge)])
        x = np.concatenate([x * pen.stretch, u * who.head_width * 0.97])
        pen.fill(x, np.concatenate([y * 1.04, edge]), z, pen.hair * 0.85)
    if who.mole > 0:
        pen.oval(who.mole_x, who.mole_y, who.mole + 0.03, who.mole + 0.03, skin * 0.35)


def _eye(pen: _Pen, side: int) -> None:
    """The eye and the brow of one side, -1 or 1."""
    who, scene = pen.who, pen.scene
    shut = 0.95 if scene.blink < 0.03 else max(scene.lids, 0.0)
    x, y, wide = side * who.eye_gap, who.eye_y, who.eye_size
    cos, sin = math.cos(who.eye_tilt), -side * math.sin(who.eye_tilt)
    high = wide * who.eye_round
    top, low = high * (1 - 1.5 * shut), high * 0.75

    def shape(u: Array, upper: Array, lower: Array, colour: Array) -> None:
        v = np.concatenate([upper, lower])
        pen.on_face(x + u * cos - v * sin, y + u * sin + v * cos, colour)

    lid = pen.skin * 0.86 + (pen.dye - pen.skin * 0.86) * max(who.shade, 0.0)
    shape(AROUND * wide * 1.2, -(1.2 * high + 0.08) * BOW, 1.35 * low * BOW, lid)
    shape(AROUND * wide, -top * BOW, low * BOW, WHITE)
    for radius, colour in ((0.58, _mix(IRIS, who.iris)), (0.28, DARK)):
        u = np.clip(scene.gaze_x + radius * wide * COS, -wide, wide)
        edge = 1 - (u / wide) ** 2
        v = np.clip(scene.gaze_y + radius * wide * SIN, -top * edge, low * edge)
        shape(u, v[:12], v[12:], colour)
    shape(AROUND * wide * 1.08, -(top + 0.03) * BOW - 0.015, -top * BOW, DARK)

    slope = (0.7 * who.brow_tilt + 0.5 * scene.frown) * side * ALONG * who.brow_width
    middle = y - who.brow_gap - scene.brows - 0.05 * BOW - slope
    half = who.brow_thick * (1 - 0.2 * (side * ALONG + 1)) / 2
    rows = np.concatenate([middle - half, (middle + half)[::-1]])
    pen.on_face(x + AROUND * who.brow_width, rows, pen.hair * 0.6)


def _nose(pen: _Pen) -> float:
    """Draws the nose; returns the y of its lower end."""
    who, skin, top = pen.who, pen.skin, pen.who.eye_y
    tip, wide = top + who.nose_length + 0.06, who.nose_width
    light = np.minimum(skin * 1.06, 255)
    x = np.array([-0.3, 0.3, 0.9, -0.9]) * wide
    pen.on_face(x, np.array([top - 0.05, top - 0.05, tip, tip]), skin * 0.82, 0.05)
    pen.on_face(x * 0.3, np.array([top, top, tip, tip]), light, 0.08)
    for side in (-1, 1):
        pen.oval(side * wide * 0.75, tip, wide * 0.45, who.nose_tip * 0.75, skin * 0.68, 0.08)
        pen.oval(side * wide * 0.5, tip + who.nose_tip * 0.5, wide * 0.22, 0.03, skin * 0.35, 0.1)
    pen.oval(0.0, tip - 0.02, wide * 0.65, who.nose_tip, light + (RED - light) * who.blush * 0.5, 0.15)
    return tip + who.nose_tip * 0.5


def _mouth(pen: _Pen, nose: float) -> None:
    """Moustache, lips and, if the mouth is open, teeth, below a nose that ends at y = ``nose``."""
    who, scene = pen.who, pen.scene
    gap, lips = max(scene.gape, 0.0), _mix(LIPS, who.lip_colour)
    middle = nose + who.mouth_gap - scene.smile * (ALONG**2 - 0.4) * 1.2
    x = AROUND * who.mouth_width * (1 + 0.9 * scene.smile - 0.5 * gap)
    upper = middle - 0.75 * who.lips * BOW * (1 - 0.25 * np.exp(-((ALONG / 0.2) ** 2)))
    lower = middle + gap * BOW
    if who.moustache > 0:
        rows = np.concatenate([upper - 0.02 - (0.10 + 0.14 * who.moustache) * np.sqrt(BOW), upper[::-1] + 0.02])
        pen.on_face(x * 1.15, rows, pen.hair * 0.8, 0.05)
    pen.on_face(x, np.concatenate([upper, lower[::-1]]), lips * 0.85)
    pen.on_face(x * 0.97, np.concatenate([lower, (lower + who.lips * BOW)[::-1]]), lips)
    pen.on_face(x * 0.95, np.concatenate([middle - 0.012, lower[::-1] + 0.012 * BOW]), DARK)
    if gap > 0.05:
        pen.on_face(x * 0.8, np.concatenate([middle, (middle + 0.4 * gap * BOW)[::-1]]), WHITE)


def _hair(pen: _Pen) -> None:
    """The hair on the skull: between an outline around the head and the hairline on the forehead."""
    who = pen.who
    turn, u = np.linspace(math.pi, 2 * math.pi, 49), np.linspace(1, -1, 61)
    x, y = _head(who, turn)
    bumps = 1 + 0.5 * who.hair_curl * np.cos(14 * turn)
    more = 1.03 + who.hair_volume * np.abs(np.sin(turn)) ** 0.7 * bumps
    if who.knot > 0:
        size = 0.18 + 0.16 * who.knot
        pen.around(size * 1.2 * COS, size * (SIN - 0.4) - 1 - who.hair_volume, pen.dye, -0.1)
    line = who.hairline + (who.sideburn - who.hairline) * np.abs(u) ** 5
    line = line - who.hair_lift * np.exp(-(((u - who.hair_part) / 0.3) ** 2)) * (1 - u**4)
    line = line + 0.3 * max(who.fringe, 0.0) * np.abs(u * 3 % 1 - 0.5) * 2 * (1 - u**6)
    line = np.maximum(line, -0.99)
    inner = u * who.head_width * np.sqrt(1 - np.minimum(line, 0) ** 2) ** 0.9
    z = np.concatenate([0 * x, pen.depth(inner, line)])
    whole = np.full(len(z), True)
    # The dyed streak is the part of the same polygon between two values of x.
    streak = np.abs(np.concatenate([np.cos(turn), u]) - who.hair_part) < who.streak + 0.08
    layers = [(pen.hair * 0.8, 1.0, whole), (pen.hair, 0.93, whole), (pen.dye, 0.93, streak)]
    for colour, part, where in layers[: 3 if who.streak > 0 else 2]:
        xs = np.concatenate([x * more * part * pen.stretch, inner * (1.0 if part == 1 else 0.96)])
        ys = np.concatenate([y * more * part, line - (1 - part) * 0.6])
        pen.fill(xs[where], ys[where], z[where], colour)


def _worn(pen: _Pen) -> None:
    """Earrings and glasses."""
    who = pen.who
    for side in (-1, 1) if who.earrings > 0 else ():
        size = 0.07 + 0.08 * who.earrings
        x, y = side * (who.head_width + 0.04 + 0.5 * who.ear_out), 0.05 + 0.8 * who.ear_size + size
        pen.around(x + size * COS, y + size * SIN, pen.dye)
    if who.glasses > 0 and pen.scene.bare > 0.04:
        inner = 0.88 - 0.16 * who.glasses
        # A ring, cut open at its start.
        u, v = (np.concatenate([f, f[:1], inner * f[:1], inner * f[::-1]]) for f in (COS, SIN))
        _lenses(pen, u, v, DARK)


def _lenses(pen: _Pen, u: Array, v: Array, colour: Array) -> None:
    """A lens with outline (u, v) in front of each eye, and the bridge between them."""
    x, y = pen.who.eye_gap, pen.who.eye_y + 0.02
    for side in (-1, 1):
        pen.on_face(side * x + 0.28 * u, y + 0.25 * v, colour, 0.12)
    pen.on_face(np.array([-1, 1, 1, -1]) * (x - 0.25), y + np.array([-0.05, -0.05, 0.01, 0.01]), colour, 0.14)


def _occlude(pen: _Pen, colour: Array) -> None:
    """At most one of: sunglasses, scarf, hat, lock of hair, patch."""
    who, scene, size = pen.who, pen.scene, pen.scene.thing_size
    wide = AROUND * (who.head_width + 0.1)
    if scene.thing < 0.012:
        _lenses(pen, COS, SIN, colour * 0.3)
    elif scene.thing < 0.022:
        pen.around(wide, np.concatenate([0.55 + 0.2 * size + 0.1 * ALONG**2, np.full(13, 1.6)]), colour, 0.1)
    elif scene.thing < 0.034:
        brim = 0.15 * size - 0.7 + 0.15 * BOW
        pen.around(wide, np.concatenate([brim, brim - 0.8 * np.sqrt(1.02 - ALONG**2)]), colour, 0.1)
        pen.around(wide, np.concatenate([brim, brim - 0.2]), colour * 0.8, 0.1)
    elif scene.thing < 0.046:
        x, y = 0.6 * scene.thing_x + 0.25 * scene.thing_y * ALONG, -0.9 + (0.5 + 0.3 * size) * (ALONG + 1)
        half = 0.08 * (1.2 - ALONG)
        pen.on_face(np.concatenate([x - half, (x + half)[::-1]]), np.concatenate([y, y[::-1]]), pen.hair * 0.8)
    elif scene.thing < 0.07:
        x, y = np.array([-1.0, 1.0, 1.0, -1.0]), np.array([-1.0, -0.8, 1.0, 0.9])
        big, right, down = 0.12 + 0.1 * size, 0.5 * scene.thing_x, 0.7 * scene.thing_y
        pen.on_face(right + big * x, down + big * y, colour, 0.1)
