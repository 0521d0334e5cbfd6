"""Physical removal of erased faces from finished artefacts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FileChange:
    """What an erasure did to one file."""

    address: str
    before: str | None
    """sha256 of its bytes before; None for a file that the erasure made."""
    after: str | None
    """sha256 of its bytes now; None for a file that was removed."""
