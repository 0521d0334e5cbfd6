"""A large corpus at little cost: a list whose many rows name few pictures, one row in a hundred an odd one."""

import io
from pathlib import Path

from PIL import Image
from support.places import DATA

from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.demo import drawn

ODD_EVERY = 100


def pictures(folder: Path) -> list[Path]:
    """Twelve drawn people with four small pictures each."""
    drawn.write_people(folder, range(12), pictures=4, seed=3, size=32)
    return sorted(folder.rglob("*.jpg"))


def odd_pictures(folder: Path) -> list[Path]:
    """Generated pictures, and those of the data if it is there; some decode, most do not."""
    folder.mkdir()
    whole = io.BytesIO()
    Image.linear_gradient("L").save(whole, "jpeg")
    for name, data in {
        "whole.jpg": whole.getvalue(),
        "cut.jpg": whole.getvalue()[:400],
        "empty.jpg": b"",
        "text.jpg": b"no picture",
    }.items():
        (folder / name).write_bytes(data)
    given = DATA / "odd_images"
    return sorted([*folder.iterdir(), *(p for p in given.glob("*.*") if p.suffix != ".tsv")])


def listed(folder: Path, rows: int) -> str:
    """Catalogue a list of ``rows`` rows; returns the address of the Faces."""
    good, odd = pictures(folder / "people"), odd_pictures(folder / "odd")
    lines = ["path,identity,key"]
    for n in range(rows):
        if n % ODD_EVERY == ODD_EVERY // 2:
            lines.append(f"{odd[n // ODD_EVERY % len(odd)]},odd,{n:06d}")
        else:
            lines.append(f"{good[n % len(good)]},{good[n % len(good)].parent.name},{n:06d}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    catalogue.run(CatalogueConfig(source=str(folder / "list.csv"), out=str(folder / "faces")))
    return str(folder / "faces")
