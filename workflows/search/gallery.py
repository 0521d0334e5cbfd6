"""A sheet of pictures to look at: each probe beside the faces of the people found."""

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from metric_core import storage
from metric_core.errors import ImageUnreadable, Missing
from metric_core.image.preprocess import shrunk
from workflows.search import answers

TILE, TEXT, GAP = 96, 30, 6
ROWS = 12
"""Probes on a sheet at most."""

Fetch = Callable[[str], bytes]


def draw(matches: pa.Table, fetch_probe: Fetch, fetch_face: Callable[[int], bytes], out: str) -> None:
    """Write a PNG with one row per probe: its picture, then its matches by rank with identity and similarity.

    Args:
        matches: ``schema.MATCHES``, or ``schema.UNLABELLED_MATCHES``.
        fetch_probe: returns the image bytes of a query, by its name.
        fetch_face: returns the image bytes of an indexed face, by its id.
        out: address of the PNG.
    """
    by_query: dict[str, list[dict[str, Any]]] = {}
    for row in matches.to_pylist():
        by_query.setdefault(row["query"], []).append(row)
    shown = list(by_query.items())[:ROWS]
    columns = 1 + max((len(rows) for _, rows in shown), default=0)
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, len(shown) * (TILE + TEXT + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for line, (query, rows) in enumerate(shown):
        top = GAP + line * (TILE + TEXT + GAP)
        cells = [(lambda q=query: fetch_probe(q), query.split("/")[-1], "probe")]
        cells += [
            (lambda f=row["face_id"]: fetch_face(f), _caption(row), f"{row['rank']}.  {row['score']:.3f}")
            for row in rows
        ]
        for column, (fetch, name, note) in enumerate(cells):
            left = GAP + column * (TILE + GAP)
            sheet.paste(_tile(fetch), (left, top))
            draw.text((left, top + TILE + 1), name[:15], fill="black", font=font)
            draw.text((left, top + TILE + 14), note, fill="dimgrey", font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    storage.write_bytes(out, buffer.getvalue())


def _caption(row: dict[str, Any]) -> str:
    """The person, or the end of what stands for one: a key is a path, and pictures in one folder begin alike."""
    return str(row["identity"] or answers.called(row).split("/")[-1])


def _tile(fetch: Callable[[], bytes]) -> Image.Image:
    try:
        picture = Image.fromarray(shrunk(fetch(), TILE))
    except (ImageUnreadable, Missing):  # the picture may have been removed since; the match is still valid
        return Image.new("RGB", (TILE, TILE), "lightgrey")
    tile = Image.new("RGB", (TILE, TILE), "white")
    tile.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    return tile
