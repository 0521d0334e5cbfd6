"""Fixtures shared by all tests: real data if it is there, one Ray for the session, tiny corpora."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from support.measured import ray_hook
from support.places import DATA

from workflows.demo import drawn

# Read when Ray and MLflow start.
os.environ.update(RAY_USAGE_STATS_ENABLED="0", MLFLOW_DISABLE_TELEMETRY="true")


def pytest_configure() -> None:
    """Ctrl-C is not ignored, as it is in what a shell has started in the background, nor in what tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real faces and other data; tests that need it skip where it is missing."""
    if not DATA.is_dir():
        pytest.skip(f"no data at {DATA}: set LIKENESS_DATA to the folder with orl/, lfw_dev/, odd_images/ …")
    return DATA


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 drawn people with 6 pictures of 48 pixels each, one folder per person."""
    root = tmp_path_factory.mktemp("people")
    drawn.write_people(root, range(24), pictures=6, seed=7, size=48)
    return root


@pytest.fixture
def picture() -> Image.Image:
    """A picture with no symmetry: its top left is red, the rest a gradient."""
    image = Image.linear_gradient("L").resize((60, 40)).convert("RGB")
    image.paste((255, 0, 0), (0, 0, 20, 10))
    return image


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One Ray with 4 CPUs for the whole session, whatever the machine has; jobs use it and leave it running."""
    import warnings

    import ray

    from workflows.shared import cluster

    os.environ.update(cluster.QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=ray_hook()
        )
    yield
    ray.shutdown()
