"""Several Embeddings artefacts read as one, in order: what a later one says of a face stands.

A delta (``embed --since``) holds the faces that are new or changed and lists those that are gone; behind the artefacts
that it is a delta of, it gives the vectors that embedding the whole catalogue would. A face is hidden in an artefact
when a later one took it in again, even without success, or lists it as gone; erased faces can be hidden everywhere.

Shape letters: M ids of a sorted set, N faces, D components.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from metric_core import storage
from metric_core.artefacts import embeddings, ids, manifest, tombstones
from metric_core.artefacts.embeddings import Embeddings, Vectors
from metric_core.errors import ConfigError, FingerprintMismatch


@dataclass(frozen=True)
class Layer:
    """One of the artefacts."""

    source: Embeddings
    hidden_M: np.ndarray
    """int64, sorted: faces of it that are not read."""


@dataclass(frozen=True)
class Collection:
    """Artefacts of one model and one namespace, opened for reading."""

    layers: list[Layer]
    """In order; at least one."""

    @classmethod
    def open(cls, addresses: str) -> "Collection":
        """Open ``A`` or ``A,B,...``; the ids of all but the last are read once.

        Raises:
            FingerprintMismatch: they are of different models.
            ConfigError: they do not fit together otherwise, or a delta is not behind what it is a delta of.
            ArtefactError: one of them is not whole, as ``Embeddings.open``.
        """
        sources = [Embeddings.open(address.strip()) for address in addresses.split(",")]
        for source in sources[1:]:
            _require_alike(sources[0], source)
        for n, source in enumerate(sources if len(sources) > 1 else []):  # a delta may be looked into by itself
            before = {other.manifest.content["plan_id"] for other in sources[:n]}
            if not before.issuperset(source.since):
                raise ConfigError(f"{source.manifest.uri} is a delta of {_bases(source)}; give those before it")
        layers: list[Layer] = []
        superseded_M = ids.NONE
        for source in reversed(sources):
            layers.insert(0, Layer(source, _hidden(source, superseded_M)))
            if source is not sources[0]:
                superseded_M = np.unique(np.concatenate([superseded_M, _taken_in(source), source.gone()]))
        return cls(layers)

    @property
    def sources(self) -> list[Embeddings]:
        """The artefacts, in order."""
        return [layer.source for layer in self.layers]

    @property
    def first(self) -> Embeddings:
        """The first of them; model, namespace and dtype are the same for all."""
        return self.layers[0].source

    @property
    def uri(self) -> str:
        """The addresses, as they are given on a command line."""
        return ",".join(source.manifest.uri for source in self.sources)

    @property
    def faces(self) -> str | None:
        """Where the Faces of the last were when they were embedded: its catalogue has all that the others have not
        lost since."""
        return self.sources[-1].manifest.provenance.get("faces")

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
        """Components a vector."""
        return self.first.dim

    @property
    def rows(self) -> int:
        """Vectors to be read."""
        return sum(layer.source.rows - len(layer.hidden_M) for layer in self.layers)

    @property
    def salts(self) -> dict[str, int]:
        """The catalogues' collisions, key -> salt."""
        return {key: salt for source in self.sources for key, salt in source.manifest.content["salts"].items()}

    @property
    def digest(self) -> str:
        """Equal for equal vectors; one whole artefact's own when nothing of it is hidden."""
        if len(self.layers) == 1 and not len(self.layers[0].hidden_M):
            return self.first.manifest.digest
        return manifest.digest([[a.source.manifest.digest, ids.digest(a.hidden_M)] for a in self.layers])

    def require_whole(self) -> "Collection":
        """The collection itself, unless it starts with a delta, which would leave out what was embedded before.

        Raises:
            ConfigError: naming the artefacts that are needed before it.
        """
        if self.first.since:
            uri = self.first.manifest.uri
            raise ConfigError(f"{uri} is a delta of {_bases(self.first)}; give those before it: A,{uri}")
        return self

    def without_erased(self, folder: str | None = None) -> "Collection":
        """The same without what was erased; where something was, ids and names are read once.

        ``folder``: the tombstones; None: those beside the Faces of each artefact, where that says which they were.

        Raises:
            Missing: ``folder`` is not there.
        """
        known = [source.manifest.provenance.get("faces") for source in self.sources]
        folders = {tombstones.named(folder)} if folder else {tombstones.beside(uri) for uri in known if uri}
        lists = [found for found in map(tombstones.read, sorted(folders)) if found]
        if not lists:
            return self
        layers = []
        for layer in self.layers:
            hidden = [layer.hidden_M]
            for table in layer.source.iter_columns(["face_id", "identity"]):
                erased_N = np.any([found.erased(table, self.namespace) for found in lists], axis=0)
                hidden.append(table["face_id"].to_numpy()[erased_N])
            layers.append(Layer(layer.source, np.unique(np.concatenate(hidden))))
        return Collection(layers)

    def unguarded(self) -> list[Embeddings]:
        """The artefacts of which ``without_erased`` cannot know by itself what was erased: neither their Faces nor
        tombstones beside those are where they were.
        """
        remembered = [(source, source.manifest.provenance.get("faces")) for source in self.sources]
        return [
            source
            for source, faces in remembered
            if not faces or not any(storage.exists(uri) for uri in (faces, tombstones.beside(faces)))
        ]

    def iter_vectors(self) -> Iterator[Vectors]:
        """The vectors, a part at a time, its bytes checked."""
        for layer in self.layers:
            for block in layer.source.iter_vectors():
                seen_N = ~ids.within(block.face_id_N, layer.hidden_M)
                yield Vectors(block.face_id_N[seen_N], block.identity_N[seen_N], block.embedding_ND[seen_N])

    def iter_columns(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns, ``face_id`` among them, of the same rows; a part at a time, without a look at the sha256."""
        for layer in self.layers:
            for table in layer.source.iter_columns(columns):
                yield table.filter(~ids.within(table["face_id"].to_numpy(), layer.hidden_M))

    def take(self, id_M: np.ndarray) -> Vectors:
        """The vectors of some faces, sorted by face_id; of parts that have none of them only the ids are read.

        ``id_M``: int64, sorted; ids that are not there are passed over.
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
            state_M = np.setdiff1d(state_M, np.concatenate([_taken_in(source), source.gone()]))
            state_M = np.union1d(state_M, np.concatenate([ids.NONE, *rejects]))
        return state_M

    def load(self) -> Vectors:
        """All vectors at once: for galleries that fit in memory."""
        return embeddings.concatenate(list(self.iter_vectors()), self.dim)


def _hidden(source: Embeddings, superseded_M: np.ndarray) -> np.ndarray:
    if not len(superseded_M):
        return ids.NONE
    found = [table["face_id"].to_numpy() for table in source.iter_columns(["face_id"])]
    return np.sort(np.concatenate([ids.NONE, *(id_N[ids.within(id_N, superseded_M)] for id_N in found)]))


def _taken_in(source: Embeddings) -> np.ndarray:
    return np.concatenate([ids.NONE, *(table["face_id"].to_numpy() for table in source.iter_tags())])


def _bases(source: Embeddings) -> str:
    """The artefacts it is a delta of, for a person: where they were and, in case they moved, their plan ids."""
    uris = source.manifest.provenance.get("since") or ["?"] * len(source.since)
    return ", ".join(f"{uri} (plan {plan_id[:12]})" for uri, plan_id in zip(uris, source.since))


def _require_alike(one: Embeddings, other: Embeddings) -> None:
    if one.fingerprint != other.fingerprint:
        raise FingerprintMismatch(
            f"{other.manifest.uri} holds vectors of model {other.fingerprint}, {one.manifest.uri} of model "
            f"{one.fingerprint}; vectors of two models cannot be compared: embed one of them again with the other's"
        )
    problems = [
        f"{name} is {one.manifest.content[name]} in {one.manifest.uri} and {other.manifest.content[name]} in "
        f"{other.manifest.uri}; what is read as one must have the same: embed one of them anew"
        for name in ("namespace", "dim", "dtype")
        if one.manifest.content[name] != other.manifest.content[name]
    ]
    if problems:
        raise ConfigError.of(problems)
