"""An index of people who are easy to tell apart, built once and copied by the tests that damage it."""

import shutil
from pathlib import Path

import pytest
from support import indexed
from support.indexed import Built

from workflows.index import job


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Built:
    """To be read only."""
    root = tmp_path_factory.mktemp("whole")
    built = Built(indexed.crowd(root / "embeddings"), root / "index")
    job.run(built.options())
    return built


@pytest.fixture
def built(whole: Built, tmp_path: Path) -> Built:
    """A copy to be damaged, of the index and of its embeddings."""
    copy = shutil.copytree(Path(whole.embeddings).parent, tmp_path / "copy")
    return Built(str(copy / "embeddings"), copy / "index")
