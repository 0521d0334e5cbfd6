"""Pictures to unit vectors, some at a time, in this process: for probes and notebooks.

Whole corpora are embedded by the ``embed`` job, which has actors for it and writes an artefact.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from metric_core import storage
from metric_core.errors import ImageUnreadable, Missing, NotReadable
from metric_core.image.limits import DEFAULT
from metric_core.image.preprocess import preprocess
from metric_core.model.embedder import Embedder

Picture = bytes | str | os.PathLike[str]
"""An image file's bytes, or its address."""
_Prepared = tuple[np.ndarray, str] | ImageUnreadable | Missing | NotReadable | OSError
"""A picture's pixels, uint8 (C, S, S), and the sha256 of its bytes; or the error."""
BATCH = 128
"""Pictures that are held and embedded at once."""


@dataclass(frozen=True)
class Embedded:
    """A picture that could be embedded."""

    vector_D: np.ndarray
    """float32, unit length"""
    sha256: str
    """of the image file's bytes"""


def embed_each(
    embedder: Embedder, pictures: Iterable[Picture]
) -> Iterator[Embedded | ImageUnreadable | Missing | NotReadable | OSError]:
    """Each picture's vector, or the reason why it has none, in order.

    Raises:
        OSError: the storage is in trouble, not one file.
    """
    left = iter(pictures)
    while batch := list(islice(left, BATCH)):
        prepared = [_prepared(embedder, picture) for picture in batch]
        pixels = [one[0] for one in prepared if isinstance(one, tuple)]
        if pixels:
            device = next(embedder.parameters()).device
            vector_ND = embedder.embed(torch.from_numpy(np.stack(pixels)).to(device))[0]
        vectors = iter(vector_ND if pixels else ())
        for one in prepared:
            yield Embedded(next(vectors), one[1]) if isinstance(one, tuple) else one


def _prepared(embedder: Embedder, picture: Picture) -> _Prepared:
    """A picture, or why it cannot be prepared."""
    try:
        data = picture if isinstance(picture, bytes) else _read(picture)
        return preprocess(data, embedder.spec.preprocessing), hashlib.sha256(data).hexdigest()
    except (ImageUnreadable, Missing, *storage.FILE_ERRORS) as error:
        return error


def _read(picture: str | os.PathLike[str]) -> bytes:
    return storage.read_bytes(storage.absolute(os.fspath(picture)), most=DEFAULT.max_bytes)
