"""One version of an index: the handle that writes and reads its files.

    VERSION/plan.json               inputs and options of the version
            template.faiss          trained once, every shard starts as a copy
            shard-000.faiss         vectors with their face_ids
            identities-000.parquet  face_id -> identity of the same rows
            shard-000.json          the shard's receipt, written after both
            manifest.json           written last: the version is finished

Listing versions and choosing the live one is left to ``store``.
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
    """``codec.template_hash`` of the template it was started from"""


@dataclass(frozen=True)
class Content:
    """The content of a version's manifest, a pure function of inputs and options."""

    fingerprint: str
    """of the model that made the vectors"""
    namespace: str
    """of the face_ids"""
    spec: IndexSpec
    template: str
    """``codec.template_hash`` of the template"""
    shards: list[Shard]
    rows: int
    """vectors in the inputs"""
    nprobe: int | None
    """tuned; None for a flat index"""
    recall: dict[str, Any]
    """the measured recall, e.g. ``asdict(Tuned)``"""
    inputs: dict[str, Any] = field(default_factory=dict)
    """the artefacts it was built from, e.g. the digest of the Embeddings"""

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
            found.append(f"shards {numbers} exist, 0..{self.spec.shards - 1} are needed")
        foreign = [shard.number for shard in self.shards if shard.template != self.template]
        if foreign:
            found.append(f"shards {foreign} were started from another template")
        if (rows := sum(shard.rows for shard in self.shards)) != self.rows:
            found.append(f"the shards hold {rows} rows, the inputs {self.rows}")
        return found


@dataclass(frozen=True)
class Version:
    """The handle of one version, finished or not. It is small and valid in every process."""

    index_uri: str
    """Folder or object-store address of the index."""
    id: str
    """Digest of the plan, so that a job that was killed continues its own version."""

    @property
    def uri(self) -> str:
        """The version's folder."""
        return storage.join(self.index_uri, VERSIONS, self.id)

    @property
    def finished(self) -> bool:
        """Whether it has its manifest."""
        return storage.exists(self._file(manifest.NAME))

    def template(self) -> bytes | None:
        """The trained template; None if there is none yet."""
        address = self._file("template.faiss")
        return storage.read_bytes(address) if storage.exists(address) else None

    def put_template(self, data: bytes) -> bytes:
        """Store the template and return the stored one: the first, if two workers trained one."""
        address = self._file("template.faiss")
        return data if storage.create_if_absent(address, data) else storage.read_bytes(address)

    def receipt(self, number: int) -> Shard | None:
        """The receipt of shard ``number``; None if that shard must be built."""
        address = self._receipt(number)
        return Shard(**json.loads(storage.read_bytes(address))) if storage.exists(address) else None

    def put_shard(self, number: int, built: Built) -> Shard:
        """Write a checked shard and its identities, then its receipt."""
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
        """The FAISS index and the identities (``identities.SCHEMA``) of a shard.

        Args:
            shard: the receipt of the shard.
            template: hash of the template that the shard must have been started from.

        Raises:
            Corrupt: a file's digest differs from the receipt's, or the shard has another template or other rows.
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
        """Write the manifest; after that the version can be published.

        Raises:
            IndexBuildError: shards are missing or of another template, or their rows are not those of the inputs.
        """
        if problems := content.problems():
            raise IndexBuildError(f"{self.uri}: {'; '.join(problems)}; build the index again")
        return manifest.write(self.uri, KIND, asdict(content), provenance)

    def manifest(self) -> Manifest:
        """The manifest. Raises Missing, Unfinished or Corrupt as ``manifest.read``."""
        return manifest.read(self.uri, KIND)

    def content(self) -> Content:
        """The content of the manifest. Raises as ``manifest``."""
        return Content.parse(self.manifest().content)

    def faces(self) -> str | None:
        """The address of the Faces of its vectors when it was built, if known. Raises as ``manifest``."""
        return self.manifest().provenance.get("faces")

    def check_files(self) -> None:
        """Compare the size of every shard with the manifest, without reading the shards.

        Raises:
            Missing, Unfinished: as ``manifest``.
            Corrupt: the manifest is damaged, or a shard is missing or of another size.
        """
        for shard in self.content().shards:
            address = self._faiss(shard.number)
            if not storage.exists(address) or storage.size(address) != shard.bytes:
                raise Corrupt(
                    f"{address} is missing or not the {shard.bytes} bytes of its manifest; build the index again"
                )

    def _file(self, name: str) -> str:
        return storage.join(self.uri, name)

    def _faiss(self, number: int) -> str:
        return self._file(f"shard-{number:03d}.faiss")

    def _identities(self, number: int) -> str:
        return self._file(f"identities-{number:03d}.parquet")

    def _receipt(self, number: int) -> str:
        return self._file(f"shard-{number:03d}.json")
