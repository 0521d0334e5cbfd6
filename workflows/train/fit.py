"""Running a training's workers on Ray Train, and reporting their progress on the console and to MLflow."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import ray
import ray.train
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from metric_core.errors import JobFailed, TooManyBadImages
from metric_core.model.spec import ModelSpec
from workflows.shared import cluster, console, metrics
from workflows.shared.console import say
from workflows.shared.lease import Lease
from workflows.shared.tracking import Tracker
from workflows.train import checkpoints
from workflows.train.board import Board
from workflows.train.config import TrainConfig
from workflows.train.loop import train_loop
from workflows.train.training import Training


def fit(training: Training, spec: ModelSpec, tracker: Tracker, held: Lease) -> dict[str, Any]:
    """Run the workers until the last step.

    Returns:
        All events merged, the latest value of each key, with the final figures; and ``checkpoint``.

    Raises:
        JobFailed: stopped, diverged, or the workers failed more often than ``max_failures``.
        TooManyBadImages: a larger fraction of pictures than ``max_bad_fraction`` cannot be read.
        JobRunning: another run has taken over the output folder.
    """
    checkpoints.prepare(training.work)
    board = Board.remote()  # type: ignore[attr-defined]
    trainer = _trainer(training, spec, board)
    with console.bar("train", training.config.steps) as bar:
        watcher = _Watcher(board, tracker, held, bar, training.config)
        with watcher.watching():
            try:
                checkpoint = trainer.fit().checkpoint
            except ray.train.TrainingFailedError as error:
                raise cluster.as_likeness_error(error) from error
    held.check()
    last = watcher.last
    if "diverged" in last:
        raise JobFailed(last["diverged"])
    if "refused" in last:
        raise TooManyBadImages(last["refused"])
    if checkpoint is None or not last.get("final"):
        raise JobFailed(
            f"stopped at step {last.get('step', 0)} of {training.config.steps}; the same command continues from there"
        )
    return last | {"checkpoint": checkpoint}


def _trainer(training: Training, spec: ModelSpec, board: Any) -> TorchTrainer:
    config = training.config
    cpus = 1 if config.gpu else cluster.cpus_per_worker(cluster.nodes(), config.workers)
    resources = {"CPU": config.cpus_per_worker or cpus} | ({"GPU": 1} if config.gpu else {})
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
        scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=config.gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=checkpoints.RUN,
            storage_path=training.work,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=checkpoints.KEPT),
            worker_runtime_env=cluster.KEEP_MEMORY,  # type: ignore[call-arg]  # exists in Train V2, missing in its stub
        ),
    )


class _Watcher:
    """Takes the workers' events off the board while they run, and asks them to stop when necessary."""

    def __init__(self, board: Any, tracker: Tracker, held: Lease, bar: console.Bar, config: TrainConfig) -> None:
        self._board, self._tracker, self._held, self._bar, self._config = board, tracker, held, bar, config
        self._stop = threading.Event()
        self.last: dict[str, Any] = {}
        """All events so far, merged; later values replace earlier ones."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch in a thread while the block runs; SIGTERM asks the workers to stop at the next step they report."""
        finished = threading.Event()

        def watch() -> None:
            with suppress(RayError):  # the board is gone: the last poll, below, reports what that means
                while not finished.wait(0.5):
                    if self._held.lost:
                        self._stop.set()
                    self._poll()

        thread = threading.Thread(target=watch, daemon=True)
        with _set_by_sigterm(self._stop):
            thread.start()
            try:
                yield
            finally:
                finished.set()
                thread.join()
                self._poll()

    def _poll(self) -> None:
        if self._stop.is_set():
            ray.get(self._board.stop.remote())
        for event in ray.get(self._board.take.remote()):
            self._record(event)

    def _record(self, event: dict[str, Any]) -> None:
        if "warning" in event and "warning" not in self.last:
            say(f"warning: {event['warning']}")
            self._tracker.tag("collapse", event["warning"])
        self.last |= event
        validation = {f"valid/{k}": v for k, v in event.get("validation", {}).items()}
        figures = {k: v for k, v in (event["figures"] | validation).items() if np.isfinite(v)}
        self._tracker.log(figures, event["step"])
        progress = {"done": event["step"], "total": self._config.steps}
        metrics.publish("train", self._config.out, figures | progress)
        if "validation" in event:
            shown = ", ".join(f"{k} {v:.4f}" for k, v in event["validation"].items())
            say(f"step {event['step']}: {shown}")
        self._bar.update(event["step"], f"loss {event['figures']['loss']:.4f}" if "loss" in event["figures"] else "")


@contextmanager
def _set_by_sigterm(flag: threading.Event) -> Iterator[None]:
    """SIGTERM sets the flag while the block runs. No effect outside the main thread, where no signal can be caught."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: flag.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
