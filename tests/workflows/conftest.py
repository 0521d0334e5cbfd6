"""A small chain of artefacts, made once by the jobs themselves and shared by the tests that only read it."""

from pathlib import Path

import pytest
from support.tiny import Chain, small

from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig
from workflows.index import job as index
from workflows.index.config import IndexConfig
from workflows.train import job as train


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, people: Path, ray_session: None) -> Chain:
    """Catalogue, train on 2 workers, embed, index."""
    root = tmp_path_factory.mktemp("chain")
    at = {name: str(root / name) for name in ("faces", "model", "embeddings", "index")}
    uri = f"sqlite:///{root / 'mlflow.db'}"
    answers = {"catalogue": catalogue.run(CatalogueConfig(source=str(people), out=at["faces"], valid_fraction=0.4))}
    answers["train"] = train.run(small(at["faces"], at["model"], uri, workers=2))
    answers["embed"] = embed.run(EmbedConfig(faces=at["faces"], model=at["model"], out=at["embeddings"], unit_size=40))
    answers["index"] = index.run(IndexConfig(embeddings=at["embeddings"], out=at["index"], shards=3))
    return Chain(root=root, tracking_uri=uri, answers=answers, **at)
