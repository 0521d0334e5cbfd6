import numpy as np

from metric_core import counter


def test_draws_do_not_depend_on_the_other_ids_or_on_order() -> None:
    ids = np.array([5, 2**62, 17, 0], np.int64)
    together = counter.uniform(3, 9, ids, "augment", 4)
    for row, face_id in enumerate(ids):
        alone = counter.uniform(3, 9, np.array([face_id]), "augment", 4)
        np.testing.assert_array_equal(alone[0], together[row])
    np.testing.assert_array_equal(counter.uniform(3, 9, ids[::-1], "augment", 4), together[::-1])


def test_every_part_of_the_key_counts() -> None:
    ids = np.arange(50)
    base = counter.uniform(0, 0, ids, "a", 2)
    for other in (
        counter.uniform(1, 0, ids, "a", 2),
        counter.uniform(0, 1, ids, "a", 2),
        counter.uniform(0, 0, ids, "b", 2),
        counter.uniform(0, 0, ids + 50, "a", 2),
    ):
        assert (base != other).mean() > 0.99


def test_draws_are_uniform_and_uncorrelated() -> None:
    draw = counter.uniform(0, 0, np.arange(20_000), "a", 4)
    assert draw.min() >= 0
    assert draw.max() < 1
    np.testing.assert_allclose(draw.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(draw.var(0), 1 / 12, atol=0.005)
    counts = np.stack([np.histogram(column, bins=16, range=(0, 1))[0] for column in draw.T])
    chi2 = ((counts - 1250) ** 2 / 1250).sum(1)  # 15 degrees of freedom: above 37.7 once in a thousand
    assert (chi2 < 37.7).all(), chi2
    correlation = np.corrcoef(np.column_stack([draw, np.roll(draw[:, 0], 1)]).T)
    assert np.abs(correlation - np.eye(5)).max() < 0.03


def test_a_table_of_hashes_has_those_of_every_pair() -> None:
    beginnings, endings = ["a", "", "ö" * 200], ["", "\0" + "0", ".jpg"]
    found = counter.hash63_table(beginnings, endings)
    assert found.dtype == np.int64
    assert found.tolist() == [[counter.hash63_joined(b + e) for e in endings] for b in beginnings]
    assert counter.hash63_table([], endings).shape == (0, 3)


def test_known_values_stay() -> None:
    """A change here would change every resumed training run."""
    assert counter.uniform(7, 123, np.array([2**62 + 5, 0]), "augment", 3).tolist() == [
        [0.10832211978671435, 0.9018511324449362, 0.11395394973448547],
        [0.9756415119040541, 0.7932190948714852, 0.07073643726414347],
    ]
    assert [counter.key(0, "epoch", n) for n in (1, 2)] == [7084746871046687929, 8137633600572360476]
