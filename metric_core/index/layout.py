"""Which files an index has, and what the manifest of a version says of its own.

    INDEX/shards/<digest>.faiss, .rows, .vectors   files of ``shard``, named by their content and shared by versions
    INDEX/files/<digest>.template.faiss            trained once, every shard starts as a copy
                         .probes.arrow             the held-out probes
                         .truth.arrow              the probes' exact neighbours among all rows
                         .names.arrow              the distinct identities of all shards
                         .codes.npy                the position in them of each shard's identities, shard by shard
                         .mask.parquet             faces that are in shards and must not be found
    INDEX/versions/<id>/plan.json                  inputs and options of the version
                        choice.json                the spec that was chosen, and from what
                        shard-000.json             a shard's receipt, written after its files
                        shard-000.arrow            the probes' exact neighbours among its rows
                        manifest.json              written last: the version is finished

What lies beside the versions is named by its content and shared by those that have it. At first, a version had such
files but its shards for itself; these are still read.

Reading and writing them is in ``version``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metric_core.errors import ConfigError, Corrupt
from metric_core.index.shard import File, files_of
from metric_core.index.spec import IndexSpec

KIND = "index"
VERSIONS, SHARDS, FILES = "versions", "shards", "files"
TEMPLATE, PROBES, TRUTH, NAMES, CODES, MASK, CHOICE = (
    "template.faiss", "probes.arrow", "truth.arrow", "names.arrow", "codes.npy", "mask.parquet", "choice.json",
)  # fmt: skip
DECIDED = {TEMPLATE: "template", PROBES: "probes"}
"""Files that a choice names by their sha256."""
AFFECTED = "affected"
"""Field of ``Content.recall``: probes that erasures have affected since it was measured."""
REMEDY = "start the job that built the index again with the same arguments, and it is mended"


@dataclass(frozen=True)
class Shard:
    """A finished shard's receipt."""

    digest: str
    """names its files"""
    rows: int
    people: int
    """distinct identities in it"""
    files: dict[str, File]
    """by ending"""
    template: str
    """sha256 of the template that it was started from"""

    @classmethod
    def parse(cls, found: Mapping[str, Any]) -> "Shard":
        """From JSON."""
        return cls(**{**found, "files": {name: File(**file) for name, file in found["files"].items()}})

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(file.bytes for file in self.files.values())


@dataclass(frozen=True)
class Content:
    """The content of a version's manifest, a pure function of inputs and options."""

    fingerprint: str
    """of the model that made the vectors"""
    namespace: str
    """of the face_ids"""
    spec: IndexSpec
    template: str
    """sha256 of the template"""
    shards: list[Shard]
    rows: int
    """vectors in the inputs"""
    people: int
    """distinct identities"""
    nprobe: int | None
    """tuned lists per query; None for an exact scan"""
    depth: int | None
    """tuned candidates per query that are reranked; None where nothing is"""
    recall: dict[str, Any]
    """as measured on the held-out probes: ``asdict(tuning.Tuned)``"""
    inputs: dict[str, Any]
    """the artefacts it was built from, e.g. the digest of the Embeddings"""
    choice: dict[str, Any]
    """how the spec was chosen"""
    files: dict[str, File]
    """the version's own files, by name"""
    mapped: bool = False
    """whether there is memory to map the records for reranking, which are read one by one otherwise"""
    masks: list[dict[str, Any]] = field(default_factory=list)
    """faces that are in shards and must not be found: {name, rows, sha256, why, shards} of each list of face_ids, with
    the number of the first shards that it is about: a later one may hold a face again"""
    calibration: dict[str, Any] | None = None
    """thresholds for target rates of false identifications; None until they are measured"""
    shared: bool = True
    """whether its files lie beside the versions, named by their content; in its own folder otherwise"""
    base: dict[str, Any] | None = None
    """the version that it was added to: {version, digest, shards}, its id, its manifest's digest, and the number of its
    shards, which come first here; None if it was built from nothing"""
    drift: dict[str, Any] | None = None
    """how it differs from its last full build: ``asdict(drift.Drift)``; None where it is one"""

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Content":
        """From the ``content`` of a manifest. Raises Corrupt if it is of another shape."""
        try:
            changed = {
                "spec": IndexSpec(**content["spec"]),
                "shards": [Shard.parse(shard) for shard in content["shards"]],
                "files": {name: File(**file) for name, file in content["files"].items()},
            }
            found = cls(**{**content, **changed})
            if lacking := found._lacking():
                raise ValueError(f"it lists no {', '.join(lacking)}")
            return found
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise Corrupt(f"the manifest of an index does not describe a version ({error}); {REMEDY}") from error

    def _lacking(self) -> list[str]:
        """The files that a search needs and that are not listed."""
        # Without codes apart, as in the first versions with 8-bit product codes, a search maps them with their ids.
        of_shard = [ending for ending in files_of(self.spec) if ending != "codes"]
        found = [name for name in (NAMES, CODES) if name not in self.files]
        return found + [
            f"{one.digest}.{ending}" for one in self.shards for ending in of_shard if ending not in one.files
        ]

    @property
    def inherited(self) -> int:
        """The number of the first shards whose receipts are another version's: those of its base."""
        return 0 if self.base is None else int(self.base["shards"])

    @property
    def bytes(self) -> int:
        """Of all files but the manifest."""
        return sum(shard.bytes for shard in self.shards) + sum(file.bytes for file in self.files.values())

    def problems(self) -> list[str]:
        """Why a version cannot be finished with this content, one line per reason."""
        found = []
        foreign = [shard.digest for shard in self.shards if shard.template != self.template]
        if foreign:
            found.append(f"shards {foreign} were started from another template")
        if (rows := sum(shard.rows for shard in self.shards) - sum(mask["rows"] for mask in self.masks)) != self.rows:
            found.append(f"the shards hold {rows} rows that may be found, the inputs {self.rows}")
        return found
