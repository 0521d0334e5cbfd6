from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_core.errors import TooFewImages
from metric_core.sampling.sampler import BatchSampler, Weight

WEIGHTS = get_args(Weight)


def sampler(
    counts: list[int],
    identities: int = 4,
    images: int = 3,
    seed: int = 0,
    order: int = 0,
    weight: Weight = "uniform",
    views: list[int] | None = None,
) -> BatchSampler:
    """People with ``counts`` pictures each, rows shuffled by ``order``; ``views`` has the view of every picture."""
    code_N = np.repeat(np.arange(len(counts)), counts)
    face_id_N = np.arange(len(code_N)) * 7919 + 13
    shuffle = np.random.default_rng(order).permutation(len(code_N)) if order else np.arange(len(code_N))
    view_N = None if views is None else np.array(views)[shuffle]
    return BatchSampler(code_N[shuffle], face_id_N[shuffle], identities, images, seed, weight, view_N)


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=25).filter(lambda c: sum(n > 1 for n in c) >= 2),
    identities=st.integers(2, 8),
    images=st.integers(2, 5),
    step=st.integers(0, 60),
    size=st.integers(1, 5),
    weight=st.sampled_from(WEIGHTS),
)
def test_a_batch_at_any_world_size(
    counts: list[int], identities: int, images: int, step: int, size: int, weight: Weight
) -> None:
    s = sampler(counts, identities, images, weight=weight)
    whole = s.rows(step)
    parts = [s.rows(step, rank, size) for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(np.unique(whole)) == len(whole), "a picture occurs twice"
    people, drawn = np.unique(s.code_N[whole], return_counts=True)
    assert len(people) == min(identities, sum(n > 1 for n in counts))
    np.testing.assert_array_equal(drawn, np.minimum(np.array(counts)[people], images))
    owners = [set(s.code_N[part]) for part in parts]
    assert sum(map(len, owners)) == len(set.union(*owners)), "ranks share a person"


def two_views(pictures: list[int]) -> bool:
    return len(set(pictures) - {-1}) >= 2


@settings(max_examples=100, deadline=None)
@given(
    people=st.lists(st.lists(st.integers(-1, 3), min_size=1, max_size=9), min_size=2, max_size=12).filter(
        lambda people: sum(map(two_views, people)) >= 2
    ),
    identities=st.integers(2, 8),
    images=st.integers(2, 6),
    step=st.integers(0, 60),
    size=st.integers(1, 3),
    weight=st.sampled_from(WEIGHTS),
)
def test_everybody_has_two_views_in_a_batch(
    people: list[list[int]], identities: int, images: int, step: int, size: int, weight: Weight
) -> None:
    views = [view for pictures in people for view in pictures]
    s = sampler([len(pictures) for pictures in people], identities, images, order=1, weight=weight, views=views)
    rows = s.rows(step)
    np.testing.assert_array_equal(np.concatenate([s.rows(step, rank, size) for rank in range(size)]), rows)
    assert len(np.unique(rows)) == len(rows), "a picture occurs twice"
    drawn = np.unique(s.code_N[rows])
    assert len(drawn) == min(identities, sum(map(two_views, people)))
    for person in drawn:
        shown = s.view_N[rows[s.code_N[rows] == person]].tolist()
        there = {view: people[person].count(view) for view in set(people[person]) - {-1}}
        counts = {view: shown.count(view) for view in there}
        assert len(shown) == sum(counts.values()) == min(images, sum(there.values())), "only pictures with a view"
        assert sum(count > 0 for count in counts.values()) >= 2
        short = [view for view in there if counts[view] < there[view]]
        assert all(max(counts.values()) - counts[view] <= 1 for view in short), "as evenly as possible"


def test_every_view_of_a_person_has_its_turn() -> None:
    s = sampler([6, 6], identities=2, images=2, views=[0, 0, 1, 1, 2, 2] * 2)
    pairs = {tuple(sorted(s.view_N[rows].tolist())) for step in range(40) for rows in s.rows(step).reshape(2, 2)}
    assert pairs == {(0, 1), (0, 2), (1, 2)}


@pytest.mark.parametrize(("weight", "exponent"), [("images", 1.0), ("sqrt-images", 0.5)])
def test_people_are_drawn_by_weight(weight: Weight, exponent: float) -> None:
    """Compares frequencies of pairs with their exact probability: one person by weight, then another by weight."""
    counts, steps = np.array([2, 3, 6, 12, 40]), 20_000
    s = sampler(counts.tolist(), identities=2, weight=weight)
    drawn = np.zeros((5, 5))
    for step in range(steps):
        drawn[tuple(np.sort(s.people_of(step)))] += 1
    p = counts**exponent / (counts**exponent).sum()
    expected = steps * (np.outer(p / (1 - p), p) + np.outer(p, p / (1 - p)))
    pairs = np.triu_indices(5, k=1)
    assert drawn[pairs].sum() == steps, "a person occurs twice"
    chi2 = ((drawn - expected)[pairs] ** 2 / expected[pairs]).sum()
    assert chi2 < 27.9  # 9 degrees of freedom: exceeded with probability 0.001


def test_weighted_people_come_in_random_order() -> None:
    """Otherwise the first rank would get the people with many pictures, and more rows than the last."""
    s = sampler([2, 4, 8, 16, 32, 64], identities=3, weight="images")
    order = np.array([s.people_of(step) for step in range(4000)])
    assert np.abs(order.mean(axis=0) - order.mean()).max() < 0.08  # standard deviation of a position's mean: 0.02


def test_weights_count_only_pictures_that_can_be_drawn() -> None:
    s = sampler([40, 4, 4], identities=2, weight="images", views=[0, 1] + [-1] * 38 + [0, 0, 1, 1] * 2)
    often = np.bincount(np.concatenate([s.people_of(step) for step in range(2000)]))
    assert often[0] < 0.9 * min(often[1:])


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("views", [None, [0, 1, -1, 2] * 7])
def test_a_batch_does_not_depend_on_row_order(weight: Weight, views: list[int] | None) -> None:
    one, two = (sampler([5, 6, 7, 8, 2], order=order, weight=weight, views=views) for order in (0, 3))
    for step in range(10):
        assert one.face_id_N[one.rows(step)].tolist() == two.face_id_N[two.rows(step)].tolist()


def test_an_epoch_draws_everybody_once() -> None:
    s = sampler([3] * 12)
    for epoch in range(3):
        steps = range(epoch * s.steps_per_epoch, (epoch + 1) * s.steps_per_epoch)
        people = np.concatenate([s.people_of(step) for step in steps])
        assert sorted(people) == list(range(12))
    assert s.people_of(0).tolist() != s.people_of(s.steps_per_epoch).tolist()


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("views", [None, [0, 1, 2, 0] * 10])
def test_resume_from_any_step(weight: Weight, views: list[int] | None) -> None:
    running = sampler([4] * 10, weight=weight, views=views)
    for step in range(20):
        fresh = sampler([4] * 10, weight=weight, views=views)
        np.testing.assert_array_equal(running.rows(step), fresh.rows(step))


def test_pictures_vary_and_seeds_differ() -> None:
    s = sampler([30, 30], identities=2)
    assert len({tuple(s.rows(step)) for step in range(10)}) == 10
    assert s.rows(0).tolist() != sampler([30, 30], identities=2, seed=1).rows(0).tolist()


def test_too_few() -> None:
    with pytest.raises(TooFewImages, match="1 people with 5 pictures; 1 have two or more"):
        sampler([5])
    with pytest.raises(TooFewImages, match="0 have two or more"):
        sampler([1, 1, 1])
    with pytest.raises(TooFewImages, match="3 people with 8 pictures; 1 have pictures of two views or more"):
        sampler([3, 3, 2], views=[0, 1, 1, 0, 0, -1, 1, 1])
    with pytest.raises(TooFewImages, match="0 have pictures of two views"):
        sampler([3, 3], views=[-1] * 6)
    with pytest.raises(ValueError, match="at least 2 people with 2 pictures each"):
        sampler([5, 5], images=1)
