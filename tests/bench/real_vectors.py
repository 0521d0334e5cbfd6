"""Vectors of pictures by trained models, as Embeddings artefacts in a work folder: what is there is not made again.

    python tests/bench/real_vectors.py WORK [--people 40000] [--learnt 1000] [--steps 700]

draws that many people and embeds them with a model that learnt from other drawn people. By default these are 200,000
pictures, 0.9 GB, of which two cores draw some 500 per second and embed some 500 per second, after four minutes of
training. ``lfw`` does the same for the photographs of Labeled Faces in the Wild.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from metric_core import storage
from metric_core.artefacts import manifest
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.demo import drawn
from workflows.demo.config import VALID_FRACTION, DemoConfig
from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig
from workflows.train import job as train
from workflows.train.config import TrainConfig

LFW = Path(os.environ.get("LIKENESS_DATA", "../shared/data")) / "lfw_dev"
LFW_STEPS = 500
"""A quarter of the default: three minutes on two cores."""
PEOPLE_PER_TASK = 25
DEMO = DemoConfig()
"""The default options of ``likeness demo``: how many people and pictures its model learns from."""


def lfw(work: str, *, data: Path = LFW, split: str | None = None, steps: int = LFW_STEPS) -> str:
    """Embeddings of lfw_dev by a model with the default options of ``likeness train`` but for ``steps``.

    Args:
        work: folder for the catalogue, the model, and the vectors.
        data: folder with images/ and splits.csv.
        split: train or valid; the model has seen nobody of valid. Default: everybody.
        steps: training steps.
    """
    faces, model = f"{work}/faces", f"{work}/model-{steps}"
    if not _finished(faces):
        catalogue.run(CatalogueConfig(source=str(data / "images"), splits=str(data / "splits.csv"), out=faces))
    if not _finished(model):
        train.run(TrainConfig(faces=faces, out=model, steps=steps, workers=2, tracking_uri=_tracking(work)))
    return _embedded(faces, model, f"{work}/embeddings-{steps}-{split or 'all'}", split)


def people_drawn(
    work: str, people: int = 40_000, *, pictures: int = 5, learnt: int = DEMO.people, steps: int = DEMO.steps
) -> str:
    """Embeddings of drawn people by the demo's model, which has seen none of them.

    Args:
        work: folder for pictures, catalogues, the model, and the vectors.
        people: number of people to embed.
        pictures: pictures per person.
        learnt: number of other people that the model learns from.
        steps: training steps of the model.
    """
    model = f"{work}/model-{learnt}-{steps}"
    if not _finished(model):
        others = _drawn(f"{work}/learnt-{learnt}", range(learnt), DEMO.pictures, valid_fraction=VALID_FRACTION)
        train.run(DemoConfig(steps=steps).training(others, model, _tracking(work), workers=2))
    faces = _drawn(f"{work}/people-{learnt}-{people}x{pictures}", range(learnt, learnt + people), pictures)
    return _embedded(faces, model, f"{model}-{people}x{pictures}", None)


def _drawn(folder: str, people: range, pictures: int, *, valid_fraction: float = 0.0) -> str:
    """The catalogue of drawn people; their pictures are in the same folder."""
    faces, root = f"{folder}/faces", Path(folder, "pictures")
    if not _finished(faces):
        tasks = [people[first : first + PEOPLE_PER_TASK] for first in range(0, len(people), PEOPLE_PER_TASK)]
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            draw = partial(drawn.write_people, root, pictures=pictures, seed=DEMO.seed)
            list(pool.map(draw, tasks))  # raises what a task raised
        catalogue.run(CatalogueConfig(source=str(root), out=faces, valid_fraction=valid_fraction, seed=DEMO.seed))
    return faces


def _embedded(faces: str, model: str, out: str, split: str | None) -> str:
    if not _finished(out):
        embed.run(EmbedConfig(faces=faces, model=model, out=out, split=split))
    return storage.absolute(out)


def _finished(artefact: str) -> bool:
    return storage.exists(storage.join(storage.absolute(artefact), manifest.NAME))


def _tracking(work: str) -> str:
    Path(work).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{Path(work).absolute() / 'mlflow.db'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("work")
    parser.add_argument("--people", type=int, default=40_000)
    parser.add_argument("--learnt", type=int, default=DEMO.people, help="people that the model learns from")
    parser.add_argument("--steps", type=int, default=DEMO.steps, help="training steps of the model")
    options = parser.parse_args()
    start = time.monotonic()
    address = people_drawn(options.work, options.people, learnt=options.learnt, steps=options.steps)
    print(f"{address}: {options.people:,} people, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
