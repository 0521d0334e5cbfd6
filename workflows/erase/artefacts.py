"""The artefacts that a command erases from, opened and, while it works, held by their leases."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ConfigError, Unfinished
from workflows.erase.config import EraseConfig
from workflows.shared import lease


@dataclass(frozen=True)
class Artefacts:
    """What a command names."""

    faces: Faces
    embeddings: list[Embeddings] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    """Addresses of Embeddings that a job has begun and not finished."""
    indexes: list[str] = field(default_factory=list)
    """Addresses of Indexes."""
    searches: list[Manifest] = field(default_factory=list)
    """Matches."""

    @classmethod
    def open(cls, config: EraseConfig) -> "Artefacts":
        """Open everything that the options name.

        Raises:
            Missing, Unfinished, Corrupt, SchemaMismatch: an artefact is not there or not what was expected.
            ConfigError: embeddings are of another namespace than the Faces.
        """
        faces = Faces.open(config.faces)
        finished, unfinished = [], []
        for uri in map(storage.absolute, config.addresses("embeddings")):
            try:
                finished.append(Embeddings.open(uri))
            except Unfinished:
                if not storage.exists(storage.join(uri, manifest.PLAN)):
                    raise
                manifest.require_own(uri)
                unfinished.append(uri)
        problems = [
            f"embeddings: {one.manifest.uri} is of namespace {one.namespace!r}, {faces.uri} of {faces.namespace!r}, "
            f"so its face_ids are others; give the Faces that it was made of"
            for one in finished
            if one.namespace != faces.namespace
        ]
        if problems:
            raise ConfigError.of(problems)
        return cls(
            faces,
            finished,
            unfinished,
            [_index(storage.absolute(uri)) for uri in config.addresses("index")],
            [manifest.read(storage.absolute(uri), "matches") for uri in config.addresses("matches")],
        )

    @property
    def uris(self) -> list[str]:
        """All addresses, sorted: two commands that take several leases take them in the same order."""
        manifests = [self.faces.manifest, *(one.manifest for one in self.embeddings), *self.searches]
        return sorted({*(one.uri for one in manifests), *self.unfinished, *self.indexes})


@contextmanager
def held(config: EraseConfig) -> Iterator[Artefacts]:
    """The artefacts, opened again once the leases of all of them are held.

    Raises:
        JobRunning: another job writes one of them; nothing was changed.
    """
    with ExitStack() as leases:
        for uri in Artefacts.open(config).uris:
            leases.enter_context(lease.held(uri))
        yield Artefacts.open(config)


def _index(uri: str) -> str:
    from metric_core.index.store import IndexStore  # imports FAISS, which commands without an index do without

    IndexStore(uri).versions()
    return uri
