"""The plan of an embed job: which rows go in, how they are cut into units, and what the result is a function of.

The work itself is in ``job``.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from metric_core import storage
from metric_core.artefacts import delta, ids, manifest, migrate, rows, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ConfigError, FingerprintMismatch
from metric_core.model.bundle import Model
from workflows.embed import units
from workflows.embed.config import EmbedConfig
from workflows.embed.setup import Setup
from workflows.embed.store import UnitStore
from workflows.embed.units import Unit
from workflows.shared import models
from workflows.shared.console import say


@dataclass(frozen=True)
class EmbedPlan:
    """The inputs of a job, opened and checked, and its units."""

    config: EmbedConfig
    setup: Setup
    model: Model
    units: list[Unit]
    since: list[Embeddings]
    """Earlier embeddings that this job is a delta of; empty when there are none."""
    erasures: str | None
    """Digest of the tombstones when the plan was made."""
    inputs: int
    """Faces to embed, including erased ones."""

    @classmethod
    def of(cls, config: EmbedConfig) -> "EmbedPlan":
        """Open and check the inputs that the options name.

        Raises:
            FingerprintMismatch: ``since`` holds vectors of another model.
            ConfigError: there is no such split, or ``since`` does not fit.
            Missing: one of the artefacts, or a folder given in ``tombstones``, does not exist.
        """
        faces, model = Faces.open(config.faces), models.load(config.model)
        since = _open_since(config, faces, model) if config.since else None
        erased = tombstones.of(config.faces, config.tombstones)
        selection = delta.select(faces, config.split, since, erased)
        if selection.twins:
            say(
                f"{selection.twins} pictures have a new twin whose name differs only in the ending; the one whose "
                f"ending comes first now has the face_id of the plain key, and both are embedded again"
            )
        setup = Setup(
            faces=faces,
            embedder=model.embedder,
            store=UnitStore(storage.absolute(config.out)),
            split=config.split,
            selection=selection,
            dtype=config.dtype,
            precision=config.precision,
            batch=config.batch,
            limits=config.limits,
            device="cuda" if config.gpu else "cpu",
        )
        return cls(
            config=config,
            setup=setup,
            model=model,
            units=units.cut(faces.parts, config.unit_size, selection.wanted),
            since=list(since.sources) if since else [],
            erasures=erased.digest,
            inputs=selection.count(faces.count(config.split)),
        )

    @property
    def store(self) -> UnitStore:
        """The folder that the units are committed to."""
        return self.setup.store

    @property
    def total(self) -> int:
        """Faces to embed, without erased ones."""
        return self.inputs - len(self.setup.selection.erased_M)

    @property
    def document(self) -> dict[str, Any]:
        """What the result is a pure function of; it is written to ``plan.json``."""
        return {
            "faces_digest": self.setup.faces.manifest.origin,
            "split": self.config.split,
            "fingerprint": self.model.fingerprint,
            "preprocessing": asdict(self.model.embedder.spec.preprocessing),
            "unit_size": self.config.unit_size,
            "dtype": self.config.dtype,
            "precision": self.config.precision,
            "max_pixels": self.config.max_pixels,
            "max_bytes": self.config.max_bytes,
            "since": [
                {"plan_id": source.manifest.content["plan_id"], "digest": source.manifest.origin}
                for source in self.since
            ],
        }

    @property
    def id(self) -> str:
        """The plan id: the digest of ``document``."""
        return manifest.digest(migrate.hashed("embeddings", "plan", self.document))

    def units_with_erased(self) -> Iterator[Unit]:
        """Units some of whose faces are erased."""
        for unit in self.units:
            erased_M = self.setup.selection.erased.get(unit.part.name, ids.NONE)
            start, stop = np.searchsorted(erased_M, [unit.first, unit.last])
            if stop > start:
                yield unit

    def faces_of_units(self) -> dict[Unit, np.ndarray]:
        """int64 (N,) for each unit: the faces that are to go into it. Ids and splits of the catalogue are read once."""
        setup = self.setup
        found: dict[Unit, np.ndarray] = {}
        by_part: dict[str, list[Unit]] = {}
        for unit in self.units:
            by_part.setdefault(unit.part.name, []).append(unit)
        for some in by_part.values():
            part = some[0].part
            table = rows.read_range(setup.faces.uri, part, 0, part.rows, setup.faces.columns(["face_id", "split"]))
            id_N = table["face_id"].to_numpy()
            goes_N = ~ids.within(id_N, setup.selection.erased_M)
            if setup.selection.wanted is not None:
                goes_N &= setup.selection.wanted[part.name]
            elif setup.split is not None:
                goes_N &= pc.equal(table["split"], setup.split).fill_null(False).to_numpy()
            found |= {unit: id_N[unit.first : unit.last][goes_N[unit.first : unit.last]] for unit in some}
        return found

    def lists_what(self, before: Manifest) -> bool:
        """Whether finished embeddings have exactly the faces of this plan, although other faces are erased by now: what
        was erased since then was removed from them as well."""
        erased_M = tombstones.of(self.config.faces, self.config.tombstones).face_id_M
        if before.content["embedded"] + before.content["quarantined"] != self.total:
            return False
        inputs = (table["face_id"].to_numpy() for table in Embeddings(before).iter_tags())
        gone_M = np.union1d(erased_M, self.setup.selection.erased_M)
        return not any(ids.within(id_N, gone_M).any() for id_N in inputs)

    def is_outdated(self) -> bool:
        """Whether faces were erased since the plan was made."""
        return tombstones.of(self.config.faces, self.config.tombstones).digest != self.erasures


def _open_since(config: EmbedConfig, faces: Faces, model: Model) -> Collection:
    since = Collection.open(config.since or "").require_whole()
    if since.fingerprint != model.fingerprint:
        raise FingerprintMismatch(
            f"--since {since.uri} holds vectors of model {since.fingerprint}, --model {model.uri} is "
            f"{model.fingerprint}; a delta needs the same model: give that one, or leave --since out to embed all faces"
        )
    here = {"namespace": faces.namespace, "dtype": config.dtype, "precision": config.precision}
    problems = [
        f"{name} is {value}, in --since {source.manifest.uri} it is {source.manifest.content[name]}; a delta needs the "
        f"same: give that one, or leave --since out to embed all faces"
        for source in since.sources
        for name, value in here.items()
        if source.manifest.content[name] != value
    ]
    if problems:
        raise ConfigError.of(problems)
    return since
