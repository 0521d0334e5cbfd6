"""Speed of decoding beside other JPEG decoders, and how far their pixels are from ours.

    python tests/bench/decode.py [--quick] [--json]

Ours is ``metric_core.image``: Pillow with checks, turned upright and converted to 8 bits. Pictures are drawn faces,
JPEG of quality 92. Rates are medians of alternating runs, in CPU time of one thread. ``difference`` is the largest
difference between the pixels of two decoders, of 255.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
import table
from PIL import Image
from table import Case, more

from metric_core.image.decoding import decode
from metric_core.image.preprocess import preprocess
from metric_core.image.spec import Preprocessing
from workflows.demo import drawn

Decode = Callable[[bytes], np.ndarray]


def pictures(size: int, count: int) -> list[bytes]:
    """Drawn faces as JPEG files."""
    out = []
    for number in range(count):
        data = io.BytesIO()
        pixels = drawn.draw(drawn.person(0, number), seed=0, picture=0, size=size)
        Image.fromarray(pixels).save(data, "JPEG", quality=92)
        out.append(data.getvalue())
    return out


def ours(colour: str) -> Decode:
    """What every job does with an image's bytes before resizing."""
    mode = "RGB" if colour == "rgb" else "L"
    return lambda data: np.asarray(decode(data).convert(mode))


def peers(colour: str) -> dict[str, Decode]:
    """The same by other decoders. Pillow's draft mode and the libraries' grey use the JPEG's own luma."""

    def plain(data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB" if colour == "rgb" else "L"))

    def draft(data: bytes) -> np.ndarray:
        picture = Image.open(io.BytesIO(data))
        picture.draft("RGB" if colour == "rgb" else "L", None)
        return np.asarray(picture)

    def opencv(data: bytes) -> np.ndarray:
        kind = cv2.IMREAD_COLOR_RGB if colour == "rgb" else cv2.IMREAD_GRAYSCALE
        return cv2.imdecode(np.frombuffer(data, np.uint8), kind)

    def turbo(data: bytes) -> np.ndarray:
        pixels = simplejpeg.decode_jpeg(data, colorspace="RGB" if colour == "rgb" else "GRAY")
        return pixels if colour == "rgb" else pixels[:, :, 0]

    return {"pillow alone": plain, "pillow draft": draft, "opencv": opencv, "simplejpeg": turbo}


def rates(runs: list[Decode], files: list[bytes], repeats: int) -> list[float]:
    """Median images per second of each; runs alternate, so that a busy machine affects all of them."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, taken in zip(runs, seconds):
            start = time.process_time()
            for data in files:
                run(data)
            taken.append(time.process_time() - start)
    return [len(files) / statistics.median(taken) for taken in seconds]


def decoding(size: int, colour: str, repeats: int) -> list[Case]:
    """Rates and differences of all decoders."""
    files, own, others = pictures(size, 40), ours(colour), peers(colour)
    rate, *theirs = rates([own, *others.values()], files, repeats)
    found = []
    for (name, run), their in zip(others.items(), theirs):
        case = f"{size}x{size} {colour}/{name}"
        far = max(int(np.abs(own(data).astype(int) - run(data)).max()) for data in files)
        found.append(more(f"{case}/images_per_second", rate, their, "1/s"))
        found.append(more(f"{case}/difference", far, None, "of 255"))
    return found


def whole(size: int, colour: str, repeats: int) -> Case:
    """Everything from bytes to the network's input, beside decoding alone."""
    files, how = pictures(size, 40), Preprocessing(112, colour)  # type: ignore[arg-type]
    everything, decoding = rates([lambda data: preprocess(data, how), ours(colour)], files, repeats)
    return Case(f"{size}x{size} {colour}/preprocess to 112, decoding alone", everything, decoding, None, "1/s")


def cases(quick: bool) -> list[Case]:
    """Every case; ``quick`` repeats less."""
    repeats = 5 if quick else 25
    found = []
    for size in (112, 250):
        for colour in ("rgb", "grey"):
            found += decoding(size, colour, repeats)
            found.append(whole(size, colour, repeats))
    return found


def main() -> None:
    options = table.parser(__doc__, "fewer repetitions").parse_args()
    table.show(cases(options.quick), as_json=options.json)


if __name__ == "__main__":
    main()
