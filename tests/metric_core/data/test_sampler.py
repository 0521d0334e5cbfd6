import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_core.data.sampler import BatchSampler, share
from metric_core.errors import TooFewImages


def sampler(counts: list[int], identities: int = 4, images: int = 3, seed: int = 0, order: int = 0) -> BatchSampler:
    """People with so many pictures each, rows in some order."""
    code_N = np.repeat(np.arange(len(counts)), counts)
    face_id_N = np.arange(len(code_N)) * 7919 + 13
    shuffle = np.random.default_rng(order).permutation(len(code_N)) if order else np.arange(len(code_N))
    return BatchSampler(code_N[shuffle], face_id_N[shuffle], identities, images, seed)


@pytest.mark.parametrize(
    ("total", "size", "expected"),
    [(6, 3, [2, 2, 2]), (7, 3, [2, 2, 3]), (2, 4, [0, 1, 0, 1]), (5, 1, [5]), (0, 2, [0, 0])],
)
def test_share(total: int, size: int, expected: list[int]) -> None:
    shares = [share(total, rank, size) for rank in range(size)]
    assert [s.stop - s.start for s in shares] == expected
    assert [s.start for s in shares[1:]] == [s.stop for s in shares[:-1]]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=25).filter(lambda c: sum(n > 1 for n in c) >= 2),
    identities=st.integers(2, 8),
    images=st.integers(2, 5),
    step=st.integers(0, 60),
    size=st.integers(1, 5),
)
def test_a_batch_at_any_world_size(counts: list[int], identities: int, images: int, step: int, size: int) -> None:
    s = sampler(counts, identities, images)
    whole = s.rows(step)
    parts = [s.rows(step, rank, size) for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(np.unique(whole)) == len(whole), "a picture twice"
    people, drawn = np.unique(s.code_N[whole], return_counts=True)
    assert len(people) == min(identities, sum(n > 1 for n in counts))
    np.testing.assert_array_equal(drawn, np.minimum(np.array(counts)[people], images))
    owners = [set(s.code_N[part]) for part in parts]
    assert sum(map(len, owners)) == len(set.union(*owners)), "ranks share a person"


def test_a_batch_does_not_depend_on_row_order() -> None:
    one, two = sampler([5, 6, 7, 8, 2]), sampler([5, 6, 7, 8, 2], order=3)
    for step in range(10):
        assert one.face_id_N[one.rows(step)].tolist() == two.face_id_N[two.rows(step)].tolist()


def test_an_epoch_draws_everybody_once() -> None:
    s = sampler([3] * 12)
    for epoch in range(3):
        steps = range(epoch * s.steps_an_epoch, (epoch + 1) * s.steps_an_epoch)
        people = np.concatenate([s.people_of(step) for step in steps])
        assert sorted(people) == list(range(12))
    assert s.people_of(0).tolist() != s.people_of(s.steps_an_epoch).tolist()


def test_resume_from_any_step() -> None:
    running = sampler([4] * 10)
    for step in range(20):
        np.testing.assert_array_equal(running.rows(step), sampler([4] * 10).rows(step))


def test_pictures_vary_and_seeds_differ() -> None:
    s = sampler([30, 30], identities=2)
    assert len({tuple(s.rows(step)) for step in range(10)}) == 10
    assert s.rows(0).tolist() != sampler([30, 30], identities=2, seed=1).rows(0).tolist()


def test_too_few() -> None:
    with pytest.raises(TooFewImages, match="1 people with 5 pictures; 1 have two or more"):
        sampler([5])
    with pytest.raises(TooFewImages, match="0 have two or more"):
        sampler([1, 1, 1])
    with pytest.raises(ValueError, match="2 people of 2 pictures"):
        sampler([5, 5], images=1)
