"""An unlimited number of drawn people. The identity belongs to the person; pose, light, expression, occlusion,
background, blur and noise change from picture to picture. Painting a face is in ``cartoon``; reading the files back,
splitting people into train and test, and running several processes are left to the caller."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from workflows.demo import cartoon
from workflows.demo.cartoon import Array, Person, Scene, ink

Kind = TypeVar("Kind")
SUPERSAMPLE = 2  # polygons are drawn this many times larger and averaged down, for smooth edges
PERSON, SCENE, NOISE = 1, 2, 3  # purposes of random streams


def _random(seed: int, purpose: int, index: int, picture: int = 0) -> np.random.Generator:
    """The random stream of one purpose; Philox itself advances the two low words of the counter."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, index, picture]))


def _ranges(kind: Any) -> Array:
    """The lowest and the highest value of every field of ``kind``, (fields, 2)."""
    return np.array([part.metadata["range"] for part in dataclasses.fields(kind)])


def _make(kind: type[Kind], parts: Array) -> Kind:
    """A ``kind`` whose fields are at the fractions ``parts``, (fields,) from 0 to 1, of their ranges."""
    low, high = _ranges(kind).T
    return kind(*(low + (high - low) * parts).tolist())


def person(seed: int, index: int) -> Person:
    """Person number ``index`` of the people drawn from ``seed``; both must be at least 0."""
    # The arcsine distribution prefers the ends of a range; with average values all faces would look alike.
    parts = _random(seed, PERSON, index).random(len(_ranges(Person)))
    return _make(Person, (1 - np.cos(np.pi * parts)) / 2)


def _light(scene: Scene, size: int) -> Array:
    """Factors of brightness, float32 (size, size, 3): the light's colour and gradient, and a soft-edged shadow."""
    at = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5) / np.float32(cartoon.UNIT)
    along = at[None, :] * math.cos(scene.light_from) + at[:, None] * math.sin(scene.light_from)
    factor: Array = np.asarray(1 + scene.light_fall * np.clip(along, -1.2, 1.2))
    if scene.shadow > 0:
        factor = factor * (1 - scene.shadow * np.clip(0.5 - (along - scene.shadow_at) * 5, 0, 1))
    tint = np.exp(scene.light_gain + np.array([scene.light_warm, scene.light_green, -scene.light_warm]))
    light: Array = factor[:, :, None] * tint.astype(np.float32)
    return light


def draw(person: Person, *, seed: int, picture: int, size: int = 96) -> Array:
    """Picture number ``picture`` of ``person``, RGB, uint8 (size, size, 3); always the same for the same arguments."""
    # Pictures of two people with the same number must be independent, so the person selects the stream as well.
    name = hashlib.blake2b(np.array(dataclasses.astuple(person), "<f8").tobytes(), digest_size=8).digest()
    index = int.from_bytes(name, "little")
    scene = _make(Scene, _random(seed, SCENE, index, picture).random(len(_ranges(Scene))))
    random = _random(seed, NOISE, index, picture)
    side = size * SUPERSAMPLE

    colours = random.uniform(30, 210, (6, 1)) + random.uniform(-60, 60, (6, 3))
    image = Image.new("RGB", (side, side), ink(colours[0]))
    paint = ImageDraw.Draw(image)
    for colour, box in zip(colours[1:4], random.uniform(-0.2, 1.2, (3, 2, 2)) * side):
        paint.ellipse([*box.min(axis=0), *box.max(axis=0)], fill=ink(colour))
    cartoon.paint_face(image, person, scene, cloth=colours[4], thing=colours[5])

    image = image.reduce(SUPERSAMPLE)
    if scene.blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(scene.blur * size / 96))
    pixels = np.asarray(image, dtype=np.float32) * _light(scene, size)
    pixels += random.standard_normal(pixels.shape, dtype=np.float32) * np.float32(scene.noise)
    drawn: np.ndarray = np.clip(pixels, 0, 255).astype(np.uint8)
    return drawn


def name(index: int) -> str:
    """The name of person number ``index``, which is also that of the folder with the person's pictures."""
    return f"person-{index:04d}"


def write_people(root: Path, people: range, *, pictures: int, seed: int, size: int = 96) -> int:
    """Writes the people with these numbers as ``root/person-0000/00.jpg`` etc.; returns the number of files."""
    for index in people:
        who, folder = person(seed, index), Path(root) / name(index)
        folder.mkdir(parents=True, exist_ok=True)
        for picture in range(pictures):
            pixels = draw(who, seed=seed, picture=picture, size=size)
            Image.fromarray(pixels).save(folder / f"{picture:02d}.jpg", quality=92)
    return len(people) * pictures
