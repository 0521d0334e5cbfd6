import pickle
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metric_core.errors import ConfigError
from metric_core.index.engine import faiss
from metric_core.index.factory import FORMS
from metric_core.index.spec import IndexSpec


def unit(rows, dim, seed=0):
    x_ND = np.random.default_rng(seed).standard_normal((rows, dim), np.float32)
    return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("factory", "nlist", "code", "M", "bits", "refine", "coarse"),
    [
        ("Flat", None, "Flat", None, None, None, "Flat"),
        ("SQfp16", None, "SQfp16", None, None, None, "SQfp16"),
        ("SQ8", None, "SQ8", None, None, None, "SQ8"),
        ("IVF1024,Flat", 1024, "Flat", None, None, None, "IVF1024,Flat"),
        ("IVF1,SQfp16", 1, "SQfp16", None, None, None, "IVF1,SQfp16"),
        ("IVF64,SQ8,Refine(SQfp16)", 64, "SQ8", None, None, "SQfp16", "IVF64,SQ8"),
        ("IVF64,PQ32x4fsr", 64, "PQ", 32, None, None, "IVF64,PQ32x4"),
        ("IVF64,PQ64x4fsr,Refine(SQ8)", 64, "PQ", 64, None, "SQ8", "IVF64,PQ64x4"),
        ("IVF64,PQ4x8,Refine(SQfp16)", 64, "PQx8", 4, None, "SQfp16", "IVF64,PQ4x8"),
        ("IVF64,RaBitQfs", 64, "RaBitQ", None, 1, None, "IVF64,RaBitQ"),
        ("IVF64,RaBitQfs4,Refine(SQ8)", 64, "RaBitQ", None, 4, "SQ8", "IVF64,RaBitQ4"),
    ],
)
def test_the_parts_of_a_factory_string(factory, nlist, code, M, bits, refine, coarse):
    spec = IndexSpec(128, factory)
    assert (spec.nlist, spec.code, spec.M, spec.bits, spec.refine) == (nlist, code, M, bits, refine)
    assert spec.coarse_factory == coarse
    assert faiss.index_factory(128, coarse, faiss.METRIC_INNER_PRODUCT).d == 128
    assert spec.fast_scan == (code in ("PQ", "RaBitQ"))
    assert spec.lossless == (code == "Flat")
    assert pickle.loads(pickle.dumps(spec)) == spec == IndexSpec(**asdict(spec))


@pytest.mark.parametrize(
    ("factory", "nearest"),
    [
        ("flat", "Flat"),
        ("Flatt", "Flat"),
        ("SQ4", "SQ8"),
        ("fp16", "SQfp16"),
        ("IVF64,FLAT", "IVF64,Flat"),
        ("IVF64,PQ32", "IVF64,PQ32x8"),
        ("IVF64,PQ32x4fs", "IVF64,PQ32x4fsr"),
        ("IVF4096,PQ64x4fs,Refine(SQfp16)", "IVF4096,PQ64x4fsr,Refine(SQfp16)"),
        ("IVF64,PQ32x4fsr,RFlat", "IVF64,PQ32x4fsr"),
        ("ivf64,rabitqfs4", "IVF64,RaBitQfs4"),
        ("IVF64,RaBitQ4", "IVF64,RaBitQfs4"),
        ("IVF64,RaBitQ", "IVF64,RaBitQfs"),
        ("IVF64,RaBitQfs1", "IVF64,RaBitQfs"),
        ("IVF064,SQ8", "IVF1024,SQ8"),
        ("PQ32x4fsr", "IVF1024,PQ32x4fsr"),
        ("SQ8,Refine(SQfp16)", "IVF1024,SQ8,Refine(SQfp16)"),
    ],
)
def test_an_unknown_factory_string_is_told_with_all_forms_and_the_nearest(factory, nearest):
    with pytest.raises(ConfigError) as caught:
        IndexSpec(128, factory)
    message = str(caught.value)
    assert message.startswith(f"factory is {factory!r}; expected ")
    assert message.endswith(f"the nearest is {nearest!r}")
    assert all(form in message for form in FORMS)
    assert IndexSpec(128, nearest)


@pytest.mark.parametrize("factory", ["HNSW32", "?", "IVF0,PQ0", "OPQ16,IVF64,PQ16", "IVF64,PQ33"])
def test_whatever_is_asked_the_nearest_is_a_form_that_is_accepted(factory):
    with pytest.raises(ConfigError) as caught:
        IndexSpec(128, factory)
    nearest = str(caught.value).rsplit("the nearest is ")[1].strip("'")
    assert IndexSpec(128, nearest)


@pytest.mark.parametrize(
    ("dim", "factory", "reason"),
    [
        (128, "IVF64,PQ30x4fsr", "M is 30, which does not divide 128 components; nearest valid M: 16 and 32"),
        (128, "IVF64,PQ0x4fsr", "M is 0, which does not divide 128 components; nearest valid M: 2"),
        (128, "IVF64,PQ256x4fsr", "M is 256, which does not divide 128 components; nearest valid M: 128"),
        (60, "IVF64,PQ15x4fsr", "M is 15, and fast-scan stores an even number of codes; nearest valid M: 12 and 20"),
        (15, "IVF64,PQ5x4fsr", "no even M divides 15: take RaBitQfs or SQ8"),
        (128, "IVF64,RaBitQfs10", "RaBitQ has 1 to 9 bits per component, not 10"),
        (128, "IVF64,RaBitQfs0", "RaBitQ has 1 to 9 bits per component, not 0"),
        (128, "IVF0,SQ8", "there must be 1 list or more"),
        (128, "IVF64,Flat,Refine(SQ8)", "Refine(SQ8) is needless: Flat is no less exact"),
        (128, "IVF64,SQfp16,Refine(SQfp16)", "Refine(SQfp16) is needless: SQfp16 is no less exact"),
        (128, "IVF64,SQ8,Refine(SQ8)", "Refine(SQ8) is needless: SQ8 is no less exact"),
    ],
)
def test_an_impossible_number_is_told_with_one_that_works(dim, factory, reason):
    with pytest.raises(ConfigError) as caught:
        IndexSpec(dim, factory)
    assert str(caught.value).startswith(f"factory is {factory!r}; ")
    assert reason in str(caught.value)


def test_all_problems_are_reported_at_once():
    with pytest.raises(ConfigError, match=r"(?s)dim is 0; it must be 1 or more.*1 list or more.*RaBitQ has 1 to 9"):
        IndexSpec(0, "IVF0,RaBitQfs12")


def built(spec, rows):
    """An index as FAISS holds it, of random vectors; some of them are the centroids."""
    x_ND = unit(rows, spec.dim)
    index = faiss.index_factory(spec.dim, spec.coarse_factory, faiss.METRIC_INNER_PRODUCT)
    if spec.nlist:
        index.quantizer.add(x_ND[: spec.nlist])
    index.train(x_ND[:2000])
    index.add(x_ND)
    convert = {"PQ": faiss.IndexIVFPQFastScan, "RaBitQ": faiss.IndexIVFRaBitQFastScan}.get(spec.code)
    return convert(index) if convert else index


@pytest.mark.parametrize("dim", [32, 60])
@pytest.mark.parametrize(
    "factory",
    ["Flat", "SQfp16", "SQ8"]
    + [f"IVF16,{code}" for code in ("Flat", "SQfp16", "SQ8", "PQ4x4fsr", "PQ10x4fsr", "PQ16x4fsr")]
    + [f"IVF16,RaBitQfs{bits}" for bits in ("", 2, 3, 4, 8, 9)],
)
def test_bytes_are_within_2_percent_of_what_faiss_writes(dim, factory, tmp_path):
    if "PQ" in factory and dim % int(factory.split("PQ")[1].split("x")[0]):
        factory = factory.replace("PQ10", "PQ8").replace("PQ16", "PQ20")
    spec, rows = IndexSpec(dim, factory), 12_000
    index = built(spec, rows)
    assert index.code_size == spec.code_bytes
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    written = (tmp_path / "index.faiss").stat().st_size
    assert written == pytest.approx(spec.list_bytes(rows) + spec.trained_bytes, rel=0.02)


GROWTH = """
import sys
import numpy as np, psutil
from metric_core.index.engine import faiss
flags = faiss.IO_FLAG_MMAP_IFC if sys.argv[2] == "mapped" else 0
query_QD = np.eye(64, 256, dtype=np.float32)
small = faiss.index_factory(256, sys.argv[3], faiss.METRIC_INNER_PRODUCT)
small.train(query_QD)
small.add(query_QD)
small.search(query_QD, 10)
before = psutil.Process().memory_info().rss
index = faiss.read_index(sys.argv[1], flags)
index.nprobe = index.nlist
index.search(query_QD[:1], 10)  # one at a time: RaBitQ has a table for every query and list
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.parametrize("factory", ["IVF64,SQfp16", "IVF64,SQ8", "IVF64,RaBitQfs4"])
def test_an_open_index_takes_the_memory_that_is_predicted(factory, tmp_path):
    spec, rows = IndexSpec(256, factory), 40_000
    faiss.write_index(built(spec, rows), str(tmp_path / "index.faiss"))
    how = "read" if spec.fast_scan else "mapped"
    small = spec.coarse_factory.replace("64", "1", 1)
    command = [sys.executable, "-W", "ignore", "-c", GROWTH, str(tmp_path / "index.faiss"), how, small]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown == pytest.approx(spec.list_bytes(rows) + spec.trained_bytes, rel=0.05, abs=2 << 20)


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 4))
def test_padding_is_what_rows_spread_at_random_give(rows, nlist, shards):
    spec = IndexSpec(32, f"IVF{nlist},PQ16x4fsr")
    random = np.random.default_rng(0)
    lists = nlist * shards
    blocks = np.mean([(-(-random.multinomial(rows, np.full(lists, 1 / lists)) // 32)).sum() for _ in range(8)])
    padded = (spec.list_bytes(rows, shards) - 8 * rows - 8 * lists) / spec.code_bytes
    assert padded == pytest.approx(32 * blocks, rel=0.25, abs=64)


def test_a_record_holds_vector_face_id_and_identity():
    assert IndexSpec(128, "IVF64,PQ32x4fsr,Refine(SQfp16)").record_bytes == 268
    assert IndexSpec(128, "IVF64,PQ32x4fsr,Refine(SQ8)").record_bytes == 144  # and the scale
    assert IndexSpec(128, "IVF64,PQ32x4fsr").record_bytes == 0


def test_refining_moves_the_rows_out_of_memory_and_the_vectors_onto_the_disk():
    rows, people = 1_000_000, 200_000
    plain, refined = IndexSpec(128, "IVF4096,PQ32x4fsr"), IndexSpec(128, "IVF4096,PQ32x4fsr,Refine(SQfp16)")
    assert plain.resident_bytes(rows, people, 1) - refined.resident_bytes(rows, people, 1) == 12 * rows
    assert refined.disk_bytes(rows, people, 1) - plain.disk_bytes(rows, people, 1) == 268 * rows
    assert plain.resident_bytes(rows, people, 1, views=True) - plain.resident_bytes(rows, people, 1) == rows
    assert refined.resident_bytes(rows, people, 1, views=True) == refined.resident_bytes(rows, people, 1)


@pytest.mark.parametrize("code", ["SQfp16", "SQ8", "PQ32x4fsr", "RaBitQfs", "RaBitQfs4,Refine(SQ8)"])
def test_more_rows_people_and_shards_never_take_less(code):
    spec = IndexSpec(128, f"IVF256,{code}")
    for of in (spec.resident_bytes, spec.disk_bytes):
        base = of(10_000, 1000, 2)
        assert of(20_000, 1000, 2) > base
        assert of(10_000, 2000, 2) > base
        assert of(10_000, 1000, 3) > base


def test_training_rows_suffice_for_lists_and_codebooks_and_exact_codes_need_none():
    assert (IndexSpec(8, "Flat").train_rows, IndexSpec(8, "Flat").min_train_rows) == (0, 0)
    assert IndexSpec(8, "IVF1000,SQfp16").min_train_rows == 39_000
    assert IndexSpec(8, "IVF2,PQ4x4fsr").min_train_rows == 39 * 16
    assert IndexSpec(8, "SQ8").min_train_rows == 1
    for factory in ("Flat", "SQ8", "IVF2,PQ4x4fsr", "IVF1000,PQ4x4fsr", "IVF9,RaBitQfs2,Refine(SQ8)"):
        assert IndexSpec(8, factory).train_rows >= IndexSpec(8, factory).min_train_rows
