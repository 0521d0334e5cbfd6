"""Running a training's workers on Ray Train, and telling the person, MLflow and the workers how it goes meanwhile."""

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
from workflows.shared import cluster, console
from workflows.shared.console import say
from workflows.shared.lease import Lease
from workflows.shared.tracking import Tracker
from workflows.train.board import Board
from workflows.train.loop import train_loop
from workflows.train.training import Training


def fit(training: Training, spec: ModelSpec, tracker: Tracker, held: Lease) -> dict[str, Any]:
    """Run the workers until the last step.

    Returns:
        The last event, which holds the final figures, and ``checkpoint``.

    Raises:
        JobFailed: stopped, diverged, or the workers failed too often.
        TooManyBadImages: more pictures than allowed cannot be read.
        JobRunning: another run has taken the output folder over.
    """
    board = Board.remote()  # type: ignore[attr-defined]
    trainer = _trainer(training, spec, board)
    with console.bar("train", training.config.steps) as bar:
        watcher = _Watcher(board, tracker, held, bar)
        with watcher.watching():
            try:
                checkpoint = trainer.fit().checkpoint
            except ray.train.TrainingFailedError as error:
                raise cluster.cause(error) from error
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
    evenly = 1 if config.gpu else cluster.even_share(cluster.nodes(), config.workers)
    share = {"CPU": config.cpus_per_worker or evenly} | ({"GPU": 1} if config.gpu else {})
    work = partial(
        train_loop,
        config=config,
        spec=spec,
        train=training.train,
        valid=training.valid,
        root=training.faces.root,
        board=board,
    )
    return TorchTrainer(
        work,
        scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=config.gpu, resources_per_worker=share),
        run_config=RunConfig(
            name="train",
            storage_path=training.work,
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            worker_runtime_env=cluster.KEEP_MEMORY,  # type: ignore[call-arg]  # known to V2, not to the old stub
        ),
    )


class _Watcher:
    """Takes the workers' events off the board while they run, and asks them to stop when that is due."""

    def __init__(self, board: Any, tracker: Tracker, held: Lease, bar: console.Bar) -> None:
        self._board, self._tracker, self._held, self._bar = board, tracker, held, bar
        self._stop = threading.Event()
        self.last: dict[str, Any] = {}
        """All events so far, the later ones on top."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch, in a thread, for the length of the block; SIGTERM asks the workers to stop at the next step."""
        over = threading.Event()

        def watch() -> None:
            with suppress(RayError):  # the board is gone: what that means is said by the last look, below
                while not over.wait(0.5):
                    if self._held.lost:
                        self._stop.set()
                    self._look()

        thread = threading.Thread(target=watch, daemon=True)
        with _set_by_sigterm(self._stop):
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()
                self._look()

    def _look(self) -> None:
        if self._stop.is_set():
            ray.get(self._board.stop.remote())
        for event in ray.get(self._board.take.remote()):
            self._enter(event)

    def _enter(self, event: dict[str, Any]) -> None:
        if "warning" in event and "warning" not in self.last:
            say(f"warning: {event['warning']}")
            self._tracker.tag("collapse", event["warning"])
        self.last |= event
        watched = {f"valid/{k}": v for k, v in event.get("validation", {}).items()}
        figures = {k: v for k, v in (event["figures"] | watched).items() if np.isfinite(v)}
        self._tracker.log(figures, event["step"])
        if "validation" in event:
            shown = ", ".join(f"{k} {v:.4f}" for k, v in event["validation"].items())
            say(f"step {event['step']}: {shown}")
        self._bar.update(event["step"], f"loss {event['figures']['loss']:.4f}" if "loss" in event["figures"] else "")


@contextmanager
def _set_by_sigterm(flag: threading.Event) -> Iterator[None]:
    """SIGTERM sets the flag for the length of the block; a no-op outside the main thread, where none can be caught."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: flag.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
