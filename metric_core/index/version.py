"""One version of an index: the handle that knows where its files lie, and writes and reads them.

    VERSION/plan.json               what the version is built from
            template.faiss          trained once, the start of every shard
            shard-000.faiss         vectors under their face_ids
            identities-000.parquet  face_id -> identity of the same rows
            shard-000.json          that shard's receipt, written after both
            manifest.json           written last: the version is finished

Which versions there are, and which of them is live, is left to ``store``.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import manifest, schema
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import Corrupt, IndexBuildError
from metric_core.index import codec, identities
from metric_core.index.build import Built
from metric_core.index.spec import IndexSpec

KIND = "index"
VERSIONS = "versions"


@dataclass(frozen=True)
class Shard:
    """A finished shard's receipt."""

    number: int
    rows: int
    bytes: int
    """size of the FAISS file"""
    sha256: str
    """of the FAISS file"""
    identities_sha256: str
    """of the identity table's file"""
    template: str
    """hash of the template it was started from"""


@dataclass(frozen=True)
class Content:
    """What a version's manifest says; a pure function of inputs and options."""

    fingerprint: str
    """of the model that made the vectors"""
    namespace: str
    """of the face_ids"""
    spec: IndexSpec
    template: str
    """``codec.template_hash`` of the template"""
    shards: list[Shard]
    rows: int
    """vectors the inputs hold"""
    nprobe: int | None
    """tuned; None for a flat index"""
    recall: dict[str, Any]
    """how well it searches, e.g. ``asdict(Tuned)``"""
    inputs: dict[str, Any] = field(default_factory=dict)
    """what it was built from, e.g. the digest of the Embeddings"""

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> "Content":
        """From the ``content`` of a manifest."""
        shards = [Shard(**shard) for shard in content["shards"]]
        return cls(**{**content, "spec": IndexSpec(**content["spec"]), "shards": shards})

    def problems(self) -> list[str]:
        """Why a version cannot be finished with this content, one line per reason."""
        found = []
        numbers = [shard.number for shard in self.shards]
        if numbers != list(range(self.spec.shards)):
            found.append(f"shards {numbers} are there, 0..{self.spec.shards - 1} are needed")
        foreign = [shard.number for shard in self.shards if shard.template != self.template]
        if foreign:
            found.append(f"shards {foreign} were started from another template")
        if (rows := sum(shard.rows for shard in self.shards)) != self.rows:
            found.append(f"the shards hold {rows} rows, the inputs {self.rows}")
        return found


@dataclass(frozen=True)
class Version:
    """The handle of one version, finished or not: small, and valid in every process."""

    index_uri: str
    """Folder or object-store address of the index."""
    id: str
    """Digest of the plan, so that a job that was killed finds its own work again."""

    @property
    def uri(self) -> str:
        """The version's folder."""
        return storage.join(self.index_uri, VERSIONS, self.id)

    @property
    def finished(self) -> bool:
        """Whether it has its manifest."""
        return storage.exists(self._file(manifest.NAME))

    def template(self) -> bytes | None:
        """The trained template; None before it was trained."""
        address = self._file("template.faiss")
        return storage.read_bytes(address) if storage.exists(address) else None

    def put_template(self, data: bytes) -> bytes:
        """Keep the template and return the one that is kept: the first, if two workers trained one."""
        address = self._file("template.faiss")
        return data if storage.create_if_absent(address, data) else storage.read_bytes(address)

    def receipt(self, number: int) -> Shard | None:
        """The receipt of shard ``number``; None when that shard must (still or again) be built."""
        address = self._receipt(number)
        return Shard(**json.loads(storage.read_bytes(address))) if storage.exists(address) else None

    def put_shard(self, number: int, built: Built) -> Shard:
        """Write a checked shard, its identities, and then its receipt."""
        table = io.BytesIO()
        pq.write_table(built.identities, table, compression="zstd")
        storage.write_bytes(self._identities(number), table.getvalue())
        with tempfile.TemporaryDirectory(prefix="likeness-") as temp:
            path = Path(temp) / "shard.faiss"
            sha256, size = codec.write_file(built.index, path), path.stat().st_size
            storage.put_file(path, self._faiss(number))
        shard = Shard(
            number=number,
            rows=built.rows,
            bytes=size,
            sha256=sha256,
            identities_sha256=storage.sha256(self._identities(number)),
            template=codec.trained_hash(built.index),
        )
        storage.write_bytes(self._receipt(number), manifest.canonical(asdict(shard)))
        return shard

    def read_shard(self, shard: Shard, template: str) -> tuple[Any, pa.Table]:
        """The FAISS index and the identities (``identities.SCHEMA``) of the shard that a receipt describes.

        Args:
            shard: the receipt.
            template: hash of the template that the shard must have been started from.

        Raises:
            Corrupt: a file is not what its digest says, or the shard has another template or other rows.
        """
        address, beside = self._faiss(shard.number), self._identities(shard.number)
        with storage.local_copy(address) as path:
            index = codec.read_file(path, shard.sha256, address)
        if codec.trained_hash(index) != template or index.ntotal != shard.rows:
            raise Corrupt(f"{address} has another template or other rows than its manifest says; build the index again")
        data = storage.read_bytes(beside)
        if hashlib.sha256(data).hexdigest() != shard.identities_sha256:
            raise Corrupt(f"{beside}: its sha256 is not the manifest's; build it again")
        return index, schema.check(pq.read_table(io.BytesIO(data)), identities.SCHEMA, address)

    def finish(self, content: Content, provenance: Mapping[str, Any]) -> Manifest:
        """Write the manifest; the version can be published then.

        Raises:
            IndexBuildError: shards are missing, of another template, or do not add up to the inputs' rows.
        """
        if problems := content.problems():
            raise IndexBuildError(f"{self.uri}: {'; '.join(problems)}; build the index again")
        return manifest.write(self.uri, KIND, asdict(content), provenance)

    def manifest(self) -> Manifest:
        """Raises Missing, Unfinished or Corrupt as ``manifest.read`` does."""
        return manifest.read(self.uri, KIND)

    def content(self) -> Content:
        """What the manifest says. Raises as ``manifest``."""
        return Content.parse(self.manifest().content)

    def faces(self) -> str | None:
        """Where the Faces of its vectors were when it was built, if that was known. Raises as ``manifest``."""
        return self.manifest().provenance.get("faces")

    def check_files(self) -> None:
        """Compare the size of every shard with the manifest, without reading the shards.

        Raises:
            Missing, Unfinished: as ``manifest``.
            Corrupt: the manifest is damaged, or a shard is not there or of another size.
        """
        for shard in self.content().shards:
            address = self._faiss(shard.number)
            if not storage.exists(address) or storage.size(address) != shard.bytes:
                raise Corrupt(f"{address} is not the {shard.bytes} bytes its manifest says; build the index again")

    def _file(self, name: str) -> str:
        return storage.join(self.uri, name)

    def _faiss(self, number: int) -> str:
        return self._file(f"shard-{number:03d}.faiss")

    def _identities(self, number: int) -> str:
        return self._file(f"identities-{number:03d}.parquet")

    def _receipt(self, number: int) -> str:
        return self._file(f"shard-{number:03d}.json")
