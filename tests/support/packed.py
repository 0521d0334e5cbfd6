"""What the tests of packed corpus formats write, and what they read back."""

from dataclasses import asdict
from typing import Any

from support.shard_writers import Picture

from metric_core import storage
from metric_core.sources import catalogue
from metric_core.sources.fetching import fetch
from metric_core.sources.found import Found, Source

PICTURES = [Picture(f"person {n // 3}", f"{n:04d}", bytes([n]) * (700 * n)) for n in range(12)]


def scan(address: object) -> list[Found]:
    """The faces that are found there."""
    return list(catalogue.scan(str(address)).faces)


def contents(source: Source) -> list[tuple[str, str, bytes]]:
    """Identity, key and bytes of everything that is read back."""
    return [(f.identity, f.key, fetch(source.root, asdict(f))) for f in source.faces]


def as_is(root: object, found: Found) -> dict[str, Any]:
    """The row as if its file had been catalogued in its current state."""
    return asdict(found) | {"content_tag": storage.content_tag(f"{root}/{found.uri}")}


def written(pictures: list[Picture]) -> list[tuple[str, str, bytes]]:
    """The same for the written pictures."""
    return [(p.identity, p.key, p.data) for p in pictures]
