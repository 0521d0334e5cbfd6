from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metric_core.image.spec import Preprocessing
from metric_core.model import bundle
from metric_core.model.embedder import Embedder
from metric_core.model.spec import ModelSpec, backbone_spec

SPEC = ModelSpec(
    backbone_spec("plain", norm="group", dim=16),
    Preprocessing(32, "rgb"),
    standardise=True,
    flip_average=True,
    distance="cosine",
)


def made(spec: ModelSpec = SPEC) -> Embedder:
    torch.manual_seed(0)
    return Embedder(spec).eval()


@pytest.fixture
def pixels() -> torch.Tensor:
    """Six noisy pictures, dark enough that a brighter copy is not clipped."""
    return torch.randint(20, 120, (6, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_vectors_are_unit_and_a_face_does_not_depend_on_its_batch(pixels: torch.Tensor) -> None:
    embedder = made()
    vector_BD, norm_B = embedder.embed(pixels)
    np.testing.assert_allclose(np.linalg.norm(vector_BD, axis=1), 1, atol=1e-6)
    assert vector_BD.dtype == np.float32
    assert (norm_B > 0).all()
    np.testing.assert_allclose(embedder.embed(pixels[2:3])[0][0], vector_BD[2], atol=1e-5)


def test_flip_averaging_gives_a_face_and_its_mirror_image_one_vector(pixels: torch.Tensor) -> None:
    averaged, plain = made(), made(replace(SPEC, flip_average=False))
    np.testing.assert_allclose(averaged.embed(pixels)[0], averaged.embed(pixels.flip(-1))[0], atol=1e-5)
    assert abs(plain.embed(pixels)[0] - plain.embed(pixels.flip(-1))[0]).max() > 0.01


def test_standardised_pictures_do_not_depend_on_light_and_contrast(pixels: torch.Tensor) -> None:
    def lowest_cosine(embedder: Embedder, other: torch.Tensor) -> float:
        return float((embedder.embed(pixels)[0] * embedder.embed(other)[0]).sum(1).min())

    brighter, starker = pixels + 100, (pixels.float() - 60) * 1.5 + 100
    assert lowest_cosine(made(), brighter) > 0.999999
    assert lowest_cosine(made(), starker) > 0.999
    assert lowest_cosine(made(replace(SPEC, standardise=False)), brighter) < 0.999


def test_a_picture_of_one_colour_has_a_vector(pixels: torch.Tensor) -> None:
    assert np.isfinite(made().embed(torch.full_like(pixels, 77))[0]).all()


def test_float64_and_float32_agree(pixels: torch.Tensor) -> None:
    single = made()(pixels)
    double = made().double()(pixels)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=0)


def test_saved_and_loaded_it_is_the_same_model(pixels: torch.Tensor, tmp_path: Path) -> None:
    embedder = made()
    bundle.save(embedder, str(tmp_path), operating_points=[], provenance={})
    loaded = bundle.load(str(tmp_path))
    assert loaded.embedder.spec == SPEC
    np.testing.assert_array_equal(loaded.embedder.embed(pixels)[0], embedder.embed(pixels)[0])
    # The memory layout of a tensor is not part of a model.
    assert loaded.fingerprint == bundle.fingerprint(embedder.to(memory_format=torch.contiguous_format))
    assert loaded.fingerprint != bundle.fingerprint(made(replace(SPEC, standardise=False)))


@pytest.mark.parametrize("size", [16, 33, 56])
@pytest.mark.parametrize("name", ["plain", "iresnet18"])
def test_every_network_accepts_every_side(name: str, size: int) -> None:
    spec = replace(SPEC, backbone=backbone_spec(name, norm="group", dim=8), preprocessing=Preprocessing(size, "grey"))
    assert made(spec)(torch.zeros(2, 1, size, size, dtype=torch.uint8)).shape == (2, 8)


@pytest.mark.parametrize("flip_average", [False, True])
def test_the_length_is_that_of_the_raw_vector(pixels: torch.Tensor, flip_average: bool) -> None:
    embedder = made(replace(SPEC, flip_average=flip_average))
    lengths = [embedder.raw(view).norm(dim=1).detach() for view in (pixels, pixels.flip(-1))[: 1 + flip_average]]
    np.testing.assert_allclose(embedder.embed(pixels)[1], torch.stack(lengths).mean(0), rtol=1e-5)
