"""An exported index is searched by FAISS alone, and answers as the version that it was made from."""

# N rows, D components, Q queries, K neighbours

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import index_versions

from metric_core.errors import StorageFull
from metric_core.index.corpus import Rows
from metric_core.index.engine import faiss
from metric_core.index.export import METADATA, export
from metric_core.index.search import Index, Neighbours
from metric_core.index.spec import IndexSpec
from metric_core.index.store import IndexStore
from metric_core.index.version import Version

N, D, Q, K = 1200, 32, 50, 10
NPROBE, DEPTH = 4, 64
FAMILIES = [
    "Flat",
    "SQfp16",
    "SQ8",
    "IVF8,SQfp16",
    "IVF8,SQ8",
    "IVF8,SQ8,Refine(SQfp16)",
    "IVF8,PQ16x4fsr",
    "IVF8,PQ16x4fsr,Refine(SQfp16)",
    "IVF8,PQ16x4fsr,Refine(SQ8)",
    "IVF8,RaBitQfs,Refine(SQfp16)",
    "IVF8,RaBitQfs4,Refine(SQ8)",
]


def people() -> Rows:
    """200 people with 6 faces each, whose ids are in no order; each third one has a view."""
    random = np.random.default_rng(0)
    x_ND = np.repeat(random.standard_normal((N // 6, D)), 6, axis=0) + 0.5 * random.standard_normal((N, D))
    x_ND /= np.linalg.norm(x_ND, axis=1, keepdims=True)
    identity = pa.array([f"p{n // 6:03d}" for n in range(N)]).dictionary_encode()
    view = pa.array([None if n % 3 else "left" for n in range(N)], pa.string()).dictionary_encode()
    return Rows(random.permutation(10 * N)[:N].astype(np.int64), identity, view, x_ND.astype(np.float32))


def written(uri: Path, factory: str, *, shards: int = 2, masked: tuple[int, ...] = ()) -> Version:
    """A finished version with parameters that were not tuned."""
    spec = IndexSpec(D, factory)
    chosen = {"nprobe": NPROBE if spec.nlist else None, "depth": DEPTH if spec.refine else None}
    version = index_versions.write(uri, people(), factory, shards=shards, masked=masked, **chosen)
    IndexStore(str(uri)).publish(version)
    return version


def queries() -> np.ndarray:
    """float32 (Q, D): near some of the faces."""
    x_QD = people().embedding_ND[:: N // Q] + 0.05 * np.random.default_rng(1).standard_normal((Q, D))
    return (x_QD / np.linalg.norm(x_QD, axis=1, keepdims=True)).astype(np.float32)


def alike(spec: IndexSpec, k: int) -> dict[str, object]:
    """What the docstring of ``export`` gives for a search that compares as many candidates as ours."""
    if spec.refine is None:
        return {}
    how = faiss.SearchParametersIVF(nprobe=NPROBE)
    return {"params": faiss.IndexRefineSearchParameters(k_factor=max(1, DEPTH / k), base_index_params=how)}


def among(score_QK: np.ndarray, face_id_QK: np.ndarray, expected: Neighbours) -> np.ndarray:
    """bool (Q, K): the face is among the expected ones, or ties with the last of them, of which FAISS keeps any."""
    tied_QK = np.abs(score_QK - expected.score_QK[:, -1:]) < 1e-5
    return (face_id_QK[:, :, None] == expected.face_id_QK[:, None, :]).any(axis=2) | tied_QK


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("factory", FAMILIES)
def test_faiss_answers_as_the_index(tmp_path: Path, factory: str, shards: int) -> None:
    version = written(tmp_path / "index", factory, shards=shards)
    expected = Index.open(version.index_uri).search(queries(), K)
    made = export(Index.open(version.index_uri), str(tmp_path / "all.faiss"))
    plain = faiss.read_index(made.faiss)
    score_QK, face_id_QK = plain.search(queries(), K, **alike(IndexSpec(D, factory), K))
    assert (plain.ntotal, made.rows) == (N, N)
    assert among(score_QK, face_id_QK, expected).mean() >= 0.99
    where = face_id_QK == expected.face_id_QK
    assert where.mean() >= 0.95
    assert np.abs(score_QK - expected.score_QK)[where].max() < 1e-3


@pytest.mark.parametrize("factory", [factory for factory in FAMILIES if factory.startswith("IVF")])
def test_a_search_without_parameters_compares_no_fewer_candidates_than_were_tuned(tmp_path: Path, factory: str) -> None:
    version = written(tmp_path / "index", factory)
    expected = Index.open(version.index_uri).search(queries(), 1)
    plain = faiss.read_index(export(Index.open(version.index_uri), str(tmp_path / "all.faiss")).faiss)
    _, face_id_QK = plain.search(queries(), 1)
    assert (face_id_QK == expected.face_id_QK).mean() >= 0.98
    inner = faiss.downcast_index(plain.index)
    refined = IndexSpec(D, factory).refine is not None
    assert (faiss.downcast_index(inner.base_index) if refined else inner).nprobe == NPROBE
    assert not refined or inner.k_factor == DEPTH


@pytest.mark.parametrize("factory", FAMILIES)
def test_masked_faces_are_in_neither_file_and_the_others_are_found(tmp_path: Path, factory: str) -> None:
    gone = people().face_id_N[::7]
    version = written(tmp_path / "index", factory, masked=tuple(gone.tolist()))
    expected = Index.open(version.index_uri).search(queries(), K)
    made = export(Index.open(version.index_uri), str(tmp_path / "all.faiss"))
    plain, table = faiss.read_index(made.faiss), pq.read_table(made.identities)
    assert plain.ntotal == table.num_rows == made.rows == N - len(gone)
    assert not np.isin(gone, table["face_id"].to_numpy()).any()
    assert not np.isin(gone, faiss.vector_to_array(plain.id_map)).any()
    if IndexSpec(D, factory).refine is not None:
        assert faiss.downcast_index(plain.index).refine_index.ntotal == made.rows
    found = plain.search(queries(), K, **alike(IndexSpec(D, factory), K))
    assert among(*found, expected).mean() >= 0.99


def test_the_names_are_in_the_order_of_positions(tmp_path: Path) -> None:
    version = written(tmp_path / "index", "IVF8,SQ8,Refine(SQfp16)")
    made = export(Index.open(version.index_uri), str(tmp_path / "all.faiss"))
    table, rows = pq.read_table(made.identities), people()
    plain = faiss.read_index(made.faiss)
    assert np.array_equal(faiss.vector_to_array(plain.id_map), table["face_id"].to_numpy())
    expected = {
        face_id: (identity, view)
        for face_id, identity, view in zip(rows.face_id_N.tolist(), rows.identity.to_pylist(), rows.view.to_pylist())
    }
    assert {row["face_id"]: (row["identity"], row["view"]) for row in table.to_pylist()} == expected
    vector_ND = faiss.downcast_index(plain.index).refine_index.reconstruct_n(0, N)
    order = np.argsort(rows.face_id_N)
    at_N = order[np.searchsorted(rows.face_id_N[order], table["face_id"].to_numpy())]
    assert np.abs(vector_ND - rows.embedding_ND[at_N]).max() < 1e-3
    about = json.loads(pq.read_schema(made.identities).metadata[METADATA])
    assert about == {
        "version": version.id,
        "fingerprint": "f" * 64,
        "spec": "IVF8,SQ8,Refine(SQfp16)",
        "nprobe": NPROBE,
        "depth": DEPTH,
    }


def test_an_export_leaves_the_version_as_it_was_and_gives_the_same_bytes_again(tmp_path: Path) -> None:
    version = written(tmp_path / "index", "IVF8,PQ16x4fsr,Refine(SQfp16)", shards=3)
    first = export(Index.open(version.index_uri), str(tmp_path / "first.faiss"))
    second = export(Index.open(version.index_uri, verify=True), str(tmp_path / "second.faiss"))
    assert Path(first.faiss).read_bytes() == Path(second.faiss).read_bytes()
    assert Path(first.identities).read_bytes() == Path(second.identities).read_bytes()


def test_only_the_rows_that_a_filter_leaves_are_exported(tmp_path: Path) -> None:
    version = written(tmp_path / "index", "IVF8,SQfp16")
    made = export(Index.open(version.index_uri).only(identities=["p003", "p150"]), str(tmp_path / "two.faiss"))
    assert sorted(pq.read_table(made.identities)["identity"].to_pylist()) == ["p003"] * 6 + ["p150"] * 6
    assert faiss.read_index(made.faiss).ntotal == 12


def test_a_full_disk_leaves_no_file_for_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = written(tmp_path / "index", "Flat")
    index = Index.open(version.index_uri)
    with open("/dev/full", "wb", buffering=0) as disk:
        honest = faiss.PyCallbackIOWriter
        monkeypatch.setattr(faiss, "PyCallbackIOWriter", lambda write, size: honest(disk.write, size))
        out = tmp_path / "out" / "all.faiss"
        out.parent.mkdir()
        with pytest.raises(StorageFull):
            export(index, str(out))
    assert not out.exists()
    assert not list(out.parent.glob(".*"))


def test_a_name_that_faiss_files_do_not_have_is_refused(tmp_path: Path) -> None:
    version = written(tmp_path / "index", "Flat")
    with pytest.raises(ValueError, match=r"ends in \.faiss"):
        export(Index.open(version.index_uri), str(tmp_path / "all.bin"))
