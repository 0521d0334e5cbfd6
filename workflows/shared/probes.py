"""Probes: the pictures of a query, embedded in this process."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metric_core import storage
from metric_core.artefacts import keys, manifest
from metric_core.errors import ImageUnreadable, Missing
from metric_core.model.bundle import Model
from metric_core.model.inference import embed_each


@dataclass(frozen=True)
class Probes:
    """Embedded pictures."""

    name_Q: list[str]
    """The name of each in results: its address."""
    embedding_QD: np.ndarray
    """float32, unit length."""
    unreadable: list[dict[str, str]]
    """{query, reason} of each picture that could not be embedded."""
    digest: str
    """sha256 over the names and contents of the embedded pictures."""


def addresses(images: list[str]) -> list[str]:
    """The addresses of all pictures: those of files, and of the pictures below folders. Raises Missing."""
    out: list[str] = []
    for given in map(storage.absolute, images):
        if not storage.exists(given):
            raise Missing(f"{given}: there is no such picture")
        if storage.is_file(given):
            out.append(given)
        else:
            below = (path for path, _ in storage.walk(given) if Path(path).suffix.lower() in keys.IMAGE_ENDINGS)
            out += [storage.join(given, path) for path in below]
    return out


def embed(model: Model, images: list[str]) -> Probes:
    """Embed pictures and folders of pictures.

    Raises:
        Missing: a file does not exist.
        ImageUnreadable: none of them can be read.
    """
    names: list[str] = []
    contents: list[str] = []
    vectors: list[np.ndarray] = []
    unreadable: list[dict[str, str]] = []
    everything = addresses(images)
    for address, one in zip(everything, embed_each(model.embedder, everything)):
        if isinstance(one, Exception):
            unreadable.append({"query": address, "reason": str(one)})
        else:
            names.append(address)
            contents.append(one.sha256)
            vectors.append(one.vector_D)
    if not vectors:
        first = unreadable[0] if unreadable else {"query": ", ".join(images), "reason": "no pictures there"}
        raise ImageUnreadable(f"none of {len(everything)} pictures can be read; {first['query']}: {first['reason']}")
    return Probes(names, np.stack(vectors), unreadable, manifest.digest([names, contents]))
