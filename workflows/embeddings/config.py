"""The options of ``likeness embeddings check``, ``stats``, ``export`` and ``compare``."""

from dataclasses import dataclass

from metric_core.options import Options, out_of_range

ENDINGS = (".npy", ".fvecs")
"""Formats that vectors are exported in."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig(Options):
    """Verify embeddings."""

    embeddings: str
    """The Embeddings artefact to check, or several read as one: A,B."""
    faces: str | None = None
    """The Faces that they should cover: each face embedded from what its picture is now, quarantined or erased."""
    tombstones: str | None = None
    """Folder of erased faces, with --faces; default: the folder tombstones beside the Faces."""

    def problems(self) -> list[str]:
        if self.tombstones and not self.faces:
            return ["tombstones is given, but nothing is compared with a catalogue; give --faces, too"]
        return []


@dataclass(frozen=True, kw_only=True)
class StatsConfig(Options):
    """Say what embeddings hold."""

    embeddings: str
    """The Embeddings artefact, or several read as one: A,B."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Options):
    """Write vectors for other programs."""

    embeddings: str
    """The Embeddings artefact to export, or several read as one: A,B; without what was erased."""
    out: str
    """File to write: NAME.npy (a float array as stored, faces x components) or NAME.fvecs (float32); the face_ids go
    to NAME.ids.npy (int64), in the same order."""

    def problems(self) -> list[str]:
        if not self.out.endswith(ENDINGS):
            return [f"out is {self.out}; it must end in {' or '.join(ENDINGS)}, which says the format"]
        return []


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Options):
    """Show how scores move with a new model."""

    old: str
    """Embeddings by the model in use, A or A,B read as one."""
    new: str
    """Embeddings of the same faces by the new model."""
    faces: int = 10_000
    """Faces to look at, all pictures of people drawn by a seed, of those that both have."""
    threshold: float | None = None
    """A similarity in use as a threshold; the report says which one of the new model has the same FAR."""
    picture: str | None = None
    """PNG to write: genuine and impostor scores of both."""
    seed: int = 0
    """Of who is drawn."""

    def problems(self) -> list[str]:
        return out_of_range(self, faces="[4, inf)", threshold="(-1, 1)")
