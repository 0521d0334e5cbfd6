"""The options of ``likeness index``."""

import re
from dataclasses import dataclass, field
from typing import ClassVar

from metric_core.index import factory
from metric_core.options import Options, out_of_range
from workflows.shared.options import RunOptions


@dataclass(frozen=True, kw_only=True)
class Gated(Options):
    """What a version that takes the place of the live one may lose."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"beside the live version": ("tolerance", "probes", "force")}

    tolerance: float = 0.003
    """Share of the probes that may no longer find their person first, of the rows and of the people that may be gone;
    more than that stops the new version with exit code 3, and the live one stays."""
    probes: str | None = None
    """Embeddings with names, A or A,B, to compare the versions with beside their own pictures; they are not kept."""
    force: bool = False
    """Publish a worse version as well, or one of another model; the history says so."""

    def problems(self) -> list[str]:
        return out_of_range(self, tolerance="[0, 1]")


@dataclass(frozen=True, kw_only=True)
class Built(RunOptions, Gated):
    """What every job takes that makes a version."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"beside the live version": ("publish",)}

    publish: bool = True
    """Make the version the live one when it is finished."""


@dataclass(frozen=True, kw_only=True)
class IndexConfig(Built):
    """Build and publish a version of an index."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input and output": ("embeddings", "out", "tombstones", "picture", "dry_run", "verify"),
        "index": (
            "target_identity_recall",
            "target_recall",
            "memory_budget",
            "disk_budget",
            "spec",
            "shards",
            "seed",
        ),
    }

    embeddings: str
    """The Embeddings artefact to index, or several read as one: A,B; for each face the latest artefact wins."""
    out: str
    """Folder or object-store address of the Index; a new version is added to those that are there."""
    tombstones: str | None = None
    """Folder of erased faces, which are left out; default: the folder tombstones next to their Faces."""
    picture: str | None = None
    """PNG file to write, with the recall that each amount of work per probe reached."""
    dry_run: bool = False
    """Choose an index on a sample, show what building it would take, and write nothing."""
    verify: bool = False
    """Hash every file of a finished index again, also those that have not changed since this machine hashed them."""
    target_identity_recall: float = 0.99
    """Share of held-out probes whose person must come first, of those whose person an exact search puts first, above 0
    and at most 1; 1 keeps the index exact."""
    target_recall: float | None = None
    """Share of the true 10 nearest vectors that a search must find as well, above 0 and at most 1; default: it does
    not matter which strangers come fifth to tenth."""
    memory_budget: str | None = None
    """Memory that a search on one thread may add to its process, such as 4GiB or 500MB; default: no limit."""
    disk_budget: str | None = None
    """Disk that the index may take, such as 40GiB; default: no limit."""
    spec: str | None = None
    """The index to build, for experts: Flat, SQfp16, SQ8, IVF<lists>,SQ8, IVF<lists>,PQ<M>x4fsr,Refine(SQfp16),
    IVF<lists>,RaBitQfs4,Refine(SQ8) ...; default: the one that reaches the targets with the least work."""
    shards: int | None = None
    """Number of shards that the vectors are divided among, each of whole parts; default: shards of about 1 GiB."""
    seed: int = 0
    """Random seed for the sample, the probes and k-means."""

    def problems(self) -> list[str]:
        problems = super().problems()
        problems += out_of_range(self, shards="[1, inf)", target_identity_recall="(0, 1]", target_recall="(0, 1]")
        for name in ("memory_budget", "disk_budget"):
            try:
                if self._bytes(name) == 0:
                    problems.append(f"{name} is {getattr(self, name)!r}; expected more than nothing")
            except ValueError as error:
                problems.append(f"{name} is {getattr(self, name)!r}; {error}")
        return problems if self.spec is None else problems + self._problems_of(self.spec)

    def _problems_of(self, spec: str) -> list[str]:
        """Those that do not depend on the vectors' dimension."""
        if not spec.strip():
            return [f"spec is {spec!r}; leave it out for the best one"]
        parsed = factory.parse(spec)
        if parsed is None:
            near = factory.nearest(spec, factory.ANY_DIM)
            return [f"spec is {spec!r}; expected {', '.join(factory.FORMS)}; the nearest is {near!r}"]
        problems = [f"spec is {spec!r}; {reason}" for reason in factory.reasons_against(parsed, factory.ANY_DIM)]
        exact = [name for name in ("target_identity_recall", "target_recall") if getattr(self, name) == 1]
        if exact and parsed.code != "Flat":
            problems.append(
                f"{exact[0]} is 1 and spec is {spec!r}, which does not find everything; expected a target below 1, or "
                f"--spec Flat or IVF<lists>,Flat"
            )
        return problems

    @property
    def memory_bytes(self) -> int | None:
        """The memory budget in bytes."""
        return self._bytes("memory_budget")

    @property
    def disk_bytes(self) -> int | None:
        """The disk budget in bytes."""
        return self._bytes("disk_budget")

    def _bytes(self, name: str) -> int | None:
        text = getattr(self, name)
        return None if text is None else bytes_of(text)


@dataclass(frozen=True, kw_only=True)
class AddConfig(Built):
    """Add embeddings to an index as a new version, which shares what it can with the one that they are added to."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input and output": ("index", "embeddings", "version", "tombstones", "verify"),
    }

    index: str
    """Folder or object-store address of the Index."""
    embeddings: str
    """The delta to add, as `embed --since` writes it, or several in order: D1,D2. Other Embeddings may only have faces
    that are new to the index. Says when a full build is advised: new rows are 10 % less similar to the centroids of
    their lists than the stored probes, the imbalance of the lists grew 1.5 times, the identity recall of the stored
    probes fell by 0.5 points, or over 20 % of the rows were added or masked since the last full build."""
    version: str | None = None
    """Id of the version to add to; default: the live one."""
    tombstones: str | None = None
    """Folder of erased faces, which are left out and hidden; default: the folders tombstones next to their Faces."""
    verify: bool = False
    """Hash every file of the index again, also those that have not changed since this machine hashed them."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig(Options):
    """Verify an index."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input": ("index", "version", "verify"),
    }

    index: str
    """The Index to check."""
    version: str | None = None
    """Id of the version to check; default: the live one."""
    verify: bool = False
    """Hash every file again, also those that have not changed since this machine hashed them."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Options):
    """Write an index as one file for plain FAISS."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input and output": ("index", "version", "out"),
    }

    index: str
    """The Index to export."""
    version: str | None = None
    """Id of the version to export; default: the live one."""
    out: str
    """File to write: NAME.faiss, for faiss.read_index, whose ids are face_ids; the identities are written to
    NAME.identities.parquet."""

    def problems(self) -> list[str]:
        if not self.out.endswith(".faiss"):
            return [f"out is {self.out!r}; expected a name that ends in .faiss"]
        return []


@dataclass(frozen=True, kw_only=True)
class VersionsConfig(Options):
    """List the versions of an index."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"input": ("index",)}

    index: str
    """The Index."""


@dataclass(frozen=True, kw_only=True)
class PublishConfig(Gated):
    """Make a version of an index the live one."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"input": ("index", "version")}

    index: str
    """The Index."""
    version: str
    """Id of the version, from `likeness index versions`."""


@dataclass(frozen=True, kw_only=True)
class RollbackConfig(Options):
    """Go back to the version that was live before."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"input": ("index", "to")}

    index: str
    """The Index."""
    to: str | None = None
    """Id of a version that was live earlier; default: the last one before the live one."""


@dataclass(frozen=True, kw_only=True)
class PruneConfig(Options):
    """Remove old versions of an index."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input": ("index",),
        "what goes": ("keep", "older", "version", "unfinished", "dry_run"),
    }

    index: str
    """The Index."""
    keep: int | None = None
    """Keep so many of the latest finished versions. The live one always stays, and every file that a kept version
    lists."""
    older: str | None = None
    """Remove only versions that were finished longer ago than this, such as 30d or 12h."""
    version: list[str] = field(default_factory=list)
    """Remove these versions, by id."""
    unfinished: bool = False
    """Remove versions that were begun and not finished as well; their builds start anew."""
    dry_run: bool = False
    """Say what would go, and remove nothing."""

    def problems(self) -> list[str]:
        problems = out_of_range(self, keep="[0, inf)")
        if self.older is not None and not re.fullmatch(r"[0-9]+[dh]", self.older):
            problems.append(f"older is {self.older!r}; expected a number of days or hours, such as 30d or 12h")
        if self.keep is None and self.older is None and not self.version and not self.unfinished:
            problems.append("nothing says what goes; expected --keep, --older, --version or --unfinished")
        return problems

    @property
    def hours(self) -> int | None:
        """The age in hours, or None."""
        return None if self.older is None else int(self.older[:-1]) * (24 if self.older.endswith("d") else 1)


@dataclass(frozen=True, kw_only=True)
class DiffConfig(Options):
    """Say whose answers differ between two versions of an index."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"input": ("index", "a", "b", "top")}

    index: str
    """The Index."""
    a: str | None = None
    """Id of a version; default: the live one."""
    b: str
    """Id of the version to compare it with."""
    top: int = 20
    """Probes that are shown, of those whose first person differs; all are counted."""

    def problems(self) -> list[str]:
        return out_of_range(self, top="[0, inf)")


def bytes_of(size: str) -> int:
    """A size such as ``4GiB`` (powers of 1024), ``500 MB`` (of 1000) or ``4096`` in bytes. Raises ValueError."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*(?:([KMGTP])(i?))?B?", size.strip(), re.IGNORECASE)
    if not found:
        raise ValueError("expected a size such as 4GiB or 500MB")
    number, unit, binary = found.groups()
    power = "KMGTP".index(unit.upper()) + 1 if unit else 0
    return int(float(number) * (1024 if binary else 1000) ** power)
