"""``likeness train``: Faces to a Model, on Ray Train, with triplets mined across all workers.

This is the recipe; what each worker does, down to the line that computes the loss, is in ``loop``.
"""

import tempfile
from typing import Any

import torch

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import JobFailed
from metric_core.learn.health import all_finite
from metric_core.metrics import OperatingPoint
from metric_core.model import bundle
from metric_core.model.embedder import Embedder
from metric_core.model.spec import ModelSpec
from workflows.shared import cluster, lease, provenance, tracking
from workflows.shared.console import say
from workflows.shared.tracking import Tracker
from workflows.train import checkpoints
from workflows.train.config import TrainConfig
from workflows.train.fit import fit
from workflows.train.loop import diverged
from workflows.train.training import Training

NOT_NOTED: dict[str, Any] = {"images_per_second": 0.0, "validation": {}, "mlflow_run": None}
"""Figures of a finished Model whose provenance lacks them."""


def run(config: TrainConfig) -> dict[str, Any]:
    """Train, and write the Model.

    Returns:
        {model, fingerprint, steps, images_per_second, validation, mlflow_run}

    Raises:
        ConfigError, DataError: the options or the faces do not work; raised before any worker starts.
        TooManyBadImages: a larger fraction of pictures than ``max_bad_fraction`` cannot be read.
        JobFailed: stopped, diverged, or workers failed more often than ``max_failures``. Unless it diverged, the same
            command continues.
        JobRunning: another run holds or has taken over the output folder.
    """
    training = Training.prepare(config)
    with cluster.connected(config):
        done = training.begin() if manifest.begun(training.out) else None
        if not done:
            training.check_cluster()
            done = training.begin()
        if done:
            say(f"{training.out} is finished already; nothing to do")
            if storage.exists(training.work):  # the run was killed after writing the manifest, before tidying up
                training.open_run().finish("FINISHED")
                storage.remove_tree(training.work)
            return _result_of(training, done)
        with lease.held(training.out) as held:
            training.forget_erased()
            training.describe()
            with training.open_run() as tracker:
                spec = training.model_spec()
                last = fit(training, spec, tracker, held)
                held.confirm()
                result = _finish(training, spec, last, tracker)
            storage.remove_tree(training.work)
    return result


def _result_of(training: Training, done: Manifest) -> dict[str, Any]:
    """The result of the run that finished the Model: figures from its provenance, which no digest covers."""
    noted = done.provenance.get("result")
    figures = noted if isinstance(noted, dict) else {}
    return {
        "model": training.out,
        "fingerprint": done.content["fingerprint"],
        "steps": training.config.steps,
        **{name: figures.get(name, empty) for name, empty in NOT_NOTED.items()},
    }


def _finish(training: Training, spec: ModelSpec, last: dict[str, Any], tracker: Tracker) -> dict[str, Any]:
    """Makes the last checkpoint a complete Model artefact, registered with MLflow."""
    config, embedder = training.config, Embedder(spec)
    with last["checkpoint"].as_directory() as folder:
        state = checkpoints.load(folder, torch.device("cpu"))
    embedder.load_state_dict(state["model"])
    if not all_finite(embedder.state_dict().values()):
        raise JobFailed(diverged(config, f"the weights hold NaN or infinity after step {config.steps}"))
    points = [OperatingPoint(**point) for point in last.get("operating_points", [])]
    result = {
        "model": training.out,
        "fingerprint": bundle.fingerprint(embedder.float()),
        "steps": config.steps,
        "images_per_second": round(last["figures"].get("images_per_second", 0.0), 1),
        "validation": last.get("validation", {}),
        "mlflow_run": tracker.run_id,
    }
    # Registered before the manifest is written, so that every finished Model is registered with MLflow.
    made_by = provenance.record(result=result, mlflow_uri=tracker.uri)
    with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
        bundle.save(embedder, f"{folder}/model", operating_points=points, provenance=made_by)
        address = tracker.register(f"{folder}/model", embedder.spec, config.register)
    tracker.tag("fingerprint", result["fingerprint"])
    bundle.save(embedder, training.out, operating_points=points, provenance=made_by)
    say(f"registered with MLflow as {address}; to see the curves: {tracking.how_to_open(tracker.uri)}")
    return result
