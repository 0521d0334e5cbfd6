"""Several Embeddings artefacts read as one, in order: the latest artefact wins for each face.

A delta (``embed --since``) holds the faces that are new or changed and lists those that are gone. Read after the
artefacts it is a delta of, it gives the same vectors as embedding the whole catalogue. A face is hidden in an artefact
if a later one embedded it again, even without success, or lists it as gone. Erased faces can be hidden everywhere.

Shape letters: M ids of a sorted set, N faces, D components.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from metric_core import storage
from metric_core.artefacts import embeddings, ids, manifest, tombstones
from metric_core.artefacts.embeddings import Embeddings, Vectors
from metric_core.artefacts.faces import require_named
from metric_core.errors import ConfigError, FingerprintMismatch


@dataclass(frozen=True)
class Layer:
    """One of the artefacts."""

    source: Embeddings
    hidden_M: np.ndarray
    """int64, sorted: its faces that are not read."""
    erased_M: np.ndarray = field(default_factory=lambda: ids.NONE)
    """int64, sorted: those of them that are hidden because they are erased."""


@dataclass(frozen=True)
class Collection:
    """Artefacts of one model and one namespace, opened for reading."""

    layers: list[Layer]
    """In order; at least one."""

    @classmethod
    def open(cls, addresses: str, after: frozenset[str] | None = None) -> "Collection":
        """Open ``A`` or ``A,B,...``; the ids of all but the last are read once.

        Args:
            addresses: of the artefacts.
            after: plan ids of artefacts that come before these and are not read; None: a delta may be opened alone.

        Raises:
            FingerprintMismatch: they hold vectors of different models.
            ConfigError: they do not fit together otherwise, or a delta does not follow the artefacts it is a delta of.
            ArtefactError: one of them cannot be opened; see ``Embeddings.open``.
        """
        return cls.of([Embeddings.open(address.strip()) for address in addresses.split(",")], after)

    @classmethod
    def of(cls, sources: Sequence[Embeddings], after: frozenset[str] | None = None) -> "Collection":
        """The collection of some artefacts, at least one. As ``open``."""
        for source in sources[1:]:
            _require_alike(sources[0], source)
        alone = len(sources) == 1 and after is None
        for n, source in enumerate([] if alone else sources):
            before = {other.plan_id for other in sources[:n]} | (after or frozenset())
            if not before.issuperset(source.since):
                raise ConfigError(f"{source.manifest.uri} is a delta of {bases(source)}; list those before it")
        layers: list[Layer] = []
        superseded_M = ids.NONE
        for source in reversed(sources):
            layers.insert(0, Layer(source, _hidden(source, superseded_M)))
            if source is not sources[0]:
                superseded_M = np.unique(np.concatenate([superseded_M, _input_ids(source), source.gone()]))
        return cls(layers)

    @property
    def sources(self) -> list[Embeddings]:
        """The artefacts, in order."""
        return [layer.source for layer in self.layers]

    @property
    def first(self) -> Embeddings:
        """The first artefact; all have the same model, namespace and dtype."""
        return self.layers[0].source

    @property
    def uri(self) -> str:
        """The addresses, joined by commas as on the command line."""
        return ",".join(source.manifest.uri for source in self.sources)

    @property
    def faces(self) -> str | None:
        """Where the last artefact's Faces were when it was embedded. That catalogue has all faces of the collection."""
        return self.sources[-1].manifest.noted("faces")

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that made the vectors."""
        return self.first.fingerprint

    @property
    def namespace(self) -> str:
        """The namespace that the face_ids were derived in."""
        return self.first.namespace

    @property
    def dim(self) -> int:
        """Components per vector."""
        return self.first.dim

    @property
    def rows(self) -> int:
        """The number of vectors that are read, hidden ones left out."""
        return sum(layer.source.rows - len(layer.hidden_M) for layer in self.layers)

    @property
    def plan_ids(self) -> list[str]:
        """Those of the artefacts, in order."""
        return [source.plan_id for source in self.sources]

    def superseded(self) -> tuple[np.ndarray, np.ndarray]:
        """The faces of artefacts before these that are not read any more: int64, sorted, those that were embedded again
        here, even without success, and those that are gone."""
        again_M = gone_M = ids.NONE
        for source in self.sources:
            inputs_M = np.unique(_input_ids(source))
            again_M = np.union1d(again_M, inputs_M)
            gone_M = np.union1d(np.setdiff1d(gone_M, inputs_M), source.gone())
        return np.setdiff1d(again_M, gone_M), gone_M

    @property
    def salts(self) -> dict[str, int]:
        """The catalogues' collisions, key -> salt."""
        return {key: salt for source in self.sources for key, salt in source.manifest.content["salts"].items()}

    @property
    def digest(self) -> str:
        """Equal for equal vectors; for a single artefact with nothing hidden, its manifest's digest."""
        if len(self.layers) == 1 and not len(self.layers[0].hidden_M):
            return self.first.manifest.digest
        return manifest.digest([[a.source.manifest.digest, ids.digest(a.hidden_M)] for a in self.layers])

    @property
    def origin(self) -> str:
        """What plans name the collection by: as ``digest``, before anything was erased from the artefacts' files.

        Faces that are hidden as erased and are still in the files count, those that are gone from the files do not. So
        the plan of what was made before an erasure is the same again once the files are without the erased; until then
        there are others. Which faces a later artefact hides follows from the artefacts.
        """
        if len(self.layers) == 1 and not len(self.layers[0].hidden_M):
            return self.first.manifest.origin
        return manifest.digest([[a.source.manifest.origin, ids.digest(a.erased_M)] for a in self.layers])

    def require_whole(self) -> "Collection":
        """The collection itself, if it does not start with a delta, which would lack what was embedded before.

        Raises:
            ConfigError: it starts with a delta; the message names the artefacts that are needed before it.
        """
        if self.first.since:
            uri = self.first.manifest.uri
            raise ConfigError(f"{uri} is a delta of {bases(self.first)}; list those before it: A,{uri}")
        return self

    def require_named(self, purpose: str) -> None:
        """Raises DataError if a face has no name, see ``faces.require_named``. Names are read only if they may be
        missing."""
        if any(source.unlabelled for source in self.sources):
            require_named(self.iter_columns(["face_id", "identity"]), self.uri, purpose)

    def without_erased(self, folder: str | None = None) -> "Collection":
        """The collection without erased faces; if there are tombstones, ids and names are read once.

        Args:
            folder: the tombstones; None for those beside the Faces of each artefact whose provenance names its Faces.

        Raises:
            Missing: ``folder`` does not exist.
        """
        known = [source.manifest.noted("faces") for source in self.sources]
        folders = {tombstones.existing(folder)} if folder else {tombstones.beside(uri) for uri in known if uri}
        lists = [found for found in map(tombstones.read, sorted(folders)) if found]
        if not lists:
            return self
        layers = []
        for layer in self.layers:
            erased = [ids.NONE]
            for table in layer.source.iter_columns(["face_id", "identity"]):
                erased_N = np.any([found.erased(table, self.namespace) for found in lists], axis=0)
                erased.append(table["face_id"].to_numpy()[erased_N])
            erased_M = np.unique(np.concatenate(erased))
            layers.append(Layer(layer.source, np.union1d(layer.hidden_M, erased_M), erased_M))
        return Collection(layers)

    def unguarded(self) -> list[Embeddings]:
        """The artefacts for which ``without_erased()`` cannot find out what was erased: neither their Faces nor
        tombstones beside those are where they were at the time of embedding.
        """
        recorded = [(source, source.manifest.noted("faces")) for source in self.sources]
        return [
            source
            for source, faces in recorded
            if not faces or not any(storage.exists(uri) for uri in (faces, tombstones.beside(faces)))
        ]

    def iter_vectors(self) -> Iterator[Vectors]:
        """The vectors, one part at a time; each part's bytes are checked. Raises Corrupt or SchemaMismatch."""
        for layer in self.layers:
            for block in layer.source.iter_vectors():
                visible_N = ~ids.within(block.face_id_N, layer.hidden_M)
                yield Vectors(block.face_id_N[visible_N], block.identity_N[visible_N], block.embedding_ND[visible_N])

    def iter_columns(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns, ``face_id`` among them, of the same rows; one part at a time, without checking the sha256."""
        for layer in self.layers:
            for table in layer.source.iter_columns(columns):
                yield table.filter(~ids.within(table["face_id"].to_numpy(), layer.hidden_M))

    def take(self, id_M: np.ndarray) -> Vectors:
        """The vectors of some faces, sorted by face_id; of parts that have none of them, only the ids are read.

        Args:
            id_M: int64, sorted; ids that are not in the collection are ignored.
        """
        found = []
        for layer in self.layers:
            parts = [part for part in layer.source.parts if part["rows"]]
            for part, table in zip(parts, layer.source.iter_columns(["face_id"])):
                id_N = table["face_id"].to_numpy()
                wanted_N = ids.within(id_N, id_M) & ~ids.within(id_N, layer.hidden_M)
                if wanted_N.any():
                    found.append(embeddings.from_table(layer.source.read_part(part).filter(wanted_N)))
        rows = embeddings.concatenate(found, self.dim)
        order_N = np.argsort(rows.face_id_N)
        return Vectors(rows.face_id_N[order_N], rows.identity_N[order_N], rows.embedding_ND[order_N])

    def quarantined(self) -> np.ndarray:
        """int64 (M,), sorted: faces whose last embedding failed."""
        state_M = ids.NONE
        for source in self.sources:
            rejects = [table["face_id"].to_numpy() for table in source.iter_quarantine()]
            state_M = np.setdiff1d(state_M, np.concatenate([_input_ids(source), source.gone()]))
            state_M = np.union1d(state_M, np.concatenate([ids.NONE, *rejects]))
        return state_M

    def load(self) -> Vectors:
        """All vectors at once, for galleries that fit in memory."""
        return embeddings.concatenate(list(self.iter_vectors()), self.dim)


def _hidden(source: Embeddings, superseded_M: np.ndarray) -> np.ndarray:
    if not len(superseded_M):
        return ids.NONE
    found = [table["face_id"].to_numpy() for table in source.iter_columns(["face_id"])]
    return np.sort(np.concatenate([ids.NONE, *(id_N[ids.within(id_N, superseded_M)] for id_N in found)]))


def _input_ids(source: Embeddings) -> np.ndarray:
    """The faces that the artefact embedded or failed to embed."""
    return np.concatenate([ids.NONE, *(table["face_id"].to_numpy() for table in source.iter_tags())])


def bases(source: Embeddings) -> str:
    """The artefacts that ``source`` is a delta of, for messages: their addresses and, in case they moved, plan ids."""
    uris = source.manifest.provenance.get("since") or ["?"] * len(source.since)
    return ", ".join(f"{uri} (plan {plan_id[:12]})" for uri, plan_id in zip(uris, source.since))


def _require_alike(one: Embeddings, other: Embeddings) -> None:
    if one.fingerprint != other.fingerprint:
        raise FingerprintMismatch(
            f"{other.manifest.uri} holds vectors of model {other.fingerprint}, {one.manifest.uri} of model "
            f"{one.fingerprint}; vectors of two models cannot be compared: embed both with the same model"
        )
    problems = [
        f"{name} is {one.manifest.content[name]} in {one.manifest.uri} and {other.manifest.content[name]} in "
        f"{other.manifest.uri}; artefacts that are read as one must have the same: embed one of them again"
        for name in ("namespace", "dim", "dtype")
        if one.manifest.content[name] != other.manifest.content[name]
    ]
    if problems:
        raise ConfigError.of(problems)
