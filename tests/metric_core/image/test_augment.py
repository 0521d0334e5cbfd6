import numpy as np
import pytest
import torch

from metric_core.errors import ConfigError
from metric_core.image.augment import Augmentation, augment

NONE = Augmentation(flip=0, rotate=0, scale=0, shift=0, light=0, erase=0)


def faces(count: int) -> tuple[torch.Tensor, np.ndarray]:
    pixels = torch.randint(0, 256, (count, 1, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return pixels, np.arange(count) * 31 + 5


def test_nothing_asked_nothing_changed() -> None:
    pixels, ids = faces(4)
    torch.testing.assert_close(augment(pixels, ids, NONE, seed=0, step=0), pixels.float(), atol=2e-3, rtol=0)


def test_a_face_s_changes_do_not_depend_on_the_rest_of_the_batch() -> None:
    pixels, ids = faces(9)
    whole = augment(pixels.double(), ids, Augmentation(), seed=1, step=5)
    assert whole.dtype == torch.float64
    parts = [augment(pixels[s].double(), ids[s], Augmentation(), seed=1, step=5) for s in (slice(0, 2), slice(2, 9))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-10)


def test_steps_and_seeds_differ_and_range_stays() -> None:
    pixels, ids = faces(64)
    one = augment(pixels, ids, Augmentation(light=1), seed=0, step=0)
    assert not torch.allclose(one, augment(pixels, ids, Augmentation(light=1), seed=0, step=1))
    assert not torch.allclose(one, augment(pixels, ids, Augmentation(light=1), seed=1, step=0))
    assert one.min() >= 0
    assert one.max() <= 255


def test_flip_mirrors_about_half() -> None:
    pixels, ids = faces(400)
    out = augment(pixels, ids, Augmentation(flip=0.5, rotate=0, scale=0, shift=0, light=0, erase=0), seed=0, step=0)
    straight = (out - pixels).abs().amax((1, 2, 3)) < 1e-2
    mirrored = (out - pixels.flip(-1)).abs().amax((1, 2, 3)) < 1e-2
    assert (straight ^ mirrored).all()
    assert 150 < mirrored.sum() < 250


def test_erase_blanks_a_rectangle() -> None:
    pixels, ids = faces(200)
    out = augment(pixels, ids, Augmentation(flip=0, rotate=0, scale=0, shift=0, light=0, erase=1), seed=0, step=0)
    changed = ((out - pixels).abs() > 1e-2).float().mean((1, 2, 3))
    assert (changed <= 0.17).all()  # at most 40 % x 40 %
    assert 0.02 < changed.mean() < 0.12


def test_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"flip is 2; it must be from 0 to 1\nrotate is 90; it must be from 0 to 45"):
        Augmentation(flip=2, rotate=90)


def test_an_empty_batch_stays_empty() -> None:
    """A worker's whole share of a batch can be unreadable."""
    pixels, ids = faces(0)
    assert augment(pixels, ids, Augmentation(), seed=0, step=0).shape == (0, 1, 24, 24)
