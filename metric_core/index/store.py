"""The Index artefact: versions side by side, and ``CURRENT``, which names the live one.

    INDEX/CURRENT                               the live version's id
    INDEX/versions/<id>/plan.json               what the version is built from
                        template.faiss          trained once, the start of every shard
                        shard-000.faiss         vectors under their face_ids
                        identities-000.parquet  face_id -> identity of the same rows
                        shard-000.json          that shard's receipt, written after both
                        manifest.json           written last: the version is finished

A version's id is a digest of its plan, so that a job that was killed finds its own work again. What goes into the plan
and when to publish is left to the job.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import manifest, migrate, schema
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ArtefactError, Corrupt, IndexBuildError, Missing, Occupied, Unfinished
from metric_core.index import codec, identities
from metric_core.index.build import Built
from metric_core.index.identities import Identities
from metric_core.index.search import OpenIndex
from metric_core.index.spec import IndexSpec

CURRENT = "CURRENT"
VERSIONS = "versions"
TEMPLATE = "template.faiss"


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
    """how well it searches, e.g. ``asdict(Tuned)`` and the target"""
    inputs: dict[str, Any] = field(default_factory=dict)
    """what it was built from, e.g. the digest of the Embeddings"""


@dataclass(frozen=True)
class Version:
    """One line of the list of versions."""

    id: str
    finished: bool
    live: bool
    rows: int | None
    """None while unfinished"""
    when: str | None
    """provenance ``finished``, as its job wrote it"""


def begin(uri: str, plan: Mapping[str, Any]) -> tuple[str, Manifest | None]:
    """Start or continue the version that ``plan`` describes; its id, and its manifest when it is already finished.

    Raises:
        Occupied: the folder holds something other than an index.
    """
    inside = [name for name in storage.names(uri) if not name.startswith(".")]
    if inside and VERSIONS not in inside:
        raise Occupied(f"{uri} holds {', '.join(inside[:3])} and is no index; give --out an empty or a new folder")
    version = manifest.digest(migrate.hashed("index", "plan", plan))[:16]
    return version, manifest.begin(version_uri(uri, version), "index", plan)


def version_uri(uri: str, version: str) -> str:
    """The version's folder."""
    return storage.join(uri, VERSIONS, version)


def template(uri: str, version: str) -> bytes | None:
    """The version's template if it was trained already."""
    address = storage.join(version_uri(uri, version), TEMPLATE)
    return storage.read_bytes(address) if storage.exists(address) else None


def put_template(uri: str, version: str, data: bytes) -> bytes:
    """Keep the version's template and return the one that is kept: the first, if two workers trained one."""
    address = storage.join(version_uri(uri, version), TEMPLATE)
    return data if storage.create_if_absent(address, data) else storage.read_bytes(address)


def receipt(uri: str, version: str, number: int) -> Shard | None:
    """A shard's receipt, or None when it must (still or again) be built."""
    address = storage.join(version_uri(uri, version), f"shard-{number:03d}.json")
    return Shard(**json.loads(storage.read_bytes(address))) if storage.exists(address) else None


def put_shard(uri: str, version: str, number: int, built: Built) -> Shard:
    """Write a checked shard, its identities, and then its receipt."""
    folder = version_uri(uri, version)
    table = io.BytesIO()
    pq.write_table(built.identities, table, compression="zstd")
    storage.write_bytes(_identities(folder, number), table.getvalue())
    with tempfile.TemporaryDirectory(prefix="likeness-") as temp:
        path = Path(temp) / "shard.faiss"
        sha256, size = codec.write_file(built.index, path), path.stat().st_size
        storage.put_file(path, _faiss(folder, number))
    shard = Shard(
        number=number,
        rows=built.rows,
        bytes=size,
        sha256=sha256,
        identities_sha256=storage.sha256(_identities(folder, number)),
        template=codec.trained_hash(built.index),
    )
    storage.write_bytes(storage.join(folder, f"shard-{number:03d}.json"), manifest.canonical(asdict(shard)))
    return shard


def finish(uri: str, version: str, content: Content, provenance: Mapping[str, Any]) -> Manifest:
    """Write the version's manifest; it can be published then.

    Raises:
        IndexBuildError: shards are missing, of another template, or do not add up to the inputs' rows.
    """
    problems = []
    numbers = [shard.number for shard in content.shards]
    if numbers != list(range(content.spec.shards)):
        problems.append(f"shards {numbers} are there, 0..{content.spec.shards - 1} are needed")
    foreign = [shard.number for shard in content.shards if shard.template != content.template]
    if foreign:
        problems.append(f"shards {foreign} were started from another template")
    if (rows := sum(shard.rows for shard in content.shards)) != content.rows:
        problems.append(f"the shards hold {rows} rows, the inputs {content.rows}")
    if problems:
        raise IndexBuildError(f"{version_uri(uri, version)}: {'; '.join(problems)}; build the index again")
    return manifest.write(version_uri(uri, version), "index", asdict(content), provenance)


def publish(uri: str, version: str) -> None:
    """Make a finished version the live one, in one atomic step; of several publishers the last wins.

    Raises:
        Missing, Unfinished, Corrupt: there is no such version, or it is not whole.
    """
    content = manifest.read(version_uri(uri, version), "index").content
    for shard in content["shards"]:
        address = _faiss(version_uri(uri, version), shard["number"])
        if not storage.exists(address) or storage.size(address) != shard["bytes"]:
            raise Corrupt(f"{address} is not the {shard['bytes']} bytes its manifest says; build the index again")
    address, new = storage.join(uri, CURRENT), f"{version}\n".encode()
    for _ in range(100):
        if storage.create_if_absent(address, new):
            return
        old = storage.read_bytes(address)
        if old == new or storage.replace_if_match(address, new, old):
            return
    raise ArtefactError(f"{address} keeps changing: another job publishes all the time; stop it and publish again")


def current(uri: str) -> str:
    """The live version's id.

    Raises:
        Missing: nothing is there, or no index.
        Unfinished: no version was published yet.
        Corrupt: ``CURRENT`` names a version that is not there.
    """
    address = storage.join(uri, CURRENT)
    if not storage.exists(address):
        if storage.exists(storage.join(uri, VERSIONS)):
            raise Unfinished(
                f"{uri} has no {CURRENT}: no version of this index was published yet; start the job that builds it "
                f"again with the same arguments and it continues"
            )
        raise Missing(f"{uri}: there is no index (neither {CURRENT} nor {VERSIONS}/); build one or check the address")
    version = storage.read_bytes(address).decode(errors="replace").strip()
    if not version or not storage.exists(storage.join(version_uri(uri, version), manifest.NAME)):
        raise Corrupt(f"{address} names version {version!r}, which is not there or not finished; publish another one")
    return version


def versions(uri: str) -> list[Version]:
    """All versions of an index, oldest first as far as their jobs wrote when they finished.

    Raises:
        Missing: nothing is there, or no index.
    """
    if not storage.exists(storage.join(uri, VERSIONS)):
        raise Missing(f"{uri}: there is no index (no {VERSIONS}/); build one or check the address")
    address = storage.join(uri, CURRENT)
    live = storage.read_bytes(address).decode(errors="replace").strip() if storage.exists(address) else None
    out = []
    for name in storage.names(storage.join(uri, VERSIONS)):
        try:
            found = manifest.read(version_uri(uri, name), "index")
        except Unfinished:
            out.append(Version(name, finished=False, live=False, rows=None, when=None))
        else:
            when = found.provenance.get("finished")
            out.append(Version(name, True, name == live, found.content["rows"], None if when is None else str(when)))
    return sorted(out, key=lambda v: (not v.finished, v.when or "", v.id))


def open_index(uri: str, version: str | None = None) -> OpenIndex:
    """Load a finished version, the live one unless named.

    Raises:
        Missing, Unfinished: as ``current`` and ``manifest.read``.
        Corrupt: a file is not what its digest says, or a shard is not of the version's template.
    """
    version = current(uri) if version is None else version
    content = manifest.read(version_uri(uri, version), "index").content
    return open_shards(uri, version, Content(**_typed(content)))


def open_shards(uri: str, version: str, content: Content) -> OpenIndex:
    """Load the shards of a version that may still lack its manifest: to tune it and measure its recall.

    Raises:
        Corrupt: as ``open_index``.
    """
    folder = version_uri(uri, version)
    loaded, tables = [], []
    for shard in content.shards:
        address = _faiss(folder, shard.number)
        with storage.local_copy(address) as path:
            index = codec.read_file(path, shard.sha256, address)
        if codec.trained_hash(index) != content.template or index.ntotal != shard.rows:
            raise Corrupt(f"{address} has another template or other rows than its manifest says; build the index again")
        data = storage.read_bytes(_identities(folder, shard.number))
        if hashlib.sha256(data).hexdigest() != shard.identities_sha256:
            raise Corrupt(f"{_identities(folder, shard.number)}: its sha256 is not the manifest's; build it again")
        tables.append(schema.check(pq.read_table(io.BytesIO(data)), identities.SCHEMA, address))
        loaded.append(index)
    return OpenIndex(
        shards=tuple(loaded),
        identities=Identities.of(tables),
        dim=content.spec.dim,
        fingerprint=content.fingerprint,
        version=version,
        nprobe=content.nprobe,
    )


def _typed(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "spec": IndexSpec(**content["spec"]), "shards": [Shard(**s) for s in content["shards"]]}


def _faiss(folder: str, number: int) -> str:
    return storage.join(folder, f"shard-{number:03d}.faiss")


def _identities(folder: str, number: int) -> str:
    return storage.join(folder, f"identities-{number:03d}.parquet")
