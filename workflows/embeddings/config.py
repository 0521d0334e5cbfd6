"""The options of ``likeness embeddings check``, ``stats``, ``export`` and ``compare``."""

from dataclasses import dataclass
from typing import ClassVar

from metric_core.options import Options, out_of_range

ENDINGS = (".npy", ".fvecs")
"""Formats that vectors are exported in."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig(Options):
    """Verify embeddings."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input": ("embeddings", "faces", "tombstones"),
    }

    embeddings: str
    """The Embeddings artefact to check, or several read as one: A,B."""
    faces: str | None = None
    """The Faces that they should cover: every face must be embedded from its current picture, quarantined or erased."""
    tombstones: str | None = None
    """Folder of erased faces, with --faces; default: the folder tombstones next to the Faces."""

    def problems(self) -> list[str]:
        if self.tombstones and not self.faces:
            return ["tombstones is given, but nothing is compared with a catalogue; give --faces, too"]
        return []


@dataclass(frozen=True, kw_only=True)
class StatsConfig(Options):
    """Say what embeddings hold."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input": ("embeddings",),
    }

    embeddings: str
    """The Embeddings artefact, or several read as one: A,B."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Options):
    """Write vectors for other programs."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input and output": ("embeddings", "out", "keys", "faces"),
    }

    embeddings: str
    """The Embeddings artefact to export, or several read as one: A,B; erased faces are left out."""
    out: str
    """File to write: NAME.npy (faces x components, number format as stored) or NAME.fvecs (float32); the face_ids are
    written to NAME.ids.npy (int64) in the same order."""
    keys: bool = False
    """Write NAME.keys.parquet, too: face_id, key, uri and identity of each vector in the same order, to join it with
    other tables."""
    faces: str | None = None
    """The Faces that were embedded, for --keys; default: the address that the Embeddings recorded."""

    def problems(self) -> list[str]:
        problems = []
        if not self.out.endswith(ENDINGS):
            problems.append(f"out is {self.out!r}; it must end in {' or '.join(ENDINGS)}, which says the format")
        if self.faces and not self.keys:
            problems.append("faces is given, but nothing of them is written; give --keys, too")
        return problems


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Options):
    """Show how scores move with a new model."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input and output": ("old", "new", "picture"),
        "comparison": ("faces", "threshold", "seed"),
    }

    old: str
    """Embeddings by the model in use, or several read as one: A,B."""
    new: str
    """Embeddings of the same faces by the new model."""
    faces: int = 10_000
    """Number of faces to compare: all pictures of randomly drawn people, of the faces that both have."""
    threshold: float | None = None
    """Similarity that is in use as a threshold; the report names the one of the new model with the same FAR."""
    picture: str | None = None
    """PNG file to write, with the genuine and impostor scores of both."""
    seed: int = 0
    """Random seed for the draw of people."""

    def problems(self) -> list[str]:
        return out_of_range(self, faces="[4, inf)", threshold="(-1, 1)")
