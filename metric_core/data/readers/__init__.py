"""Corpus formats. Each reader turns a source into ``Found`` rows; ``fetch`` turns a row's locator into bytes.

Ids, splits and the catalogue itself are made from the rows elsewhere, so a new format is one new module here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from metric_core import storage


@dataclass(frozen=True)
class Found:
    """One face in a source, before it has an id."""

    identity: str
    key: str
    uri: str
    """Relative to the source's root, or absolute."""
    content_tag: str
    """Changes when the bytes change."""
    kind: str = "file"
    view: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Source:
    """A scanned corpus."""

    root: str
    name: str
    """The default namespace of its face_ids."""
    faces: Iterator[Found]
    """In source order."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Files that were passed over, counted by their ending; filled as ``faces`` is consumed."""


def resolve(root: str, uri: str) -> str:
    """The address of a row's bytes."""
    return uri if uri.startswith("/") or "://" in uri else storage.join(root, uri)


def fetch(root: str, row: Mapping[str, Any]) -> bytes:
    """The image bytes that a Faces row points at. Raises ``Missing``."""
    return storage.read_bytes(resolve(root, row["uri"]), row["offset"] or 0, row["length"])
