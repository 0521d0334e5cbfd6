"""Every artefact, as a job opens it: one of its files is another one.

A file whose digest is elsewhere is refused by it. So that parsers are tried as well, a case may be ``sealed``: the
digests are those of the changed file. That is never so for what FAISS parses: it reads no file whose digest differs.
"""

import atexit
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fuzz import changes
from fuzz.case import Case, Change, Draw, Format
from fuzz.sources import JPEG, is_parquet
from support import index_versions, minted

from metric_core.artefacts import audit, delta, faces, manifest, matches, migrate, rows, schema, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.artefacts.faces import Faces
from metric_core.artefacts.rows import Part
from metric_core.errors import ArtefactError
from metric_core.image.spec import Preprocessing
from metric_core.index.corpus import Rows
from metric_core.index.search import Index
from metric_core.index.store import IndexStore
from metric_core.index.version import Version
from metric_core.metrics import OperatingPoint
from metric_core.model import bundle
from metric_core.model.embedder import Embedder
from metric_core.model.spec import BackboneSpec, ModelSpec
from metric_core.sources import catalogue
from metric_core.sources.folder import scan
from workflows.embed import done, units
from workflows.embed.store import UnitStore
from workflows.index import check
from workflows.index.config import CheckConfig
from workflows.search import job as search
from workflows.shared import lease
from workflows.train import checkpoints

SPEC = "IVF2,PQ4x4fsr,Refine(SQfp16)"
DIM, ROWS = 16, 640


def _open_as(make: Callable[[Path], None], read: Callable[[Path], object], case: Case, folder: Path) -> object:
    """Reads the artefact after its file was changed."""
    at = Path(shutil.copytree(_made(make), folder / "all"))
    path = at / case.file
    before = path.read_bytes()
    path.write_bytes(case.data)
    if case.sealed:
        _seal(at, path, before)
    return read(at)


_artefacts: dict[Callable[[Path], None], Path] = {}


def _made(make: Callable[[Path], None]) -> Path:
    """The sound artefact, made once per process."""
    if make not in _artefacts:
        folder = Path(tempfile.mkdtemp(prefix="sound-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        make(folder)
        _artefacts[make] = folder
    return _artefacts[make]


def _seal(folder: Path, path: Path, before: bytes) -> None:
    """Make the digests those of the file that is there."""
    old, new = (hashlib.sha256(data).hexdigest() for data in (before, path.read_bytes()))
    for other in folder.rglob("*"):
        if other.is_file() and other != path and old.encode() in other.read_bytes():
            data = other.read_bytes().replace(old.encode(), new.encode())
            other.write_bytes(_resealed(data) if other.name == manifest.NAME else data)
    if old in path.name:
        path.rename(path.with_name(path.name.replace(old, new)))


def _resealed(data: bytes) -> bytes:
    """A manifest with the digests of what it says."""
    body = json.loads(data)
    try:
        body["digest"] = manifest.digest(migrate.hashed(body["kind"], "content", body["content"]))
        body["files_digest"] = manifest.digest(body["files"])
    except (KeyError, ValueError, TypeError, AttributeError):
        pass
    return json.dumps(body).encode()


def _sealed_fields(draw: Draw, data: bytes) -> bytes:
    """A field of a manifest is another one, and its digest right."""
    return _resealed(changes.fields(draw, data))


def _changes(name: str) -> list[Change]:
    ending = name.rpartition(".")[2]
    if name.endswith(manifest.NAME):
        return [changes.fields, _sealed_fields, _sealed_fields]
    return {
        "json": [changes.fields],
        "parquet": changes.PARQUET,
        "safetensors": [changes.tensors],
        "pt": [changes.zipped],
        "npy": [changes.archive],
    }.get(ending, [])


HEADS = {"safetensors": b"", "faiss": b"I", "arrow": b"ARROW1", "rows": b"ARROW1", "npy": b"\x93NUMPY", "pt": b"PK"}


def _begins(case: Case) -> bool:
    ending = case.file.rpartition(".")[2]
    if ending == "json":
        try:
            return isinstance(json.loads(case.data), dict)
        except (ValueError, RecursionError):
            return False
    if ending == "safetensors":
        return case.data[8:9] == b"{" and int.from_bytes(case.data[:8], "little") <= len(case.data)
    return is_parquet(case) if ending == "parquet" else case.data.startswith(HEADS.get(ending, b""))


def _seeds(make: Callable[[Path], None], only: Callable[[str], bool], folder: Path) -> dict[str, bytes]:
    made = _made(make)
    names = sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file())
    return {name: (made / name).read_bytes() for name in names if only(name)}


def _faces(folder: Path) -> None:
    for who in ("ann", "bob"):
        (folder / "people" / who).mkdir(parents=True)
        for number in range(4):
            (folder / "people" / who / f"{number}.jpg").write_bytes(JPEG)
    out = str(folder / "faces")
    found = scan(str(folder / "people"))
    plan = {"source": "people", "root": str(folder / "people"), "namespace": "n", "splits": None}
    manifest.begin(out, "faces", plan)
    table = catalogue.with_splits(catalogue.to_table(list(found.faces), "n"), {"ann": "train", "bob": "valid"})
    content = plan | catalogue.write(out, [table], "n", found.notes)
    parts = rows.pieces(out, [Part(**part) for part in content["parts"]])
    manifest.write(out, "faces", content, {"finished": "2025-01-01"}, parts)


def _read_faces(folder: Path) -> object:
    found = Faces.open(str(folder / "faces"))
    tables = [found.table, found.select("train")]
    for part in found.parts:
        rows.read_range(found.uri, part, 0, part.rows, found.columns(["face_id", "uri"]))
    erased = tombstones.of(found.uri, None)
    delta.select(found, None, None, erased)
    list(found.first_picture())
    return found.count("valid"), found.root, found.namespace, [faces.identity_codes(table) for table in tables]


def _embeddings(folder: Path) -> None:
    ids = range(12)
    minted.embeddings(folder / "embeddings", ids, minted.unit_vectors(12), rejected=[90, 91], gone=[80], unit=6)
    plan = {"plan_id": "embeddings", "split": None}
    (folder / "embeddings" / manifest.PLAN).write_bytes(manifest.plan_file("embeddings", plan))
    for record in (folder / "embeddings" / "done").iterdir():
        record.write_text(json.dumps(json.loads(record.read_text()) | {"seconds": {}}))


def _read_embeddings(folder: Path) -> object:
    found = Collection.open(str(folder / "embeddings"))
    problems = list(audit.problems(found.first))
    tables = list(found.iter_columns(["face_id", "identity"]))
    vectors = found.load()
    taken = found.take(vectors.face_id_N[:3])
    return problems, tables, taken, found.quarantined(), found.salts, found.digest, found.rows, found.faces


def _units(folder: Path) -> None:
    _embeddings(folder)
    (folder / "embeddings" / manifest.NAME).unlink()


def _read_units(folder: Path) -> object:
    """What a job does that continues."""
    store = UnitStore(str(folder / "embeddings"))
    todo = units.cut([Part("faces-000000.parquet", 12, "")], 6)
    manifest.begin(store.out, "embeddings", {"plan_id": "embeddings", "split": None})
    done.remove_damaged(store, todo)
    history = done.DoneUnits(store, todo)
    return [store.finished(unit) for unit in todo], history.todo(retry=True), history.content()


def _matches(folder: Path) -> None:
    out, plan = str(folder / "matches"), {"index": "i", "top": 5}
    row = {"query": "q", "rank": 1, "identity": "ann", "face_id": 5, "score": 0.5, "accepted": None}
    table = pa.Table.from_pylist([row] * 3, schema.MATCHES)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    manifest.begin(out, "matches", plan)
    (folder / "matches" / matches.FILE).write_bytes(sink.getvalue())
    files = {matches.FILE: {"sha256": hashlib.sha256(sink.getvalue()).hexdigest()}}
    manifest.write(out, "matches", plan | {"rows": 3}, {}, files)


def _read_matches(folder: Path) -> object:
    out = str(folder / "matches")
    found = manifest.begin(out, "matches", {"index": "i", "top": 5})
    return search._damage(found, schema.MATCHES) if found else None


def _index(folder: Path) -> None:
    people = pa.array([f"p{number // 5}" for number in range(ROWS)]).dictionary_encode()
    corpus = Rows(np.arange(ROWS), people, None, minted.unit_vectors(ROWS, DIM))
    version = index_versions.write(folder / "index", corpus, SPEC, shards=1, nprobe=2, depth=10)
    IndexStore(version.index_uri).publish(version)


def _read_index(folder: Path) -> object:
    """What is asked of an index: its versions, a search, its check, and what a build continues from."""
    address = str(folder / "index")
    store = IndexStore(address)
    listed = store.versions()
    answers: list[object] = []
    for ask in (partial(_found, address), partial(_receipt, address)):
        try:
            answers.append(ask())
        except ArtefactError as error:
            answers.append(error)
    check.run(CheckConfig(index=address, verify=True))
    return listed, answers


def _found(address: str) -> object:
    index = Index.open(address, verify=True)
    return index.identify(minted.unit_vectors(2, DIM), ["a", "b"], 3), index.version.faces()


def _receipt(address: str) -> object:
    (name,) = (path.name for path in (Path(address) / "versions").iterdir())
    version = Version(address, name)
    return version.receipt(0), version.format(), version.plan_problem()


def _model(folder: Path) -> None:
    torch.manual_seed(0)
    backbone = BackboneSpec("plain", (8,), (1,), "relu", "group", 8)
    spec = ModelSpec(backbone, Preprocessing(size=16, colour="grey"), False, False, "cosine")
    point = OperatingPoint(far=0.01, threshold=0.5, tar=0.9, negatives=1000)
    bundle.save(Embedder(spec), str(folder / "model"), operating_points=[point], provenance={})
    (folder / "model" / manifest.PLAN).write_bytes(manifest.plan_file("model", {"steps": 1}))


def _read_model(folder: Path) -> object:
    found = bundle.load(str(folder / "model"))
    return found.embed([JPEG])


def _tombstones(folder: Path) -> None:
    (folder / "tombstones").mkdir()
    (folder / "tombstones" / tombstones.KEY).write_bytes(bytes(32))  # a drawn one would name other files every time
    tombstones.add(str(folder / "tombstones"), "n", face_ids=[1, 2, 3], identities=["ann"])
    tombstones.add(str(folder / "tombstones"), "n", face_ids=[9])


def _read_tombstones(folder: Path) -> object:
    found = tombstones.read(str(folder / "tombstones"))
    table = pa.table({"face_id": [1, 7], "identity": ["ann", "bob"]})
    return found.erased(table, "n"), found.digest


def _checkpoint(folder: Path) -> None:
    for number in (1, 2):
        at = folder / "train" / f"checkpoint_{number}"
        at.mkdir(parents=True)
        state = {"model": {"w": torch.ones(3)}, "step": number, "queue": [1, 2], "name": "x"}
        checkpoints.save(state, str(at))


def _read_checkpoint(folder: Path) -> object:
    found = checkpoints.load(str(folder / "train" / "checkpoint_2"), torch.device("cpu"))
    checkpoints.prepare(str(folder))
    return found, checkpoints.latest(str(folder), torch.device("cpu"))


def _lease(folder: Path) -> None:
    holder = {"host": "elsewhere", "boot": "b", "pid": 5, "started": 1.5, "token": "t", "beat": 1.5}
    (folder / lease.NAME).write_text(json.dumps(holder))


def _read_lease(folder: Path) -> object:
    with patch.object(lease, "BEAT_S", 0.01), lease.held(str(folder)) as held:  # a damaged one is watched for 3 beats
        held.confirm()
    return None


def _artefact(
    name: str,
    make: Callable[[Path], None],
    read: Callable[[Path], object],
    modules: tuple[str, ...],
    sealable: tuple[str, ...] = (),
    only: Callable[[str], bool] = lambda name: not name.startswith("people/"),
) -> Format:
    return Format(
        name,
        partial(_seeds, make, only),
        partial(_open_as, make, read),
        _begins,
        _changes,
        modules,
        magics=(b"PAR1", b'"', b": "),
        sealable=lambda file: file.endswith(sealable),
    )


MANIFESTS = ("metric_core/artefacts/manifest.py", "metric_core/artefacts/migrate.py")
CATALOGUE = tuple(f"metric_core/artefacts/{name}.py" for name in ("faces", "rows", "roots", "schema"))
EMBEDDINGS = tuple(f"metric_core/artefacts/{name}.py" for name in ("embeddings", "collection", "audit", "partial"))
INDEX = tuple(f"metric_core/index/{name}.py" for name in ("store", "version", "opened", "codec", "records"))
UNITS = tuple(f"workflows/embed/{name}.py" for name in ("store", "done", "units"))

FORMATS = [
    _artefact("faces", _faces, _read_faces, (*CATALOGUE, *MANIFESTS), (".parquet",)),
    _artefact("embeddings", _embeddings, _read_embeddings, (*EMBEDDINGS, *MANIFESTS), (".parquet",)),
    _artefact("unfinished embeddings", _units, _read_units, UNITS, (".parquet",)),
    _artefact("matches", _matches, _read_matches, (*MANIFESTS, "workflows/search/job.py"), (".parquet",)),
    _artefact("index", _index, _read_index, INDEX),
    _artefact(
        "model", _model, _read_model, ("metric_core/model/bundle.py", "metric_core/model/spec.py"), (".safetensors",)
    ),
    _artefact("tombstones", _tombstones, _read_tombstones, ("metric_core/artefacts/tombstones.py",), (".parquet",)),
    _artefact("checkpoint", _checkpoint, _read_checkpoint, ("workflows/train/checkpoints.py",), (".pt",)),
    _artefact("lease", _lease, _read_lease, ("workflows/shared/lease.py",)),
]
