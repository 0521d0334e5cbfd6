"""What each training worker does: train on its share of every global batch, mined over all workers' shares.

The line that computes the loss is in ``_step``; the losses are in ``metric_core.learn``.
"""

import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint
from torch.nn.parallel import DistributedDataParallel

from metric_core.artefacts.faces import identity_codes
from metric_core.errors import JobFailed
from metric_core.image.augment import augment
from metric_core.learn.collective import World, all_reduce_sum
from metric_core.learn.health import all_finite, gradient_norm
from metric_core.learn.memory import CrossBatchMemory
from metric_core.learn.schedule import HardeningState
from metric_core.learn.step import Outcome, global_loss, new_memory
from metric_core.model.embedder import Embedder
from metric_core.model.spec import ModelSpec
from metric_core.sampling import loader
from metric_core.sampling.loader import FaceDataset, PixelBatch
from metric_core.sampling.sampler import BatchSampler
from workflows.train import checkpoints
from workflows.train.board import EXCHANGING, READING, REPORTING
from workflows.train.config import TrainConfig
from workflows.train.pulse import Pulse
from workflows.train.validation import Validation

REPEATED = 20
"""Reports that a restart repeats."""


@dataclass
class _Worker:
    """What a worker keeps between steps."""

    config: TrainConfig
    world: World
    device: torch.device
    embedder: Embedder
    network: torch.nn.Module
    """The embedder, wrapped for gradient averaging when there are several workers."""
    optimizer: torch.optim.Optimizer
    code_N: np.ndarray
    face_id_N: np.ndarray
    view_N: np.ndarray
    """int64 (N,), -1 where the catalogue has no view"""
    memory: CrossBatchMemory | None
    """Embeddings of earlier batches; None if the objective does not use them."""
    careful: bool
    """Whether pictures are decoded in a process of their own, because one of them may have ended this worker before."""
    pulse: Pulse
    """Says how far this worker is, and hears whether to stop."""
    hardening: HardeningState = field(default_factory=HardeningState)
    """State of the miner schedule."""
    suspicious: int = 0
    """Steps in a row that look collapsed."""
    warning: str | None = None
    """The warning of collapse, once there is one."""
    images: int = 0
    """Number of pictures that this worker has drawn since it started."""
    bad: int = 0
    """Number of those that could not be read."""
    reported: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=REPEATED))
    """The last figures that were reported. Checkpoints hold them, because a killed driver may not have passed them on;
    rank 0 only."""
    seconds: float = field(default=1e-9)
    """Time spent on training steps since this worker started."""


def sampler_of(config: TrainConfig, train: pa.Table) -> BatchSampler:
    """The sampler of the training's batches. Raises TooFewImages when fewer than two people can be drawn."""
    return BatchSampler(
        code_N=identity_codes(train),
        face_id_N=train["face_id"].to_numpy(),
        identities=config.identities,
        images=config.images,
        seed=config.seed,
        weight=config.person_weight,
        view_N=view_codes(train) if config.draws_across_views else None,
    )


def view_codes(train: pa.Table) -> np.ndarray:
    """int64 (N,): the view of each row, numbered in the order of the views' names; -1 where there is none."""
    names = sorted({view for view in train["view"].to_pylist() if view is not None})
    number = {view: n for n, view in enumerate(names)}
    return np.array([number.get(view, -1) for view in train["view"].to_pylist()], np.int64)


def train_loop(
    *, config: TrainConfig, spec: ModelSpec, train: pa.Table, valid: pa.Table | None, root: str, work: str, board: Any
) -> None:
    """All steps of one worker, from the last checkpoint below ``work`` if there is one."""
    world = World.current()
    careful = ray.get(board.started.remote(world.rank, ray.get_runtime_context().get_node_id())) > 0
    pulse = Pulse(board, world.rank)
    with pulse.beating():
        worker = _prepare(config, spec, train, world, pulse, careful=careful)
        _train(worker, _restore(worker, work, board), train, valid, root, board)


def _train(worker: _Worker, first: int, train: pa.Table, valid: pa.Table | None, root: str, board: Any) -> None:
    """All steps from ``first``."""
    config, world, spec = worker.config, worker.world, worker.embedder.spec
    # Every loader process has its own cache.
    cache_bytes = (config.cache_mib << 20) // max(1, config.loader_workers)
    dataset = FaceDataset(train, root, spec.preprocessing, cache_bytes, limits=config.limits, careful=worker.careful)
    batches = loader.training_loader(
        dataset,
        sampler_of(config, train),
        first=first,
        last=config.steps,
        rank=world.rank,
        size=world.size,
        workers=config.loader_workers,
    )
    validation = None if valid is None else _validation(worker, valid, root)
    feed = iter(batches)
    for step in range(first, config.steps):
        worker.pulse.place = (step, READING)
        with _timed(worker):
            outcome = _step(worker, next(feed), step)
        done, last = step + 1, step + 1 == config.steps
        validating = validation is not None and (done % config.evaluate_every == 0 or last)
        reporting = done % config.report_every == 0 or done % config.checkpoint_every == 0 or validating or last
        worker.pulse.place = (step, REPORTING)
        stop = bool(outcome.asked)
        reason = _divergence(worker, outcome, done, check_weights=reporting or stop)
        if reason:  # not saved: the last checkpoint is the last good state
            _report(board, {"step": done, "figures": {}, "diverged": reason}, worker, final=False)
            return
        if reporting:
            event = {"step": done, "figures": _figures(worker, outcome)}
            if validation is not None and validating:
                event |= validation.event(worker.embedder, final=last)
            stop = _report(board, event, worker, final=last) or stop
        if stop or last or done % config.checkpoint_every == 0:
            _save(worker, done, board)
        if stop:
            return
    if first == config.steps:  # killed after the last step, before the Model was written: the report is lost, repeat it
        event = {"step": first, "figures": {}}
        if validation is not None:
            event |= validation.event(worker.embedder, final=True)
        _report(board, event, worker, final=True)
        _save(worker, first, board)


def _validation(worker: _Worker, valid: pa.Table, root: str) -> Validation:
    config, how = worker.config, worker.embedder.spec.preprocessing
    careful = worker.careful
    dataset = FaceDataset(valid, root, how, config.cache_mib << 20, limits=config.limits, careful=careful)
    return Validation(valid, dataset, worker.world, worker.device)


def initial(spec: ModelSpec, seed: int) -> Embedder:
    """The untrained network: the same weights for the same seed, on every worker."""
    torch.manual_seed(seed)
    return Embedder(spec)


def optimizer_of(config: TrainConfig, embedder: Embedder) -> torch.optim.Optimizer:
    """AdamW, with weight decay on matrices and convolution kernels only."""
    matrices = [p for p in embedder.parameters() if p.ndim > 1]
    vectors = [p for p in embedder.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> None:
    """Sets the learning rate of a step: linear warm-up to the peak, times half a cosine that ends at 0."""
    rise = min(1.0, (step + 1) / max(1, config.warmup))
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * rise * 0.5 * (1 + float(np.cos(np.pi * step / config.steps)))


def forward(network: torch.nn.Module, pixels_BCSS: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """Unit vectors (B, D) of a batch; under autocast to bfloat16 if ``precision`` is bf16."""
    with torch.autocast(pixels_BCSS.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        emb_BD: torch.Tensor = network(pixels_BCSS)
    return emb_BD


def _prepare(
    config: TrainConfig, spec: ModelSpec, train: pa.Table, world: World, pulse: Pulse, *, careful: bool
) -> _Worker:
    device = ray.train.torch.get_device() if config.gpu else torch.device("cpu")
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    embedder = initial(spec, config.seed).to(device, dtype)
    return _Worker(
        config=config,
        world=world,
        device=device,
        embedder=embedder,
        network=embedder if world.size == 1 else DistributedDataParallel(embedder),
        optimizer=optimizer_of(config, embedder),
        code_N=identity_codes(train),
        face_id_N=train["face_id"].to_numpy(),
        view_N=view_codes(train),
        memory=new_memory(config.objective, config.embedding_size, world, dtype, device),
        careful=careful,
        pulse=pulse,
    )


def _step(worker: _Worker, batch: PixelBatch, step: int) -> Outcome:
    """Embed this worker's share, mine over all workers' shares, and take one optimiser step."""
    config, device = worker.config, worker.device
    worker.images += len(batch.row_B) + len(batch.bad)
    worker.bad += len(batch.bad)
    set_learning_rate(worker.optimizer, config, step)
    ids_B = worker.face_id_N[batch.row_B]
    pixels = batch.pixels_BCSS.to(device, worker.embedder.net.head.weight.dtype)
    pixels = augment(pixels, ids_B, config.augmentation, seed=config.seed, step=step)
    worker.network.train()
    emb_BD = forward(worker.network, pixels, config)
    objective = config.objective
    if config.harden:
        objective = config.hardening.objective(objective, worker.hardening)
    worker.pulse.place = (step, EXCHANGING)
    outcome = global_loss(
        objective,
        worker.world,
        emb_BD,
        torch.from_numpy(worker.code_N[batch.row_B]).to(device),
        torch.from_numpy(ids_B).to(device),
        seed=config.seed,
        step=step,
        view_L=torch.from_numpy(worker.view_N[batch.row_B]).to(device),
        memory=worker.memory,
        asks=worker.pulse.stop,
    )
    worker.optimizer.zero_grad(set_to_none=True)
    outcome.loss.backward()
    worker.optimizer.step()
    worker.hardening = config.hardening.update(worker.hardening, outcome.health)
    worker.suspicious, warning = config.collapse.watch(worker.suspicious, outcome.health, objective.distance)
    worker.warning = warning or worker.warning
    return outcome


def _divergence(worker: _Worker, outcome: Outcome, step: int, *, check_weights: bool) -> str | None:
    """The message if embeddings or, with ``check_weights``, weights are not finite, the same on every worker."""
    not_finite = int(outcome.health["embeddings_not_finite"])
    if not_finite:
        return diverged(worker.config, f"{not_finite} embeddings of step {step} hold NaN or infinity")
    if check_weights and not all_finite(worker.embedder.parameters()):
        return diverged(worker.config, f"the weights hold NaN or infinity after step {step}")
    return None


def diverged(config: TrainConfig, found: str) -> str:
    """The message of a training that has diverged; ``found`` says what is not finite."""
    or_else = " or use --precision float32" if config.precision == "bf16" else ""
    return (
        f"training has diverged: {found}, with --learning-rate {config.learning_rate:g} and --precision "
        f"{config.precision}; lower the learning rate{or_else}, and give --out another folder"
    )


@contextmanager
def _timed(worker: _Worker) -> Iterator[None]:
    """Adds the duration of the block to the worker's ``seconds``."""
    start = time.monotonic()
    yield
    worker.seconds += time.monotonic() - start


def _figures(worker: _Worker, outcome: Outcome) -> dict[str, float]:
    """The step's figures, the same on every worker."""
    own = torch.tensor([worker.images, worker.bad], dtype=torch.float64, device=worker.device)
    images, bad = all_reduce_sum(own, worker.world).tolist()
    return {
        "loss": float(outcome.value),
        **{name: float(value) for name, value in outcome.health.items()},
        "gradient_norm": float(gradient_norm(worker.embedder.parameters())),
        "learning_rate": worker.optimizer.param_groups[0]["lr"],
        "images_per_second": images / worker.seconds,
        "bad_fraction": bad / max(1.0, images),
    }


def _report(board: Any, event: dict[str, Any], worker: _Worker, *, final: bool) -> bool:
    """Report to the driver; returns whether too many pictures cannot be read."""
    config = worker.config
    bad_fraction = event["figures"].get("bad_fraction", 0.0)
    if bad_fraction > config.max_bad_fraction:
        event["refused"] = (
            f"{bad_fraction:.1%} of the pictures drawn up to step {event['step']} cannot be read, more than "
            f"--max-bad-fraction {config.max_bad_fraction:.1%}; `likeness embed` lists them in its quarantine"
        )
    event["final"] = final
    if worker.warning:
        event["warning"] = worker.warning
    if worker.world.rank == 0:
        ray.get(board.post.remote(event))
        validation = {f"valid/{name}": float(value) for name, value in event.get("validation", {}).items()}
        worker.reported.append({"step": event["step"], "figures": event["figures"] | validation, "again": True})
    return "refused" in event  # the same on all workers, as the figures are


def _save(worker: _Worker, step: int, board: Any) -> None:
    """Save a checkpoint: everything that the next step depends on. All workers call it; rank 0 writes."""
    memory = worker.memory.state_dict() if worker.memory else {}  # gathered from all workers
    if worker.world.rank != 0:
        ray.train.report({"step": step})
        return
    state = {
        "step": step,
        "model": worker.embedder.state_dict(),
        "optimizer": worker.optimizer.state_dict(),
        "memory": memory,
        "hardening": asdict(worker.hardening),
        "suspicious": worker.suspicious,
        "workers": worker.world.size,
        "reported": list(worker.reported),
    }
    with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
        checkpoints.save(state, folder)
        ray.train.report({"step": step}, checkpoint=Checkpoint.from_directory(folder))
    board.change.remote({"state": "SAVED", "step": step})


def _restore(worker: _Worker, work: str, board: Any) -> int:
    """Load the last checkpoint, if there is one, and report it; returns the step to continue with, 0 without one.

    Raises:
        JobFailed: the workers do not find the same one.
    """
    state = checkpoints.latest(work, worker.device)
    step = 0 if state is None else int(state["step"])
    mean = all_reduce_sum(torch.tensor(float(step), device=worker.device), worker.world) / worker.world.size
    if mean.item() != step:
        raise JobFailed(
            f"worker {worker.world.rank} read a checkpoint of step {step} from {work}, and others another one; see "
            f"that all nodes read the same files there, then start again with the same arguments"
        )
    if worker.world.rank == 0:
        before = None if state is None else state.get("workers", worker.world.size)  # at first, it was not stored
        board.change.remote({"state": "STARTED", "step": step, "workers": worker.world.size, "before": before})
        worker.reported.extend([] if state is None else state.get("reported", []))
        for event in worker.reported:
            board.post.remote(event)
    if state is None:
        return 0
    worker.embedder.load_state_dict(state["model"])
    worker.optimizer.load_state_dict(state["optimizer"])
    if worker.memory:
        worker.memory.load_state_dict(state["memory"])
    worker.hardening = HardeningState(**state["hardening"])
    worker.suspicious = state["suspicious"]
    return step
