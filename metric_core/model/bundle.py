"""The Model artefact: ``weights.safetensors`` and ``model.json``, identified by a fingerprint.

The fingerprint covers every tensor and every field that changes an embedding. It is stored with every vector, so that
vectors of two models are never compared. Nothing here is loaded with pickle.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from metric_core import storage
from metric_core.artefacts import manifest, migrate
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ConfigError, Corrupt, ImageUnreadable, NotReadable
from metric_core.metrics import OperatingPoint
from metric_core.model.embedder import Embedder
from metric_core.model.inference import Picture, embed_each
from metric_core.model.spec import ModelSpec

WEIGHTS = "weights.safetensors"
SPEC = "model.json"
_POINT = tuple(field.name for field in fields(OperatingPoint))
_UNFIT = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)
"""What parsing the two files raises when they are not of one model."""
SPEC_BYTES = 1 << 20
"""Most bytes of ``model.json``."""


@dataclass(frozen=True)
class Model:
    """A loaded Model artefact."""

    embedder: Embedder
    fingerprint: str
    operating_points: list[OperatingPoint]
    """Measured on pairs of validation faces at the end of training; empty without a validation split."""
    uri: str
    """Absolute address of the artefact."""

    @classmethod
    def open(cls, uri: str) -> "Model":
        """A Model artefact by its address; the embedder is on the CPU in ``eval()``. Raises as ``load``."""
        return load(uri)

    def embed(self, pictures: Iterable[Picture]) -> np.ndarray:
        """Unit vectors float32 (N, D) of cropped faces: addresses of image files, or their bytes.

        Raises:
            Missing: an address is of no file.
            ImageUnreadable: a file is no image that can be read; or the model aligns faces by landmarks, which
                only a catalogue brings.
        """
        vectors = [np.empty((0, self.embedder.spec.backbone.dim), np.float32)]
        for number, one in enumerate(embed_each(self.embedder, pictures)):
            if isinstance(one, ImageUnreadable):
                raise ImageUnreadable(f"{one} (picture {number}, counted from 0)") from one
            if isinstance(one, Exception):
                raise one
            vectors.append(one.vector_D[None])
        return np.concatenate(vectors)


def fingerprint(embedder: Embedder) -> str:
    """sha256 of the canonical JSON of each tensor's name, dtype, shape and sha256, and of the spec."""
    tensors = {
        name: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(_bytes(tensor)).hexdigest(),
        }
        for name, tensor in embedder.state_dict().items()
    }
    return manifest.digest({"tensors": tensors, "spec": migrate.hashed("model", "spec", embedder.spec.to_json())})


def save(
    embedder: Embedder, uri: str, *, operating_points: list[OperatingPoint], provenance: dict[str, Any]
) -> Manifest:
    """Write a finished Model artefact. The weights are stored in float32, whatever their device and dtype."""
    stored = Embedder(embedder.spec)
    stored.load_state_dict(embedder.state_dict())  # copies across devices and dtypes
    weights = safetensors.torch.save({k: v.contiguous() for k, v in stored.state_dict().items()})
    storage.write_bytes(storage.join(uri, WEIGHTS), weights)
    storage.write_bytes(storage.join(uri, SPEC), json.dumps(stored.spec.to_json(), indent=2).encode() + b"\n")
    content = {
        "fingerprint": fingerprint(stored),
        "operating_points": [asdict(point) for point in operating_points],
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return manifest.write(uri, "model", content, provenance)


def load(uri: str) -> Model:
    """Read and check a Model artefact; its embedder is on the CPU, in evaluation mode.

    Raises:
        Missing, Unfinished, SchemaMismatch: as ``manifest.read``.
        Corrupt: the files do not agree with the manifest's fingerprint.
    """
    uri = storage.absolute(uri)
    found = manifest.read(uri, "model")
    content = found.content
    data = storage.read_bytes(storage.join(uri, WEIGHTS))
    if hashlib.sha256(data).hexdigest() != content["weights_sha256"]:
        raise Corrupt(f"{uri}/{WEIGHTS}: its sha256 is not the manifest's; train again or restore the file")
    try:
        body = json.loads(storage.read_bytes(storage.join(uri, SPEC), most=SPEC_BYTES))
        spec = ModelSpec.from_json(migrate.upgraded("model", "spec", body, found.format))
        _require_room(spec, len(data))
        embedder = Embedder(spec)
        embedder.load_state_dict(safetensors.torch.load(data))
        computed = fingerprint(embedder)
    except (*_UNFIT, ConfigError, NotReadable) as error:
        reason = " ".join(str(error).split())
        raise Corrupt(
            f"{uri}/{SPEC} does not describe these weights ({reason}); train again or restore the file"
        ) from error
    if computed != content["fingerprint"]:
        raise Corrupt(
            f"{uri}: the fingerprint of its files is {computed[:16]}…, but the manifest's is "
            f"{content['fingerprint'][:16]}…; train again or restore the files"
        )
    # what a manifest of another version may say beside these is left out
    points = [OperatingPoint(**{name: point[name] for name in _POINT}) for point in content["operating_points"]]
    return Model(embedder.eval(), computed, points, uri)


def _require_room(spec: ModelSpec, size: int) -> None:
    """Raises ValueError, before any memory is taken, when a network has more weights than a file of ``size`` bytes."""
    with torch.device("meta"):
        network = Embedder(spec)
    needed = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if needed > size:
        raise ValueError(f"its network has {needed} bytes of weights, and {WEIGHTS} has {size}")


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
