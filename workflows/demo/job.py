"""``likeness demo``: the whole chain, pictures to answers, through the same jobs that the other subcommands run."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray

from metric_core import storage
from metric_core.errors import ConfigError
from metric_core.model import bundle
from metric_core.sources.catalogue import seeded_splits
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.demo import drawn
from workflows.demo.config import IDENTITIES, VALID_FRACTION, DemoConfig
from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig
from workflows.evaluate import job as evaluate
from workflows.evaluate.config import EvaluateConfig
from workflows.index import job as index
from workflows.index.config import IndexConfig
from workflows.search import job as search
from workflows.search.config import SearchConfig
from workflows.shared import cluster, provenance
from workflows.shared.console import say
from workflows.shared.tracking import how_to_open
from workflows.train import job as train
from workflows.train import loop

PEOPLE_PER_TASK = 25
TITLES = {
    "verification": "verification accuracy",
    "rank1": "identification rank-1",
    "map_at_r": "retrieval MAP@R",
    "bcubed_f": "clustering B-cubed F",
    "classification": "classification by the 5 nearest",
}
"""Titles of the figures that are measured before and after training, by their names in the result."""


def run(config: DemoConfig) -> dict[str, Any]:
    """Draw (or take) faces, catalogue, train, embed, index, search, evaluate.

    Returns:
        {verification: {before, after}, rank1, map_at_r, bcubed_f and classification likewise, index_recall,
        seconds: {stage: s}, artefacts: {noun: uri}}

    Raises:
        ConfigError: there are too few people for the validation, or for that many workers.
    """
    _check_people(config)
    out = Path(storage.absolute(config.out))
    uri = {name: str(out / name) for name in ("faces", "model", "embeddings", "index", "matches")}
    untrained, before = str(out / "untrained-model"), str(out / "untrained-embeddings")
    store = f"sqlite:///{out / 'mlflow.db'}"
    seconds: dict[str, float] = {}
    with cluster.connected(config):
        workers = config.workers or min(2, cluster.cpus())
        if workers > cluster.cpus():  # checked here, since training would check it only after faces are drawn
            raise ConfigError(f"workers is {workers} but the cluster has {cluster.cpus()} CPUs; lower workers")
        source = config.source
        if source is None:
            with _stage("draw", seconds):
                source = _draw(config, out / "pictures")
        with _stage("catalogue", seconds):
            catalogue.run(
                CatalogueConfig(source=source, out=uri["faces"], valid_fraction=VALID_FRACTION, seed=config.seed)
            )
        with _stage("train", seconds):
            train.run(config.training(uri["faces"], uri["model"], store, workers))
        with _stage("embed", seconds):
            _save_untrained(uri["model"], untrained, config.seed)
            for model, to in ((untrained, before), (uri["model"], uri["embeddings"])):
                embed.run(EmbedConfig(faces=uri["faces"], model=model, out=to, split="valid", unit_size=256))
        with _stage("index", seconds):
            built = index.run(IndexConfig(embeddings=uri["embeddings"], out=uri["index"]))
    with _stage("search", seconds):
        gallery = str(out / "gallery.png")
        search.run(SearchConfig(index=uri["index"], embeddings=uri["embeddings"], out=uri["matches"], gallery=gallery))
    with _stage("evaluate", seconds):
        judged = {when: _judge(at) for when, at in (("before", before), ("after", uri["embeddings"]))}
    return {
        **{name: {when: figures[name] for when, figures in judged.items()} for name in TITLES},
        "index_recall": built["recall"],
        "seconds": seconds,
        "artefacts": {**uri, "gallery": gallery, "mlflow": store},
    }


def _judge(embeddings: str) -> dict[str, float]:
    """The figures of ``TITLES``."""
    protocol = partial(EvaluateConfig, embeddings=embeddings)
    return {
        "verification": evaluate.run(protocol(verification=True))["accuracy"],
        "rank1": evaluate.run(protocol(identification=True))["rank1"],
        "map_at_r": evaluate.run(protocol(retrieval=True))["map_at_r"],
        "bcubed_f": evaluate.run(protocol(clustering=True))["bcubed"]["f"],
        "classification": evaluate.run(protocol(classification=True))["accuracy"],
    }


def show(result: dict[str, Any]) -> str:
    """The table that the command prints at the end."""
    places = result["artefacts"]
    lines = [
        "on people the model has never seen        untrained   trained",
        *(f"  {TITLES[n]:<39}{result[n]['before']:10.1%}{result[n]['after']:10.1%}" for n in TITLES),
        f"  {'recall@10 of the index':<39}{result['index_recall']:20.1%}",
        "",
        "seconds      " + "  ".join(f"{stage} {s:.0f}" for stage, s in result["seconds"].items()),
        *(f"{noun:<12} {place}" for noun, place in places.items() if noun != "mlflow"),
        f"curves       {how_to_open(places['mlflow'])}",
    ]
    return "\n".join(lines)


def _check_people(config: DemoConfig) -> None:
    """Raises ConfigError when the split, which the seed decides, leaves too few people to train or to validate."""
    names = map(drawn.name, range(config.people))
    shares = {"train": 1 - VALID_FRACTION, "valid": VALID_FRACTION}
    people = Counter(seeded_splits(list(names), shares, config.seed).values())
    learnt = IDENTITIES if config.source else min(IDENTITIES, people["train"])
    problems = []
    if (config.workers or 1) > learnt:  # every worker needs a person of each batch
        problems.append(
            f"workers is {config.workers}; it must be at most {learnt}, the people per batch of the training"
        )
    if not config.source and people["valid"] < 2:  # impostor pairs need two
        problems.append(
            f"people is {config.people}; with seed {config.seed} the split leaves {people['valid']} of them for the "
            f"validation, which needs 2; draw more people or choose another seed"
        )
    if problems:
        raise ConfigError.of(problems)


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    say(f"— {name}")
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 1)


def _draw(config: DemoConfig, root: Path) -> str:
    """Draw the demo's faces unless they exist; the same options give the same bytes."""
    if len(storage.names(str(root))) < config.people:
        firsts = range(0, config.people, PEOPLE_PER_TASK)
        ray.get([_draw_people.remote(config, root, first) for first in firsts])
    return str(root)


@ray.remote
def _draw_people(config: DemoConfig, root: Path, first: int) -> int:
    people = range(first, min(first + PEOPLE_PER_TASK, config.people))
    return drawn.write_people(root, people, pictures=config.pictures, seed=config.seed)


def _save_untrained(trained: str, out: str, seed: int) -> None:
    """Save the network that training started from, to compare the trained one with it."""
    spec = bundle.load(trained).embedder.spec
    bundle.save(loop.initial(spec, seed), out, operating_points=[], provenance=provenance.record())
