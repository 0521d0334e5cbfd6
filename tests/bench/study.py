"""Which objective learns best from few pictures: LFW people, several seeds, beside pytorch-metric-learning.

    python tests/bench/study.py [--data FOLDER] [--steps N] [--seeds N ...] [--jobs N] [--only NAME ...] [--quick]
                                [--json]

Every line trains the same network on the same pictures in the same batches for the same number of steps; only what is
minimised differs. All are evaluated on the pair list of people that none has seen. Each training has one thread.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import table
import torch
from pytorch_metric_learning.losses import MultiSimilarityLoss, TripletMarginLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner, TripletMarginMiner
from table import Case, more
from torch import Tensor

from metric_core.artefacts.embeddings import Vectors
from metric_core.artefacts.faces import Faces, identity_codes
from metric_core.evaluate import pairs, verification
from metric_core.image.augment import augment
from metric_core.image.spec import Preprocessing
from metric_core.learn.collective import World
from metric_core.learn.objective import Objective
from metric_core.learn.step import global_loss, new_memory
from metric_core.model.embedder import Embedder
from metric_core.model.spec import ModelSpec
from metric_core.sampling.loader import FaceDataset, mean_face
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig
from workflows.shared import cluster
from workflows.train import loop
from workflows.train.config import TrainConfig
from workflows.train.training import with_precision

Loss = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""(B, D) unit vectors, (B,) labels, (B,) face_ids and the step to a loss."""
RECIPE = TrainConfig(faces="-", out="-")
"""The default options of ``likeness train``."""
DEFAULT = "softall"
"""The objective of ``RECIPE``."""
PEER = "pml multi-similarity"
OBJECTIVES = {
    DEFAULT: RECIPE.objective,
    "semi-hard": Objective(miner="semi-hard", distance="squared-euclidean", margin=0.2),
    "batch-hard": Objective(miner="batch-hard", form="soft"),
    "multi-similarity": Objective(loss="multi-similarity", distance="cosine"),
    "softall, memory": replace(RECIPE.objective, memory_rows=1024),
}
LOCAL = {"semi-hard, local": "semi-hard", "softall, local": DEFAULT}
WORKERS = 4
"""Workers of local mining: each sees a quarter of the batch."""
NAMES = (*OBJECTIVES, *LOCAL, PEER, "pml semi-hard")


def loss_of(name: str, config: TrainConfig) -> Loss:
    """What a line minimises."""
    if name == PEER:
        return _theirs(MultiSimilarityLoss(), MultiSimilarityMiner())
    if name == "pml semi-hard":
        return _theirs(TripletMarginLoss(margin=0.2), TripletMarginMiner(margin=0.2, type_of_triplets="semihard"))
    objective = OBJECTIVES[LOCAL.get(name, name)]
    memory = new_memory(objective, config.embedding_size, World(0, 1), torch.float32, "cpu")

    def whole(emb_BD: Tensor, label_B: Tensor, id_B: Tensor, step: int) -> Tensor:
        world = World(0, 1)
        return global_loss(objective, world, emb_BD, label_B, id_B, seed=config.seed, step=step, memory=memory).loss

    def local(emb_BD: Tensor, label_B: Tensor, id_B: Tensor, step: int) -> Tensor:
        # Every worker has whole people, as with the sampler; averaging gradients amounts to the mean of the losses.
        of_B = torch.unique_consecutive(label_B, return_inverse=True)[1] * WORKERS // config.identities
        return torch.stack(
            [whole(emb_BD[of_B == w], label_B[of_B == w], id_B[of_B == w], step) for w in range(WORKERS)]
        ).mean()

    return local if name in LOCAL else whole


def _theirs(loss: torch.nn.Module, miner: torch.nn.Module) -> Loss:
    return lambda emb_BD, label_B, id_B, step: loss(emb_BD, label_B, miner(emb_BD, label_B))


@cache
def _pixels(faces: str, split: str, how: Preprocessing) -> tuple[pa.Table, Tensor]:
    opened = Faces.open(faces)
    rows = opened.select(split)
    dataset = FaceDataset(rows, opened.root, how)
    return rows, dataset.collate([dataset[row] for row in range(len(dataset))]).pixels_BCSS


def learn(name: str, config: TrainConfig, spec: ModelSpec) -> Embedder:
    """The network after ``config.steps`` steps of a line's loss; everything else is what ``likeness train`` does."""
    train, pixels_NCSS = _pixels(config.faces, "train", spec.preprocessing)
    code_N, id_N = identity_codes(train), train["face_id"].to_numpy()
    sampler, embedder = loop.sampler_of(config, train), loop.initial(spec, config.seed)
    optimizer, loss = loop.optimizer_of(config, embedder), loss_of(name, config)
    for step in range(config.steps):
        rows = sampler.rows(step)
        loop.set_learning_rate(optimizer, config, step)
        x_BCSS = augment(pixels_NCSS[rows], id_N[rows], config.augmentation, seed=config.seed, step=step)
        labels, ids = torch.from_numpy(code_N[rows]), torch.from_numpy(id_N[rows])
        optimizer.zero_grad(set_to_none=True)
        loss(loop.forward(embedder, x_BCSS, config), labels, ids, step).backward()
        optimizer.step()
    return embedder.eval()


def judge(embedder: Embedder, config: TrainConfig, pair_list: str) -> tuple[float, float]:
    """Accuracy and AUC on the pair list."""
    valid, pixels_NCSS = _pixels(config.faces, "valid", embedder.spec.preprocessing)
    emb_ND = np.concatenate([embedder.embed(x)[0] for x in pixels_NCSS.split(256)])
    names = np.array(valid["identity"].to_pylist(), object)
    vectors = Vectors(valid["face_id"].to_numpy(), names, emb_ND)
    listed = pairs.read_pairs(Path(pair_list).read_text(), pair_list)
    content = Faces.open(config.faces).manifest.content
    report = verification.report(
        verification.score_pairs(listed, iter([vectors]), content["namespace"], content["salts"])
    )
    return report["accuracy"], report["auc"]


def _trained(task: tuple[str, TrainConfig, ModelSpec, str]) -> tuple[str, int, float, float, float]:
    name, config, spec, pair_list = task
    torch.set_num_threads(1)
    start = time.monotonic()
    embedder = learn(name, config, spec)
    seconds = time.monotonic() - start
    return name, config.seed, *judge(embedder, config, pair_list), seconds


def main() -> None:
    parser = table.parser(__doc__, "25 steps, one seed")
    data = Path(os.environ.get("LIKENESS_DATA", "../shared/data")) / "lfw_dev"
    parser.add_argument("--data", type=Path, default=data, help="folder with images/, splits.csv and pairs_valid.txt")
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1, 2],
        metavar="N",
        help="results of one do not depend on the others",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at once")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    options = parser.parse_args()
    steps, seeds = (25, [0]) if options.quick else (options.steps, options.seeds)
    os.environ.update(cluster.KEEP_MEMORY["env_vars"])  # as in the jobs; read when a process starts
    with tempfile.TemporaryDirectory() as scratch, multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        faces = str(Path(scratch) / "faces")
        catalogue.run(
            CatalogueConfig(source=str(options.data / "images"), splits=str(options.data / "splits.csv"), out=faces)
        )
        configs = [with_precision(TrainConfig(faces=faces, out="-", steps=steps, seed=seed)) for seed in seeds]
        opened = Faces.open(faces)
        spec = configs[0].model_spec(mean_face(opened.select("train"), opened.root, seed=0))
        pair_list = str(options.data / "pairs_valid.txt")
        tasks = [(name, config, spec, pair_list) for config in configs for name in options.only]
        done = []
        for result in pool.imap(_trained, tasks):
            done.append(result)
            name, seed, accuracy, auc, seconds = result
            line = f"{len(done)}/{len(tasks)} {name}, seed {seed}: {accuracy:.4f}, AUC {auc:.4f}, {seconds:.0f} s"
            print(line, file=sys.stderr, flush=True)
    if options.json:
        table.show(_cases(done, options.only), as_json=True)
        return
    print(f"{steps} steps, seeds {seeds}, {options.data.name}")
    print(f"{'objective':<24}{'accuracy':>10}{'±':>8}{'AUC':>8}{'±':>8}{'s/step':>10}")
    for name in options.only:
        accuracy, auc, seconds = (np.array(x) for x in zip(*(r[2:] for r in done if r[0] == name)))
        spread = [statistics.stdev(x) if len(seeds) > 1 else float("nan") for x in (accuracy.tolist(), auc.tolist())]
        print(
            f"{name:<24}{accuracy.mean():>10.4f}{spread[0]:>8.4f}{auc.mean():>8.4f}{spread[1]:>8.4f}"
            f"{seconds.mean() / steps:>10.3f}"
        )


def _cases(done: list[tuple[str, int, float, float, float]], names: list[str]) -> list[Case]:
    """Mean accuracy and AUC of every line; the peer's own lines have no ours."""
    out: list[Case] = []
    for column, figure in ((2, "accuracy"), (3, "auc")):
        mean = {n: statistics.mean(float(r[column]) for r in done if r[0] == n) for n in names}
        peer = mean.get(PEER)
        for name, ours in mean.items():
            if not name.startswith("pml"):
                out.append(more(f"{name}/{figure}", ours, peer, "1"))
    return out


if __name__ == "__main__":
    main()
