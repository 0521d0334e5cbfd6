"""How large a picture may be, and what decoding one may cost; imports nothing heavy.

The limits that a user can set are in ``Limits``; the others bound a decoder whatever a file says about itself. They are
applied in ``decoding``; what they cannot stop is stopped by ending the process that decodes, see ``apart``.
"""

from dataclasses import dataclass

from metric_core.options import Options, out_of_range

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "ICO", "JPEG2000", "AVIF")
"""Formats that are read, by Pillow's names; JPEG includes MPO, PNG APNG, and PPM is PBM, PGM and PPM. What is in any
other is never given to a decoder: that of EPS, for one, starts another program."""

MEMORY = 512_000_000
"""Most bytes that decoding one picture takes, its file and everything up to the network's input included."""
SPARE = 24_000_000
"""Bytes beyond ``MEMORY`` at which the process is stopped, for what cannot be foreseen from a header."""
SECONDS = 30
"""Most CPU seconds that decoding one picture takes."""
SCANS = 500
"""Most scans of a JPEG; encoders write about ten. A few bytes of scan cost as much time as a whole picture."""


PIXELS, BYTES = "[1, 178956970]", "[1, 512000000]"
"""Allowed values of ``max_pixels``, up to what Pillow opens, and of ``max_bytes``, up to ``MEMORY``."""


@dataclass(frozen=True)
class Limits(Options):
    """The largest pictures that are read."""

    max_pixels: int = 100_000_000
    """Width times height."""
    max_bytes: int = 128 << 20
    """Size of the picture's file."""

    def problems(self) -> list[str]:
        return out_of_range(self, max_pixels=PIXELS, max_bytes=BYTES)


DEFAULT = Limits()


@dataclass(frozen=True)
class Room:
    """What decoding a picture may take in one process."""

    memory: int
    """Bytes, as ``MEMORY``."""
    pixels: float
    work: float
    """Pixels times scans."""
    file: int
    """Bytes of the picture's file."""


ANY = Room(MEMORY, float("inf"), float("inf"), MEMORY)
"""In a process of its own, which can be ended, whatever is within the limits."""
HERE = Room(MEMORY // 4, 16e6, 1e9, 16 << 20)
"""In a process that has other work, what takes about a second at most, in a format whose header says what it costs."""
