"""A small chain of artefacts and a training that takes seconds, for the tests of the jobs."""

from dataclasses import dataclass
from pathlib import Path

import torch

from metric_core.image.spec import Preprocessing
from metric_core.model import bundle
from metric_core.model.embedder import Embedder
from metric_core.model.spec import ModelSpec, backbone_spec
from workflows.train.config import TrainConfig


@dataclass(frozen=True)
class Chain:
    """Addresses of the artefacts, and the result of each job."""

    root: Path
    faces: str
    model: str
    embeddings: str
    index: str
    tracking_uri: str
    answers: dict[str, dict]


def small(faces: str, out: str, tracking_uri: str, **more: object) -> TrainConfig:
    """A training that takes seconds, with the same number of threads on every Ray cluster."""
    how = {"steps": 12, "identities": 6, "images": 3, "image_size": 32, "embedding_size": 32, "warmup": 4}
    how |= {"evaluate_every": 6, "checkpoint_every": 6, "report_every": 3, "cpus_per_worker": 1}
    return TrainConfig(faces=faces, out=out, tracking_uri=tracking_uri, **(how | more))  # type: ignore[arg-type]


def untrained(uri: str, size: int = 16) -> str:
    """Write an untrained, fast model to ``uri``; returns ``uri``."""
    torch.manual_seed(0)
    spec = ModelSpec(
        backbone=backbone_spec("plain", norm="group", dim=16),
        preprocessing=Preprocessing(size=size, colour="grey"),
        standardise=False,
        flip_average=False,
        distance="cosine",
    )
    bundle.save(Embedder(spec), uri, operating_points=[], provenance={})
    return uri
