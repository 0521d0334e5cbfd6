"""A catalogue of pictures that nobody decodes, and embeddings, a delta and matches of it, made without model or Ray."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from support import minted

from metric_core import storage
from metric_core.artefacts import delta, manifest, matches, schema
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.erase.config import EraseConfig

PEOPLE, EACH = 12, 6
TWIN = "person-02/0.png"
"""Beside 0.jpg."""


@dataclass(frozen=True)
class World:
    """Addresses of a source and of what was made of it."""

    source: Path
    faces: str
    base: str
    delta: str
    matches: str

    @property
    def artefacts(self) -> list[str]:
        return [self.faces, self.base, self.delta, self.matches]

    def options(self, **more: Any) -> EraseConfig:
        """To erase from everything."""
        how = {"faces": self.faces, "embeddings": [self.base, self.delta], "matches": [self.matches]} | more
        return EraseConfig(**how)

    def catalogue(self) -> dict[str, Any]:
        """The result of the job that made the Faces, once more."""
        return catalogue.run(CatalogueConfig(source=str(self.source), out=self.faces, valid_fraction=0.3))

    def ids(self, person: str) -> set[int]:
        """The face_ids of a person in the catalogue."""
        table = Faces.open(self.faces).table
        return set(table.filter(pc.equal(table["identity"], person))["face_id"].to_pylist())

    def state(self) -> dict[str, Any]:
        """All rows of all artefacts, as values, and their digests."""
        faces = Faces.open(self.faces)
        found: dict[str, Any] = {"faces": rows_of(faces.table)}
        for name in ("base", "delta"):
            source = Embeddings.open(getattr(self, name))
            parts = [source.read_part(part).replace_schema_metadata(None) for part in source.parts]
            found[name] = rows_of(pa.concat_tables([source.schema.empty_table(), *parts]))
            found[f"{name}: tags"] = rows_of(pa.concat_tables([schema.TAGS.empty_table(), *source.iter_tags()]))
            quarantine = pa.concat_tables([schema.QUARANTINE.empty_table(), *source.iter_quarantine()])
            found[f"{name}: quarantine"] = rows_of(quarantine)
            found[f"{name}: gone"] = {(number,) for number in source.gone().tolist()}
        found["matches"] = rows_of(matches.read(manifest.read(self.matches, "matches")))
        return found

    def digests(self) -> list[str]:
        """Of all manifests."""
        kinds = ("faces", "embeddings", "embeddings", "matches")
        return [manifest.read(uri, kind).digest for uri, kind in zip(self.artefacts, kinds)]


def uploaded(made: World, bucket: str) -> World:
    """The same artefacts, copied to another store."""
    there = [storage.join(bucket, uri.rsplit("/", 1)[-1]) for uri in made.artefacts]
    for uri, copy in zip(made.artefacts, there):
        for name, _ in storage.walk(uri):
            storage.write_bytes(storage.join(copy, name), storage.read_bytes(storage.join(uri, name)))
    return World(made.source, *there)


def rows_of(table: pa.Table) -> set[tuple[Any, ...]]:
    """Rows as values, vectors as their bytes."""
    columns = []
    for field in table.schema:
        values = table[field.name].to_pylist()
        vectors = pa.types.is_fixed_size_list(field.type)
        columns.append([np.array(v, np.float32).tobytes() if vectors else _plain(v) for v in values])
    return set(zip(*columns))


def world(root: Path) -> World:
    """Make everything in a folder."""
    source = root / "pictures"
    for person in range(PEOPLE):
        for number in range(EACH):
            path = source / f"person-{person:02d}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{person} {number}".encode())
    (source / TWIN).write_bytes(b"a twin")
    uris = [str(root / name) for name in ("faces", "base", "delta", "matches")]
    catalogue.run(CatalogueConfig(source=str(source), out=uris[0], valid_fraction=0.3))
    faces = Faces.open(uris[0])
    table = faces.table
    rejected = table.slice(3, 60).take(list(range(0, 60, 17)))
    good = table.filter(pc.invert(pc.is_in(table["face_id"], value_set=rejected["face_id"].combine_chunks())))
    _embed(uris[1], faces, good, rejected, 0)
    changed, gone = good.take(list(range(0, 40, 3))), good["face_id"].to_pylist()[41:50]
    _embed(uris[2], faces, changed, rejected.slice(0, 2), 1, gone=gone, since=uris[1])
    _matches(uris[3], good)
    return World(source, *uris)


def _embed(uri: str, faces: Faces, good: pa.Table, rejected: pa.Table, seed: int, **more: Any) -> None:
    tags = delta.tags(pa.concat_tables([good, rejected]))
    since = more.pop("since", None)
    content: dict[str, Any] = {"namespace": faces.namespace, "plan_id": uri}
    content |= {"since": [{"plan_id": since, "digest": "d"}]} if since else {}
    minted.embeddings(
        Path(uri),
        good["face_id"].to_pylist(),
        minted.unit_vectors(good.num_rows, seed=seed),
        identities=good["identity"].to_pylist(),
        rejected=rejected["face_id"].to_pylist(),
        unit=7,
        tags=tags,
        **content,
        **more,
    )
    found = manifest.read(uri, "embeddings")
    manifest.replace(found, found.content, {"faces": faces.uri} | ({"since": [since]} if since else {}))


def _matches(uri: str, good: pa.Table) -> None:
    ids, names = good["face_id"].to_pylist(), good["identity"].to_pylist()
    found = [
        {
            "query": str(ids[n]),
            "rank": rank,
            "identity": names[-m],
            "face_id": ids[-m],
            "score": 1 / m,
            "accepted": None,
        }
        for n in range(0, len(ids), 5)
        for rank, m in enumerate((1 + n, 2 + n // 2, 3 + n // 3), start=1)
    ]
    plan = {"queries": "q", "top": 3, "conditions": {"identities": ["person-01", "person-03"]}}
    manifest.begin(uri, "matches", plan)
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(found, schema.MATCHES), sink, compression="zstd")
    storage.write_bytes(storage.join(uri, matches.FILE), sink.getvalue())
    files = {matches.FILE: {"sha256": hashlib.sha256(sink.getvalue()).hexdigest()}}
    made = {"command": "likeness search --identities person-01 person-03 --out m"}
    manifest.write(uri, "matches", plan | {"rows": len(found)}, made, files)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
