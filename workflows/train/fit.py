"""Running a training's workers on Ray Train, until the last step or until the job is asked to stop."""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from metric_core.errors import JobFailed, TooManyBadImages
from metric_core.model.spec import ModelSpec
from workflows.shared import cluster, console, stopping
from workflows.shared.lease import Lease
from workflows.shared.tracking import Tracker
from workflows.train import checkpoints
from workflows.train.board import Board, Reporter
from workflows.train.config import TrainConfig
from workflows.train.events import Events
from workflows.train.loop import train_loop
from workflows.train.loopback import LoopbackConfig
from workflows.train.training import Training
from workflows.train.watcher import Watcher

POLL_S = 0.5
START_TIMEOUT, SHRINK_S = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "60"
"""Ray counts with a lost node for so long before it starts an elastic training with fewer workers."""
RESIZE_EVERY_S = 60.0
"""Seconds between two looks for room for more workers; they cost the steps since the last checkpoint."""


def fit(training: Training, spec: ModelSpec, tracker: Tracker, held: Lease) -> dict[str, Any]:
    """Run the workers until the last step.

    Returns:
        All events merged, the latest value of each key, with the final figures; and ``checkpoint``.

    Raises:
        JobFailed: diverged, or the workers failed more often than ``max_failures``.
        TooManyBadImages: a larger fraction of pictures than ``max_bad_fraction`` cannot be read.
        JobRunning: another run has taken over the output folder.
        Stopped: by a signal, after a checkpoint.
    """
    saved = checkpoints.prepare(training.work)
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}  # so that it is not lost with a worker's node
    board = Board.options(label_selector=here).remote()  # type: ignore[attr-defined]
    each = _resources(training.config)
    trainer = _trainer(training, spec, board, each)
    events = Events(training.out, tracker)
    with (
        console.bar("train", training.config.steps) as bar,
        stopping.noted() as signals,
        _start_timeout(training.config),
    ):
        watcher = Watcher(training.config, each, saved, board, tracker, events, bar)
        # Not in the main thread, where Ray Train would replace the handler of Ctrl-C by its own.
        fitted = _started(trainer.fit)
        while not wait([fitted], POLL_S).done:
            with suppress(RayError):  # the board is gone: the last poll, below, reports what that means
                if held.lost or signals.number:
                    ray.get(board.stop.remote())
                watcher.poll()
            if signals.number and not watcher.running:
                raise _stopped(signals, watcher.saved, events)
        try:
            watcher.poll()
            checkpoint = fitted.result().checkpoint
        except (RayError, ray.train.TrainingFailedError) as error:
            if signals.number:  # the signal went to Ray's processes as well
                raise _stopped(signals, watcher.saved, events) from error
            raise cluster.as_likeness_error(error) from error
    held.check()
    last = watcher.last
    if "diverged" in last:
        raise JobFailed(last["diverged"])
    if "refused" in last:
        raise TooManyBadImages(last["refused"])
    if checkpoint is None or not last.get("final"):
        if signals.number is None:
            raise JobFailed(f"the workers ended at step {watcher.saved} of {training.config.steps}; see --verbose")
        raise _stopped(signals, watcher.saved, events)
    return last | {"checkpoint": checkpoint}


@contextmanager
def _start_timeout(config: TrainConfig) -> Iterator[None]:
    """While the block runs, Ray Train, which reads it from the environment, waits less for the nodes of an elastic
    training; unless the user has said how long."""
    before = os.environ.get(START_TIMEOUT)
    if config.fewest_workers == config.most_workers or before != cluster.QUIET[START_TIMEOUT]:
        yield
        return
    os.environ[START_TIMEOUT] = SHRINK_S
    try:
        yield
    finally:
        os.environ[START_TIMEOUT] = before


def _stopped(signals: stopping.Signals, step: int, events: Events) -> stopping.Stopped:
    events.add("stopped", step, f"stopped at step {step} by {signals.name}; the same command continues", shown=False)
    return signals.stopped(f"at step {step}")


def _started(work: Callable[[], Any]) -> "Future[Any]":
    """Runs in a thread that ends with the process, even if the work does not."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _resources(config: TrainConfig) -> dict[str, float]:
    """What each worker has, as Ray names it."""
    cpus = 1 if config.gpu else cluster.cpus_per_worker(cluster.nodes(), config.most_workers)
    each: dict[str, float] = {"CPU": config.cpus_per_worker or cpus}
    return each | {"GPU": 1} if config.gpu else each


def _process_group(config: TrainConfig) -> TorchConfig:
    folder = cluster.private_folder()
    if folder is None:
        return TorchConfig(timeout_s=config.collective_timeout)
    return LoopbackConfig(timeout_s=config.collective_timeout, folder=folder)


def _trainer(training: Training, spec: ModelSpec, board: Any, each: dict[str, float]) -> TorchTrainer:
    config = training.config
    fewest, most = config.fewest_workers, config.most_workers
    loop = partial(
        train_loop,
        config=config,
        spec=spec,
        train=training.train,
        valid=training.valid,
        root=training.faces.root,
        work=training.work,
        board=board,
    )
    return TorchTrainer(
        loop,
        torch_config=_process_group(config),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # elastic in Train V2, not in its stub
            num_workers=most if fewest == most else (fewest, most),  # type: ignore[arg-type]
            use_gpu=config.gpu,
            resources_per_worker=each,
            elastic_resize_monitor_interval_s=RESIZE_EVERY_S,
        ),
        run_config=RunConfig(
            name=checkpoints.RUN,
            storage_path=training.work,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=checkpoints.KEPT),
            worker_runtime_env=cluster.KEEP_MEMORY,  # type: ignore[call-arg]  # exists in Train V2, missing in its stub
            callbacks=[Reporter(board)],  # type: ignore[list-item]
        ),
    )
