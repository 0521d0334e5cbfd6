"""What the benchmark of erasing does with Faces and Embeddings, each function in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import index_process
import numpy as np
import pandas  # noqa: F401  which Arrow would import while the time is taken
import pyarrow.parquet as pq

from metric_core import storage
from metric_core.artefacts import delta, erasing_proof, manifest, rows
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.artefacts.layout import to_parquet
from metric_core.artefacts.rows import Part
from metric_core.sources import catalogue
from metric_core.sources.found import Found
from workflows.erase import job, removal
from workflows.erase.config import EraseConfig

sys.path.insert(0, str(index_process.ROOT / "tests"))
from support import minted

_UNIT = 2048  # faces of a unit of the Embeddings
_FACES, _EMBEDDINGS = "faces", "embeddings"


def made(root: str, people: int, each: int, dim: int) -> str:
    """Faces and Embeddings of people with so many pictures each, person after person."""
    names = [f"p{n // each:06d}" for n in range(people * each)]
    keys = [f"{name}/{n % each}" for n, name in enumerate(names)]
    found = [
        Found(identity=name, key=key, kind="file", uri=f"{key}.jpg", content_tag=f"{n}-1")
        for n, (name, key) in enumerate(zip(names, keys))
    ]
    table = catalogue.to_table(found, "n")
    uri, plan = f"{root}/{_FACES}", {"root": f"{root}/pictures", "namespace": "n"}
    manifest.begin(uri, "faces", plan)
    content = plan | catalogue.write(uri, [table], "n")
    manifest.write(uri, "faces", content, {}, rows.pieces(uri, [Part(**part) for part in content["parts"]]))
    ids, tags = table["face_id"].to_pylist(), delta.tags(table)
    vector_ND = minted.unit_vectors(len(names), dim)
    return minted.embeddings(
        Path(root, _EMBEDDINGS), ids, vector_ND, identities=table["identity"].to_pylist(), unit=_UNIT, tags=tags
    )


def rewritten(root: str, out: str) -> dict[str, Any]:
    """Write every file again that has rows: read, checked and decoded, written with the same settings, and hashed, as
    catalogue and embed write them. Nothing of ``erase`` is used."""
    faces, source = Faces.open(f"{root}/{_FACES}"), Embeddings.open(f"{root}/{_EMBEDDINGS}")
    cpu, count = time.process_time(), 0
    parts = [rows.rewrite(out, part, rows.read(faces.uri, part, faces.schema), faces.schema) for part in faces.parts]
    rows.pieces(out, parts)
    for field, folder in (("tags", "tags/"), ("parts", "")):
        for file in source.manifest.content[field]:
            data = storage.read_bytes(f"{source.manifest.uri}/{folder}{file['name']}")
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
            data = to_parquet(pq.read_table(io.BytesIO(data)))
            hashlib.sha256(data).hexdigest()
            storage.write_bytes(f"{out}/{folder}{file['name']}", data)
            count += len(data)
    return {"cpu": round(time.process_time() - cpu, 2), "bytes": count}


def read(root: str) -> dict[str, Any]:
    """Read and decode every file."""
    cpu, count = time.process_time(), 0
    for path in Path(root).rglob("*"):
        if path.is_file():
            count += len(data := path.read_bytes())
            if path.suffix == ".parquet":
                pq.read_table(io.BytesIO(data))
    return {"cpu": round(time.process_time() - cpu, 2), "bytes": count}


def erased(root: str, count: int, people: int) -> dict[str, Any]:
    """Erase some people, spread over the catalogue; what the scans take is told apart."""
    names = sorted(f"p{n:06d}" for n in np.random.default_rng(count).permutation(people)[:count])
    Path(root, "list.csv").write_text("\n".join(["identity", *names, ""]))
    config = EraseConfig(list=f"{root}/list.csv", faces=f"{root}/{_FACES}", embeddings=[f"{root}/{_EMBEDDINGS}"])
    cpu = time.process_time()
    with _timed_scans() as spent:
        done = job.run(config)
    cpu = time.process_time() - cpu
    scans = [round(one, 2) for one in spent]
    return {"cpu": round(cpu - sum(spent), 2), "scans": scans, "files": done["files"], "rows": done["removed"]}


@contextlib.contextmanager
def _timed_scans() -> Iterator[list[float]]:
    """CPU seconds of the scans of each artefact, before and afterwards."""
    plain, spent = erasing_proof.scan, []

    def timed(*given: Any) -> Any:
        cpu = time.process_time()
        found = plain(*given)
        spent.append(time.process_time() - cpu)
        return found

    removal.erasing_proof.scan = timed
    try:
        yield spent
    finally:
        removal.erasing_proof.scan = plain
