"""The files of a shard: their order, that they are a function of the rows alone, and what is refused."""

# N: rows of the shard, D: components.

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from metric_core.errors import Corrupt, IndexBuildError
from metric_core.index import codec, shard, template
from metric_core.index.corpus import Rows
from metric_core.index.products import nearest
from metric_core.index.search import Index
from metric_core.index.shard import Built
from metric_core.index.spec import IndexSpec
from metric_core.index.truth import Probes

FACTORIES = [
    "Flat",
    "SQfp16",
    "SQ8",
    "IVF4,Flat",
    "IVF4,SQfp16",
    "IVF4,SQ8,Refine(SQfp16)",
    "IVF4,PQ8x4fsr,Refine(SQ8)",
    "IVF4,RaBitQfs4,Refine(SQfp16)",
]
REFINED = ["IVF4,PQ8x4fsr,Refine(SQfp16)", "IVF4,PQ8x4fsr,Refine(SQ8)"]


def _build(folder: Path, v: Rows, factory: str, blocks: list[Rows] | None = None) -> Built:
    folder.mkdir(exist_ok=True)
    spec = IndexSpec(v.embedding_ND.shape[1], factory)
    trained = template.train(v.embedding_ND.astype(np.float32), spec, 0)
    return shard.build(trained, spec, [v] if blocks is None else blocks, len(v), folder)


@pytest.mark.parametrize("factory", FACTORIES)
def test_rows_are_in_order_of_list_and_then_of_face_id_with_their_own_names(factory, people, tmp_path):
    v = people(130, views=True)
    built = _build(tmp_path / "shard", v, factory)
    rows = shard.read_rows(built.paths["rows"])
    id_N = rows["face_id"].to_numpy()
    at_N = np.argsort(v.face_id_N)[np.searchsorted(np.sort(v.face_id_N), id_N)]
    assert (built.rows, built.people) == (650, 130)
    assert rows["identity"].to_pylist() == v.identity.take(pa.array(at_N)).to_pylist()
    assert rows["identity"].dictionary.to_pylist() == sorted(set(v.identity.to_pylist()))
    assert rows["identity"].type == pa.dictionary(pa.int32(), pa.string())
    assert rows["view"].to_pylist() == v.view.take(pa.array(at_N)).to_pylist()
    centroid_MD = template.centroids(codec.read_file(built.paths["faiss"]))
    if centroid_MD is None:
        assert (np.diff(id_N) > 0).all()
    else:
        list_N, _ = nearest(v.embedding_ND[at_N], centroid_MD)
        assert (np.lexsort((id_N, list_N)) == np.arange(650)).all()


@pytest.mark.parametrize("factory", FACTORIES)
def test_positions_in_faiss_are_those_of_the_rows(factory, people, tmp_path):
    v = people(130)
    built = _build(tmp_path / "shard", v, factory)
    index = codec.read_file(built.paths["faiss"])
    id_N = shard.read_rows(built.paths["rows"])["face_id"].to_numpy()
    at_N = np.argsort(v.face_id_N)[np.searchsorted(np.sort(v.face_id_N), id_N)]
    assert index.ntotal == 650
    if hasattr(index, "nprobe"):
        index.nprobe = 4
    _, found_NK = index.search(v.embedding_ND[at_N], 10)
    assert (found_NK == np.arange(650)[:, None]).any(axis=1).mean() > 0.95


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_files_do_not_depend_on_how_the_rows_are_cut_and_ordered(factory, people, blocks_of, tmp_path):
    v = people(130, views=True)
    whole = _build(tmp_path / "whole", v, factory)
    mixed = v.take(np.random.default_rng(1).permutation(len(v)))
    for number, blocks in enumerate((blocks_of(v, 37), blocks_of(mixed, 200))):
        other = _build(tmp_path / str(number), v, factory, blocks)
        assert other.files == whole.files
        assert other.digest == whole.digest
    fewer = _build(tmp_path / "fewer", v, factory, [v.take(np.arange(1, len(v)))])
    assert fewer.digest != whole.digest


@pytest.mark.parametrize("factory", FACTORIES)
def test_several_temporary_files_give_the_same_bytes_as_one(factory, people, blocks_of, tmp_path, monkeypatch):
    v = people(130, views=True)
    if IndexSpec(16, factory).nlist is None:  # ids of all sizes, as the order is by them
        v = Rows(np.random.default_rng(2).integers(0, 2**63 - 1, len(v)), v.identity, v.view, v.embedding_ND)
    one = _build(tmp_path / "one", v, factory, blocks_of(v, 100))
    monkeypatch.setattr(shard, "_BUCKET_BYTES", 3000)
    monkeypatch.setattr(shard, "_TILE", 7)
    opened = []
    make = shard.tempfile.TemporaryFile
    monkeypatch.setattr(shard.tempfile, "TemporaryFile", lambda **how: opened.append(make(**how)) or opened[-1])
    several = _build(tmp_path / "several", v, factory, blocks_of(v, 100))
    assert len(opened) > 3
    assert all(file.closed for file in opened)
    assert several.files == one.files


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("factory", REFINED)
def test_records_decode_to_the_vectors(factory, dtype, people, tmp_path):
    v = people(130)
    v = Rows(v.face_id_N, v.identity, None, v.embedding_ND.astype(dtype))
    built = _build(tmp_path / "shard", v, factory)
    spec = IndexSpec(16, factory)
    record = shard.record_type(spec)
    assert record.itemsize == spec.record_bytes
    record_N = np.fromfile(built.paths["vectors"], record)
    rows = shard.read_rows(built.paths["rows"])
    at_N = np.argsort(v.face_id_N)[np.searchsorted(np.sort(v.face_id_N), record_N["face_id"])]
    np.testing.assert_array_equal(record_N["face_id"], rows["face_id"].to_numpy())
    np.testing.assert_array_equal(record_N["identity"], rows["identity"].indices.to_numpy())
    vector_ND = v.embedding_ND[at_N].astype(np.float32)
    if spec.refine == "SQfp16":
        np.testing.assert_array_equal(shard.decoded(record_N), vector_ND.astype(np.float16).astype(np.float32))
    else:
        largest_N = np.abs(vector_ND).max(axis=1)
        # half a step of 1/127 of the largest component
        assert (np.abs(shard.decoded(record_N) - vector_ND).max(axis=1) <= largest_N * (0.5 / 127 + 1e-6)).all()
    assert shard.decoded(record_N).dtype == np.float32


@pytest.mark.parametrize("factory", ["Flat", "IVF4,SQ8", *REFINED])
def test_only_the_files_of_the_shard_are_left(factory, people, tmp_path):
    built = _build(tmp_path / "shard", people(130), factory)
    expected = {"faiss", "rows"} | ({"vectors"} if "Refine" in factory else set())
    assert {path.name for path in (tmp_path / "shard").iterdir()} == expected == set(built.files) == set(built.paths)
    for name, path in built.paths.items():
        assert path.stat().st_size == built.files[name].bytes


def test_a_shard_without_codes_apart_answers_the_same_and_one_with_others_is_refused(people, tmp_path):
    v, spec = people(2000), IndexSpec(16, "IVF4,PQ4x8,Refine(SQfp16)")
    built = _build(tmp_path / "shard", v, spec.factory)
    assert set(built.files) == {"faiss", "rows", "vectors", "codes"} == {p.name for p in (tmp_path / "shard").iterdir()}
    assert built.files["codes"].bytes == 4 * len(v)
    without = {ending: path for ending, path in built.paths.items() if ending != "codes"}
    found, expected = (
        Index.single(paths, spec).search(v.embedding_ND[::50], 5, nprobe=2, depth=100)
        for paths in (built.paths, without)
    )
    np.testing.assert_array_equal(found.face_id_QK, expected.face_id_QK)
    np.testing.assert_array_equal(found.score_QK, expected.score_QK)
    built.paths["codes"].write_bytes(built.paths["codes"].read_bytes()[:-4])
    with pytest.raises(Corrupt, match=r"codes has 39996 bytes, expected 10000 codes of 4 bytes"):
        Index.single(built.paths, spec)


def test_views_are_of_type_null_unless_a_row_has_one(people, blocks_of, tmp_path):
    v = people(views=True)
    none = Rows(v.face_id_N[:100], v.identity[:100], None, v.embedding_ND[:100])
    rest = v.take(np.arange(100, 300))
    mixed = shard.read_rows(_build(tmp_path / "mixed", v, "Flat", [none, *blocks_of(rest, 50)]).paths["rows"])
    expected = dict(zip(v.face_id_N.tolist(), [None] * 100 + rest.view.to_pylist()))
    assert dict(zip(mixed["face_id"].to_pylist(), mixed["view"].to_pylist())) == expected
    without = shard.read_rows(_build(tmp_path / "without", people(), "Flat").paths["rows"])
    assert pa.types.is_null(without["view"].type)
    assert without["view"].null_count == 300


def test_names_that_no_row_has_are_not_stored(people, tmp_path):
    v = people()
    names = pa.array([*reversed(v.identity.dictionary.to_pylist()), "erased"])
    code_N = len(names) - 2 - v.identity.indices.to_numpy()
    unused = Rows(v.face_id_N, pa.DictionaryArray.from_arrays(code_N.astype(np.int32), names), None, v.embedding_ND)
    built = _build(tmp_path / "unused", v, "Flat", [unused])
    assert b"erased" not in built.paths["rows"].read_bytes()
    assert built.files == _build(tmp_path / "plain", v, "Flat").files


def test_a_face_that_is_there_twice_is_refused(people, tmp_path):
    v = people()
    again = v.take(np.array([17]))
    with pytest.raises(IndexBuildError, match=f"face_id {v.face_id_N[17]} is twice in the parts of one shard"):
        _build(tmp_path / "shard", v, "Flat", [v, again])


@pytest.mark.parametrize("factory", ["Flat", "SQ8", "IVF4,SQfp16", *REFINED])
def test_a_shard_without_rows(factory, people, tmp_path):
    v = people(130)
    built = _build(tmp_path / "shard", v, factory, [])
    assert (built.rows, built.people) == (0, 0)
    index = Index.single(built.paths, IndexSpec(16, factory))
    assert (index.rows, index.names.to_pylist()) == (0, [])
    assert (index.search(v.embedding_ND[:2], 3).face_id_QK == -1).all()


def test_probes_find_their_exact_neighbours_on_the_way(people, blocks_of, tmp_path):
    v = people(130)
    some = v.take(np.arange(0, 650, 50))
    near = Probes(some.face_id_N, some.identity.to_pylist(), some.embedding_ND).nearest()
    spec = IndexSpec(16, "IVF4,PQ8x4fsr,Refine(SQ8)")
    trained = template.train(v.embedding_ND, spec, 0)
    shard.build(trained, spec, blocks_of(v, 77), len(v), tmp_path, near)
    score_QN = some.embedding_ND @ v.embedding_ND.T
    score_QN[np.arange(13), np.arange(0, 650, 50)] = -np.inf
    order_QN = np.argsort(-score_QN, axis=1)[:, :10]
    np.testing.assert_array_equal(near.best().face_id_QW[:, :10], v.face_id_N[order_QN])
