import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_core.errors import ConfigError
from metric_core.index.engine import faiss
from metric_core.index.spec import FLAT_ROWS, IndexSpec, choose


@pytest.mark.parametrize(
    ("rows", "recall", "factory", "nlist"),
    [
        (1, 0.99, "Flat", None),
        (FLAT_ROWS, 0.99, "Flat", None),
        (FLAT_ROWS + 1, 0.99, "IVF1024,Flat", 1024),
        (FLAT_ROWS + 1, 1.0, "Flat", None),
        (1_000_000, 0.9, "IVF4096,Flat", 4096),
        (10_000_000, 0.9, "IVF16384,Flat", 16384),
    ],
)
def test_choose(rows, recall, factory, nlist):
    spec = choose(rows, 128, target_recall=recall)
    assert (spec.factory, spec.nlist) == (factory, nlist)
    assert (spec.nprobe is None) == (nlist is None)


@settings(deadline=None)
@given(st.integers(1, 10**9), st.integers(1, 2048))
def test_a_chosen_index_can_be_trained_and_holds_all_rows_in_shards_of_about_a_gibibyte(rows, dim):
    spec = choose(rows, dim)
    assert spec.min_train_rows <= spec.train_rows <= max(rows, spec.train_rows)
    assert spec.min_train_rows <= rows
    assert IndexSpec(dim, spec.factory, 1, spec.nprobe).bytes_needed(rows) / spec.shards <= 1 << 30


def test_shards_are_as_asked():
    assert choose(1000, 128, shards=7).shards == 7
    assert choose(50_000_000, 512).shards > 90


@pytest.mark.parametrize("recall", [1.0, 0.9])
def test_memory_budget_is_refused_with_what_is_needed_and_that_much_is_enough(recall):
    with pytest.raises(ConfigError, match=r"1000000 vectors of 512 .* --memory-budget at least (\S+)GiB") as caught:
        choose(1_000_000, 512, target_recall=recall, memory_budget=1 << 30)
    needed = float(str(caught.value).split("at least ")[1].split("GiB")[0])
    spec = choose(1_000_000, 512, target_recall=recall, memory_budget=int(needed * 2**30))
    assert 1 << 30 < spec.bytes_needed(1_000_000) <= needed * 2**30 < 3 << 30


def test_bytes_needed_is_close_to_what_faiss_writes(people):
    v = people(200, 10, 64)
    for factory, nprobe in (("Flat", None), ("IVF16,Flat", 2)):
        index = faiss.index_factory(64, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(v.embedding_ND)
        index.add(v.embedding_ND)
        written = len(faiss.serialize_index(index))
        assert written <= IndexSpec(64, factory, 1, nprobe).bytes_needed(len(v)) <= 1.35 * written


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        ({"factory": "HNSW32"}, ["factory is 'HNSW32'; it must be 'Flat'"]),
        ({"factory": "IVF0,Flat"}, ["factory is 'IVF0,Flat'"]),
        ({"factory": "IVF16,Flat"}, ["IVF needs one"]),
        ({"nprobe": 4}, ["Flat has none"]),
        ({"factory": "IVF16,Flat", "nprobe": 17}, ["nprobe is 17; it must be from 1 to 16"]),
        ({"dim": 0, "shards": 0}, ["dim is 0; it must be 1 or more", "shards is 0"]),
    ],
)
def test_impossible_specs_report_all_problems(arguments, problems):
    with pytest.raises(ConfigError) as caught:
        IndexSpec(**{"dim": 8, "factory": "Flat", **arguments})
    assert all(p in str(caught.value) for p in problems)


def test_choose_reports_all_problems():
    with pytest.raises(ConfigError, match=r"(?s)no vectors.*dim.*shards.*target_recall.*memory_budget"):
        choose(0, 0, shards=0, target_recall=1.5, memory_budget=0)
