"""Which index is chosen for which budgets and targets, and what is said when none can be had."""

# N: rows.

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from metric_core.errors import ConfigError
from metric_core.index import choose
from metric_core.index.choose import Choice, Wanted
from metric_core.index.corpus import Rows
from metric_core.index.sample import Sample
from metric_core.index.spec import IndexSpec, shown
from metric_core.index.tuning import Target

MANY = 26_000
"""Rows of which 4 sqrt(N) lists can be trained."""
GOAL = Target(0.99)
SPEC = "IVF16,PQ4x4fsr,Refine(SQ8)"


def _sample(v: Rows) -> Sample:
    return Sample(v, (np.arange(len(v)) // 64).astype(np.int32), len(v), 1)


def _chosen(v: Rows, target: Target = GOAL, rows: int | None = None, **more: object) -> Choice:
    return choose.choose(Wanted(rows or len(v), 16, target, **more), _sample(v), 1)


@pytest.fixture(scope="module")
def many(people: Callable[..., Rows]) -> Rows:
    return people(MANY // 4, 4, noise=0.3)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is small enough to be scanned, and tried, is smaller."""
    monkeypatch.setattr(choose, "FLAT_ROWS", 1000)
    monkeypatch.setattr(choose, "PROBES", 400)
    monkeypatch.setattr(choose, "TRIAL_ROWS", 3000)


def test_few_vectors_are_scanned(people):
    made = _chosen(people(130))
    assert made.chosen.spec.factory == "Flat"
    assert made.chosen.tuned.identity == 1.0
    assert (made.chosen.shards, made.sample_rows, len(made.probes)) == (1, 650, 130)
    assert [one.note for one in made.table] == ["chosen"]


@pytest.mark.parametrize("target", [Target(1.0), Target(0.9, 1.0)])
def test_a_target_of_everything_keeps_the_index_exact(target, people, large):
    made = _chosen(people(300), target, rows=1_000_000_000)
    assert [one.spec.factory for one in made.table] == ["Flat"]
    assert made.chosen.shards > 1


def test_the_least_work_that_reaches_the_target_is_chosen_and_the_same_every_time(many, large):
    one, other = _chosen(many, Target(0.95)), _chosen(many, Target(0.95))
    assert one.row() == other.row()
    assert one.template == other.template
    np.testing.assert_array_equal(one.probes.face_id_Q, other.probes.face_id_Q)
    chosen = one.chosen
    assert chosen.spec.nlist == 512
    assert chosen.tuned.identity >= 0.95
    assert chosen.tuned.work == min(each.tuned.work for each in one.table if each.tuned)
    assert [each.note for each in one.table].count("chosen") == 1
    assert {each.note for each in one.table} <= {
        "chosen",
        "more work",
        "costs more, however well it finds",
        "does not reach the target",
    }
    assert [row["spec"] for row in one.row()["candidates"]] == [each.spec.factory for each in one.table]


def test_budgets_are_kept(many, large):
    free = _chosen(many, Target(0.9)).chosen
    for name in ("memory", "disk"):
        budget = int(getattr(free, name)) - 1
        tight = _chosen(many, Target(0.9), **{name: budget})
        assert getattr(tight.chosen, name) <= budget
        assert tight.chosen.tuned.identity >= 0.9
        assert "exceeds a budget" in {each.note for each in tight.table}


@pytest.mark.parametrize(("budget", "factory"), [(10**9, "Flat"), (80 << 20, "SQfp16"), (64 << 20, "SQ8")])
def test_a_scan_takes_the_finest_code_that_fits(budget, factory, people, monkeypatch):
    monkeypatch.setattr(choose, "FLAT_ROWS", 10**9)
    made = _chosen(people(130), Target(0.9), rows=1_000_000, memory=budget)
    assert made.chosen.spec.factory == factory
    assert made.chosen.memory <= budget


def test_vectors_for_reranking_are_coarser_only_to_save_disk(many, large):
    free = _chosen(many, Target(0.9)).table
    assert {each.spec.refine for each in free} == {"SQfp16", None}
    between = next(each.disk for each in free if each.spec.factory == "IVF512,PQ8x4fsr,Refine(SQfp16)") - 1
    made = _chosen(many, Target(0.9), disk=between)
    notes = {each.spec.factory: each.note for each in made.table}
    assert made.chosen.disk <= between
    assert notes["IVF512,PQ8x4fsr,Refine(SQfp16)"] == "exceeds a budget"
    assert notes["IVF512,PQ8x4fsr,Refine(SQ8)"] != "exceeds a budget"


def test_a_budget_that_is_too_small_is_answered_with_the_least(people, many, large):
    for v in (people(130), many):
        with pytest.raises(ConfigError) as error:
            _chosen(v, Target(0.9), memory=1000, disk=1000)
        memory, disk = str(error.value).splitlines()
        for line, words, option in ((memory, "of memory", "memory"), (disk, "on disk", "disk")):
            found = re.match(
                rf"{len(v):,} vectors of 16 components take at least (\S+) {words} \(\S+\), more than the budget of "
                rf"1000B; give --{option}-budget at least (\S+),",
                line,
            )
            assert found
            assert found[1] == found[2]


def test_the_least_that_is_named_is_enough(many, large):
    with pytest.raises(ConfigError) as error:
        _chosen(many, Target(0.5), memory=1000)
    number, unit = re.search(r"--memory-budget at least ([0-9.]+)([KM]iB)", str(error.value)).groups()
    budget = float(number) * {"KiB": 1 << 10, "MiB": 1 << 20}[unit]
    least = _chosen(many, Target(0.5), memory=int(budget)).chosen
    assert least.memory <= budget
    assert shown(least.memory) == f"{number}{unit}"


@pytest.mark.parametrize("factory", [SPEC, "IVF16,RaBitQfs", "SQ8", "IVF16,Flat"])
def test_the_spec_that_is_given_is_taken(factory, people):
    made = _chosen(people(200), Target(0.3), spec=factory)
    assert made.chosen.spec.factory == factory
    assert [one.note for one in made.table] == ["chosen"]
    assert made.chosen.tuned.identity >= 0.3


def test_a_spec_that_does_not_exist_is_answered_with_the_nearest(people):
    with pytest.raises(ConfigError, match=r"factory is 'IVF16,PQ4x4'; expected Flat, .*nearest is 'IVF16,PQ4x4fsr'"):
        _chosen(people(), spec="IVF16,PQ4x4")
    with pytest.raises(ConfigError, match=r"M is 3, which does not divide 16"):
        _chosen(people(), spec="IVF16,PQ3x4fsr")


def test_too_few_vectors_for_the_lists(people):
    with pytest.raises(ConfigError, match=r"IVF16,Flat needs at least 624 vectors .* got 300; ask for fewer lists"):
        _chosen(people(), spec="IVF16,Flat")
    made = _chosen(people(125), Target(0.5), spec="IVF16,Flat")
    assert made.chosen.spec.nlist == 16, "the probes are trained on, too, where there are no others"


def test_vectors_that_are_all_equal(people):
    v = people(130)
    equal = replace(v, embedding_ND=np.repeat(v.embedding_ND[:1], len(v), axis=0))
    with pytest.raises(ConfigError, match="sampled vectors are equal, so they cannot be told apart"):
        _chosen(equal, spec="IVF8,Flat")
    with pytest.raises(ConfigError, match="vectors are equal"):
        _chosen(equal)
    assert _chosen(equal, spec="Flat").chosen.spec.factory == "Flat"


@pytest.mark.parametrize("factory", [None, "IVF16,PQ8x4fsr,Refine(SQfp16)"])
def test_one_person_alone_is_nobody_to_tell_apart(factory, people):
    with pytest.raises(ConfigError, match="all of the 700 vectors that were looked at are of one person, 'p000'"):
        _chosen(people(1, 700), Target(1.0 if factory is None else 0.99), spec=factory)


def test_a_target_out_of_reach_is_answered_with_the_best(people):
    with pytest.raises(ConfigError) as error:
        _chosen(people(200), Target(0.9999, 0.999), spec="IVF16,PQ2x4fsr")
    found = re.fullmatch(
        r"no index within the budgets reaches an identity recall of 0\.9999 on a sample and a vector recall of 0\.999; "
        r"the best, IVF16,PQ2x4fsr, reaches (0\.\d{4}) with .* of memory and .* on disk; lower .*",
        str(error.value),
    )
    assert found
    assert 0 < float(found[1]) < 0.9999


def test_as_many_rows_are_sampled_as_the_candidates_need():
    assert choose.sample_rows(Wanted(650, 16, Target(0.9), spec="Flat")) == 650
    assert choose.sample_rows(Wanted(10**6, 16, Target(0.9), spec="Flat")) == choose.TRIAL_ROWS
    lists = Wanted(10**6, 16, Target(0.9), spec="IVF4096,SQ8")
    assert choose.sample_rows(lists) == IndexSpec(16, "IVF4096,SQ8").train_rows == 64 * 4096
