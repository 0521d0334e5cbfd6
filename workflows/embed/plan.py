"""What an embed job is about: which rows go in, in which units, and the plan that its result is a pure function of.

How the work is done is in ``embed``.
"""

import hashlib
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from metric_core import storage
from metric_core.artefacts import delta, ids, schema, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.embeddings import GONE
from metric_core.artefacts.faces import Faces
from metric_core.artefacts.tombstones import Tombstones
from metric_core.errors import ConfigError, FingerprintMismatch
from metric_core.model.bundle import Model
from workflows.embed import units
from workflows.embed.config import EmbedConfig
from workflows.embed.units import Unit
from workflows.embed.worker import Setup
from workflows.shared import models
from workflows.shared.console import say


@dataclass(frozen=True)
class Job:
    """What a run is about."""

    config: EmbedConfig
    setup: Setup
    model: Model
    units: list[Unit]
    since: Collection | None
    erasures: str | None
    """Digest of the tombstones."""
    inputs: int
    """Faces that are to be embedded and those of them that are erased."""
    begun: float
    """On the monotonic clock."""

    @property
    def total(self) -> int:
        """Faces that go in."""
        return self.inputs - len(self.setup.selection.erased_M)

    @property
    def plan(self) -> dict[str, Any]:
        """What the result is a pure function of; its digest is the plan id."""
        return {
            "faces_digest": self.setup.faces.manifest.digest,
            "split": self.config.split,
            "fingerprint": self.model.fingerprint,
            "preprocessing": asdict(self.model.embedder.spec.preprocessing),
            "unit_size": self.config.unit_size,
            "dtype": self.config.dtype,
            "precision": self.config.precision,
            "since": [
                {"plan_id": source.manifest.content["plan_id"], "digest": source.manifest.digest}
                for source in (self.since.sources if self.since else [])
            ],
        }


def job_of(config: EmbedConfig) -> Job:
    """What a run with these options is about.

    Raises:
        FingerprintMismatch: ``since`` holds vectors of another model.
        ConfigError: there is no such split, or ``since`` does not fit.
        Missing: one of the artefacts, or the tombstones that are named, is not there.
    """
    begun = time.monotonic()
    faces, model = Faces.open(config.faces), models.load(config.model)
    since = _since(config, faces, model) if config.since else None
    erased = erasures(config)
    selection = delta.select(faces, config.split, since, erased)
    if selection.twins:
        say(
            f"{selection.twins} pictures have a new twin, which differs in its ending only; the one whose ending comes "
            f"first has the plain key's face_id now, and both are embedded again"
        )
    setup = Setup(
        faces=faces,
        embedder=model.embedder,
        out=storage.absolute(config.out),
        split=config.split,
        selection=selection,
        dtype=config.dtype,
        precision=config.precision,
        batch=config.batch,
        device="cuda" if config.gpu else "cpu",
    )
    return Job(
        config=config,
        setup=setup,
        model=model,
        units=units.units(faces.parts, config.unit_size, selection.wanted),
        since=since,
        erasures=erased.digest,
        inputs=selection.count(faces.count(config.split)),
        begun=begun,
    )


def _since(config: EmbedConfig, faces: Faces, model: Model) -> Collection:
    since = Collection.open(config.since or "").require_whole()
    if since.fingerprint != model.fingerprint:
        raise FingerprintMismatch(
            f"--since {since.uri} holds vectors of model {since.fingerprint}, --model {model.uri} is "
            f"{model.fingerprint}; a delta needs the same model: give that one, or leave --since out to embed all anew"
        )
    here = {"namespace": faces.namespace, "dtype": config.dtype, "precision": config.precision}
    problems = [
        f"{name} is {value}, in --since {source.manifest.uri} it is {source.manifest.content[name]}; a delta needs the "
        f"same: give that one, or leave --since out to embed all anew"
        for source in since.sources
        for name, value in here.items()
        if source.manifest.content[name] != value
    ]
    if problems:
        raise ConfigError.of(problems)
    return since


def erasures(config: EmbedConfig) -> Tombstones:
    """What is erased at the moment. Raises Missing when ``config`` names tombstones that are not there."""
    return tombstones.of(config.faces, config.tombstones)


def take_back(job: Job) -> None:
    """Undo units that were done before one of their faces was erased; they are done again without it."""
    selection = job.setup.selection
    taken_back = 0
    for unit in job.units:
        start, stop = np.searchsorted(selection.erased.get(unit.part.name, ids.NONE), [unit.first, unit.last])
        if stop > start:
            taken_back += units.discard(job.setup.out, unit, selection.erased_M)
    if taken_back:
        say(f"{taken_back} units were done before some of their faces were erased, and are done again without them")


def put_gone(job: Job) -> dict[str, Any] | None:
    """{name, rows, sha256} of the file that lists the faces that are gone; None when there is none."""
    gone_M = job.setup.selection.gone_M
    if not len(gone_M):
        return None
    data = units.to_parquet(pa.Table.from_arrays([pa.array(gone_M)], schema=schema.GONE))
    storage.write_bytes(storage.join(job.setup.out, GONE), data)
    return {"name": GONE, "rows": len(gone_M), "sha256": hashlib.sha256(data).hexdigest()}
