"""The options that every job on Ray takes; nothing heavy is imported."""

from dataclasses import dataclass
from typing import ClassVar

from metric_core.image.limits import BYTES, DEFAULT, PIXELS, Limits
from metric_core.options import Options, out_of_range


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """What every job that runs on Ray takes."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"how it runs": ("address", "verbose")}

    address: str | None = None
    """Address of a running Ray cluster, auto or HOST:6379; default: RAY_ADDRESS, else a local cluster that is started
    for this job and stopped again."""
    verbose: bool = False
    """Show the messages of Ray and MLflow as well."""


@dataclass(frozen=True, kw_only=True)
class PictureOptions(RunOptions):
    """What every job that decodes a corpus takes."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"largest pictures": ("max_pixels", "max_bytes")}

    max_pixels: int = DEFAULT.max_pixels
    """Largest picture that is read, as width times height. None is decoded that takes more than 512 MB or 30 s."""
    max_bytes: int = DEFAULT.max_bytes
    """Largest file of a picture that is read, in bytes."""

    def problems(self) -> list[str]:
        return out_of_range(self, max_pixels=PIXELS, max_bytes=BYTES)

    @property
    def limits(self) -> Limits:
        """The largest pictures that are read."""
        return Limits(self.max_pixels, self.max_bytes)
