"""``likeness train``: Faces to a Model, on Ray Train, with triplets mined across all workers.

This is the driver's side; what each worker does, down to the line that computes the loss, is in ``train_loop``.
"""

import json
import tempfile
import threading
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.train
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from metric_core import manifest, storage
from metric_core.data.faces import Faces
from metric_core.data.loader import check_landmarks, mean_face
from metric_core.data.sampler import BatchSampler
from metric_core.errors import ConfigError, JobFailed, TooManyBadImages
from metric_core.learn.health import all_finite
from metric_core.metrics import OperatingPoint
from metric_core.model import bundle
from metric_core.model.embedder import Embedder, ModelSpec
from workflows.parts import console, lease, provenance, runtime, tracking, validation
from workflows.parts.console import say
from workflows.parts.lease import Lease
from workflows.parts.tracking import Tracker
from workflows.train_config import TrainConfig
from workflows.train_loop import STATE, diverged, sampler_of, train_loop

WORK = "_run"
"""Checkpoints and state of an unfinished training, inside the output folder; gone when the Model is whole."""


def run(config: TrainConfig) -> dict[str, Any]:
    """Train, and write the Model.

    Returns:
        {model, fingerprint, steps, images_per_second, validation, mlflow_run}

    Raises:
        ConfigError, DataError: before any worker starts.
        JobFailed: stopped, diverged, or workers failed more often than ``max_failures``; the same command continues.
    """
    config = config.settled()
    out = storage.absolute(config.out)
    work = storage.join(out, WORK)
    faces = Faces.open(config.faces)
    train, valid = _splits(config, faces)
    if config.align == "arcface":
        check_landmarks(train)
    sampler = sampler_of(config, train)
    if sampler.people_a_batch < config.workers:
        raise ConfigError(
            f"{config.workers} workers cannot share batches of {sampler.people_a_batch} people; lower workers"
        )
    with runtime.cluster(config):
        _check_resources(config)
        _check_places(config, out, faces)
        done = manifest.begin(out, "model", config.plan(faces.manifest.digest))
        if done:
            say(f"{out} is finished already; nothing to do")
            if storage.exists(work):  # killed between the manifest and here
                _open_run(config, out).finish("FINISHED")
                storage.remove_tree(work)
            return dict(done.provenance["result"])
        with lease.held(out) as held:
            if storage.exists(work):
                say("continuing an earlier run, from its last checkpoint if it came to one")
            _describe(config, train, valid, sampler)
            tracker = _open_run(config, out)
            try:
                spec = config.model_spec(_mean_face(config, out, train, faces.root))
                last = _fit(config, spec, out, train, valid, faces, tracker, held)
                held.confirm()
                result = _finish(config, spec, out, last, tracker)
            except BaseException as error:
                tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
                raise
            tracker.finish("FINISHED")
            storage.remove_tree(work)
    return result


def _splits(config: TrainConfig, faces: Faces) -> tuple[pa.Table, pa.Table | None]:
    there = set(faces.table["split"].to_pylist())
    train = config.train_split or ("train" if "train" in there else None)
    valid = config.valid_split or ("valid" if "valid" in there else None)
    if valid is None:
        return faces.select(train), None
    if train == valid:
        raise ConfigError(f"train_split and valid_split are both {valid!r}; validation needs people of its own")
    watched = faces.select(valid)
    validation.check(watched)
    learnt = faces.select(train)
    if train is None:
        learnt = learnt.filter(pc.fill_null(pc.not_equal(learnt["split"], valid), True))
    return learnt, watched


def _check_resources(config: TrainConfig) -> None:
    nodes, each = runtime.nodes(), config.cpus_per_worker or 1
    room = runtime.room(nodes, each, int(config.gpu))
    if config.workers > room:
        there = ", ".join(f"{n} x {cpus} CPUs and {gpus} GPUs" for (cpus, gpus), n in Counter(nodes).items())
        raise ConfigError(
            f"workers is {config.workers} at {each} CPUs{' and a GPU' if config.gpu else ''} each but the cluster has "
            f"room for {room} of them, on nodes of {there}; lower workers or cpus_per_worker, or add nodes"
        )


def _check_places(config: TrainConfig, out: str, faces: Faces) -> None:
    runtime.require_shared([out, faces.uri], faces.first_picture())
    uri = config.tracking_uri or tracking.default_uri()
    if uri.startswith("sqlite") and len(runtime.nodes()) > 1:
        raise ConfigError(
            f"the cluster has several nodes and the MLflow store is a file on this one ({uri}); give "
            f"--tracking-uri the address of an MLflow server"
        )


def _describe(config: TrainConfig, train: pa.Table, valid: pa.Table | None, sampler: BatchSampler) -> None:
    people, what = len(sampler.people), "views" if config.draws_across_views else "pictures"
    say(f"learning from {people} people with two or more {what} ({train.num_rows} pictures in all)")
    if sampler.people_a_batch < config.identities:
        say(f"batches hold {sampler.people_a_batch} people, not {config.identities}: there are no more")
    if valid is None:
        say("no validation split: the model gets no operating points, and `verify` will have no threshold to go by")
    reason, kept = config.invariance_breaker, "yes" if config.precision == "float64" else "yes, up to rounding"
    say(f"the network computes in {config.precision}")
    say(f"world-size invariance: {kept if reason is None else f'no ({reason})'}")


def _open_run(config: TrainConfig, out: str) -> Tracker:
    """The MLflow run of this output folder, the same one after a restart."""
    state = storage.join(out, WORK, "mlflow.json")
    uri = config.tracking_uri or tracking.default_uri()
    before = json.loads(storage.read_bytes(state)) if storage.exists(state) else {}
    resume = before["run_id"] if before.get("uri") == uri else None
    name = config.run_name or out.rsplit("/", 1)[-1]
    options = asdict(config)
    params = {k: v for k, v in options.items() if not isinstance(v, dict)}
    params |= {f"{group}.{k}": v for group, of in options.items() if isinstance(of, dict) for k, v in of.items()}
    tracker = tracking.start(uri, config.experiment, name, params, resume=resume, verbose=config.verbose)
    storage.write_bytes(state, json.dumps({"uri": uri, "run_id": tracker.run_id}).encode())
    tracker.attach_text(json.dumps(options, indent=2), "config.json")
    return tracker


def _mean_face(config: TrainConfig, out: str, train: pa.Table, root: str) -> str:
    """What faces are aligned by, when they are: found once and kept, so that a restart aligns as before."""
    if config.align != "mean-face":
        return ""
    kept = storage.join(out, WORK, "mean-face.txt")
    if not storage.exists(kept):
        storage.write_bytes(kept, mean_face(train, root, config.seed).encode())
    return storage.read_bytes(kept).decode()


def _fit(
    config: TrainConfig,
    spec: ModelSpec,
    out: str,
    train: pa.Table,
    valid: pa.Table | None,
    faces: Faces,
    tracker: Tracker,
    held: Lease,
) -> dict[str, Any]:
    """Run the workers and keep the watcher informed; the last event holds the final figures and the checkpoint."""
    board = runtime.Board.remote()  # type: ignore[attr-defined]
    evenly = 1 if config.gpu else runtime.even_share(runtime.nodes(), config.workers)
    share = {"CPU": config.cpus_per_worker or evenly} | ({"GPU": 1} if config.gpu else {})
    trainer = TorchTrainer(
        partial(train_loop, config=config, spec=spec, train=train, valid=valid, root=faces.root, board=board),
        scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=config.gpu, resources_per_worker=share),
        run_config=RunConfig(
            name="train",
            storage_path=storage.join(out, WORK),
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            worker_runtime_env=runtime.KEEP_MEMORY,  # type: ignore[call-arg]  # known to V2, not to the old stub
        ),
    )
    stop, over = threading.Event(), threading.Event()
    last: dict[str, Any] = {}
    with console.bar("train", config.steps) as bar, runtime.stop_on_sigterm(stop):

        def watch() -> None:
            while not over.wait(0.5):
                if held.lost:
                    stop.set()
                _drain(board, stop, tracker, bar, last)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            checkpoint = trainer.fit().checkpoint
        except ray.train.TrainingFailedError as error:
            raise runtime.cause(error) from error
        finally:
            over.set()
            watcher.join()
            _drain(board, stop, tracker, bar, last)
    held.check()
    if "diverged" in last:
        raise JobFailed(last["diverged"])
    if "refused" in last:
        raise TooManyBadImages(last["refused"])
    if checkpoint is None or not last.get("final"):
        raise JobFailed(
            f"stopped at step {last.get('step', 0)} of {config.steps}; the same command continues from there"
        )
    return last | {"checkpoint": checkpoint}


def _drain(board: Any, stop: threading.Event, tracker: Tracker, bar: console.Bar, last: dict[str, Any]) -> None:
    if stop.is_set():
        ray.get(board.stop.remote())
    for event in ray.get(board.take.remote()):
        if "warning" in event and "warning" not in last:
            say(f"warning: {event['warning']}")
            tracker.tag("collapse", event["warning"])
        last |= event
        watched = {f"valid/{k}": v for k, v in event.get("validation", {}).items()}
        figures = {k: v for k, v in (event["figures"] | watched).items() if np.isfinite(v)}
        tracker.log(figures, event["step"])
        if "validation" in event:
            shown = ", ".join(f"{k} {v:.4f}" for k, v in event["validation"].items())
            say(f"step {event['step']}: {shown}")
        note = f"loss {event['figures']['loss']:.4f}" if "loss" in event["figures"] else ""
        bar.update(event["step"], note)


def _finish(config: TrainConfig, spec: ModelSpec, out: str, last: dict[str, Any], tracker: Tracker) -> dict[str, Any]:
    """From the last checkpoint to a whole Model artefact, registered with MLflow."""
    embedder = Embedder(spec)
    with last["checkpoint"].as_directory() as folder:
        state = torch.load(Path(folder) / STATE, weights_only=True, map_location="cpu")
    embedder.load_state_dict(state["model"])
    if not all_finite(embedder.state_dict().values()):
        raise JobFailed(diverged(config, f"the weights hold NaN or infinity after step {config.steps}"))
    points = [OperatingPoint(**point) for point in last.get("operating_points", [])]
    result = {
        "model": out,
        "fingerprint": bundle.fingerprint(embedder.float()),
        "steps": config.steps,
        "images_per_second": round(last["figures"].get("images_per_second", 0.0), 1),
        "validation": last.get("validation", {}),
        "mlflow_run": tracker.run_id,
    }
    # Registered before the manifest is written: a finished Model is one that MLflow knows, too.
    made = provenance.record(result=result, mlflow_uri=tracker.uri)
    with tempfile.TemporaryDirectory(prefix="likeness-") as folder:
        bundle.save(embedder, f"{folder}/model", operating_points=points, provenance=made)
        address = tracker.register(f"{folder}/model", embedder.spec, config.register, verbose=config.verbose)
    tracker.tag("fingerprint", result["fingerprint"])
    bundle.save(embedder, out, operating_points=points, provenance=made)
    say(f"registered with MLflow as {address}; look at the curves with: {tracking.how_to_open(tracker.uri)}")
    return result
