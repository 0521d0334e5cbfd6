"""One training: its faces, its batches, its output folder, and the plan that determines its result.

Running it on workers is in ``fit``; what each worker does is in ``loop``.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.artefacts.faces import Faces, require_named
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import ConfigError
from metric_core.model.spec import ModelSpec
from metric_core.sampling.loader import check_landmarks, mean_face
from metric_core.sampling.sampler import BatchSampler
from workflows.shared import cluster, preflight, tracking
from workflows.shared.console import say
from workflows.shared.outbox import Outbox
from workflows.shared.tracking import Tracker
from workflows.train import validation
from workflows.train.config import TrainConfig
from workflows.train.loop import sampler_of

WORK = "_run"
"""Subfolder of the output folder for checkpoints and state; removed when the Model is complete."""
NOT_IN_PLAN = {"address", "verbose", "faces", "out", "cpus_per_worker", "loader_workers", "cache_mib", "max_failures"}
NOT_IN_PLAN |= {"max_bad_fraction", "report_every", "tracking_uri", "experiment", "run_name", "register", "collapse"}
NOT_IN_PLAN |= {"collective_timeout"}
"""Options that cannot change the Model."""


@dataclass(frozen=True)
class Training:
    """One training, checked as far as that is possible without a cluster."""

    config: TrainConfig
    """The options, with precision auto resolved, and without the password of the MLflow store: workers need none."""
    store: str = field(repr=False)
    """Address of the MLflow store."""
    out: str
    """Absolute address of the output folder."""
    faces: Faces
    train: pa.Table
    """The rows to learn from."""
    valid: pa.Table | None
    """The rows to validate on; None without a validation split."""
    sampler: BatchSampler

    @classmethod
    def prepare(cls, asked: TrainConfig) -> "Training":
        """Open the Faces, and check that they are sufficient.

        Raises:
            Missing, Unfinished: there is no finished Faces artefact.
            ConfigError, DataError: the options, the splits and the faces do not fit together.
        """
        store = asked.tracking_uri or tracking.default_uri()
        config = with_precision(replace(asked, tracking_uri=asked.tracking_uri and storage.without_secrets(store)))
        faces = Faces.open(config.faces)
        train, valid = splits(config, faces)
        if config.align == "arcface":
            check_landmarks(train)
        sampler = sampler_of(config, train)
        if sampler.people_per_batch < config.most_workers:
            raise ConfigError(
                f"workers is {config.workers} but a batch has only {sampler.people_per_batch} people; lower workers"
            )
        return cls(config, store, storage.absolute(config.out), faces, train, valid, sampler)

    @property
    def work(self) -> str:
        """The folder of checkpoints and state, see ``WORK``."""
        return storage.join(self.out, WORK)

    @property
    def plan(self) -> dict[str, Any]:
        """What determines the result; an interrupted run can be continued only with the same plan."""
        left_out = NOT_IN_PLAN
        if self.config.invariance_breaker is None:
            left_out = left_out | {"workers"}  # a run may continue with another number of workers
        asked = asdict(self.config) | {"workers": self.config.most_workers}  # fixed, wherever the plan has it
        options = {name: value for name, value in asked.items() if name not in left_out}
        return options | {"faces_digest": self.faces.manifest.origin}

    def begin(self) -> Manifest | None:
        """Claim the output folder; returns the manifest if the Model is finished already, otherwise None.

        Raises Occupied when the folder holds something else.
        """
        return manifest.begin(self.out, "model", self.plan)

    def forget_erased(self) -> None:
        """Start an interrupted training over if faces were erased since it began: its checkpoints hold vectors of them,
        and its network has learnt from them."""
        stored = storage.join(self.work, "generation.txt")
        found = storage.read_bytes(stored).decode(errors="replace") if storage.exists(stored) else ""
        here = self.faces.manifest.digest if self.faces.manifest.predecessors else ""
        if found == here:
            return
        if storage.exists(self.work):
            say("faces were erased since this training began, so it starts again without them")
            storage.remove_tree(self.work)
        storage.write_bytes(stored, here.encode())

    def check_cluster(self) -> None:
        """Writes nothing that stays.

        Raises:
            ConfigError: the connected cluster has no room for the workers, not all of its nodes can read the faces and
                write to the output folder, or the MLflow store is not ready.
            NotWritable, StorageFull: this process cannot write to the output folder.
        """
        config, nodes = self.config, cluster.nodes()
        each = config.cpus_per_worker or 1
        room = cluster.workers_that_fit(nodes, each, int(config.gpu))
        found = ", ".join(f"{n} x {cpus} CPUs and {gpus} GPUs" for (cpus, gpus), n in Counter(nodes).items())
        preflight.require_room(
            config.fewest_workers <= room,
            f"workers is {config.workers} at {each} CPUs{' and a GPU' if config.gpu else ''} each but the cluster "
            f"has room for {room} of them, on nodes of {found}; lower workers or cpus_per_worker, or add nodes",
        )
        if self.store.startswith("sqlite") and len(nodes) > 1:
            raise ConfigError(
                f"the cluster has several nodes but the MLflow store is a file on this node ({self.store}); "
                f"give --tracking-uri the address of an MLflow server"
            )
        tracking.require_ready(self.store, config.experiment, config.register)
        preflight.require_nodes(self.out, [self.faces.uri], self.faces.first_picture())

    def describe(self) -> None:
        """Print what the training learns from, and how."""
        config, sampler = self.config, self.sampler
        if storage.exists(self.work):
            say("continuing an earlier run, from its last checkpoint if there is one")
        people, what = len(sampler.people), "views" if config.draws_across_views else "pictures"
        say(f"training on {people} people with two or more {what} ({self.train.num_rows} pictures in all)")
        if sampler.people_per_batch < config.identities:
            say(f"batches have only {sampler.people_per_batch} people, not {config.identities}: there are no more")
        if self.valid is None:
            say("no validation split: the model gets no operating points, and `verify` will have no threshold to use")
        reason, kept = config.invariance_breaker, "yes" if config.precision == "float64" else "yes, up to rounding"
        say(f"the network computes in {config.precision}")
        say(f"world-size invariance: {kept if reason is None else f'no ({reason})'}")

    def open_run(self) -> Tracker:
        """Open the MLflow run of this output folder; after a restart it is the same run."""
        config, state = self.config, storage.join(self.work, "mlflow.json")
        before = self._stored_run(state)
        options = asdict(config)
        params = {k: v for k, v in options.items() if not isinstance(v, dict)}
        groups = {name: fields for name, fields in options.items() if isinstance(fields, dict)}
        params |= {f"{name}.{k}": v for name, fields in groups.items() for k, v in fields.items()}
        if before and storage.without_secrets(before["uri"]) == storage.without_secrets(self.store):
            tracker = tracking.resume(self.store, before["run_id"], verbose=config.verbose)
        else:
            name = config.run_name or self.out.rsplit("/", 1)[-1]
            tracker = tracking.start(self.store, config.experiment, name, params, verbose=config.verbose)
        tracker.keep_in(Outbox(storage.join(self.work, "mlflow-unsent.json")))
        found = {"uri": tracker.uri, "run_id": tracker.run_id}
        storage.write_bytes(state, json.dumps(found | {"digest": self._digest(found)}).encode())
        tracker.attach_text(json.dumps(options, indent=2), "config.json")
        return tracker

    def model_spec(self) -> ModelSpec:
        """Everything about the model except its weights. The mean face, if pictures are aligned by it, is learnt once
        and stored with its digest, so that a restart aligns in the same way; a damaged one is learnt again."""
        if self.config.align != "mean-face":
            return self.config.model_spec("")
        stored = storage.join(self.work, "mean-face.txt")
        found = storage.read_bytes(stored).decode(errors="replace") if storage.exists(stored) else ""
        text, _, digest = found.rstrip("\n").partition("\n")
        if digest != self._digest(text):
            text = mean_face(self.train, self.faces.root, self.config.seed, self.config.limits)
            storage.write_bytes(stored, f"{text}\n{self._digest(text)}\n".encode())
        return self.config.model_spec(text)

    def _stored_run(self, address: str) -> dict[str, str] | None:
        """{uri, run_id} of the MLflow run that an earlier run opened; None if there is none, or if it was damaged."""
        if not storage.exists(address):
            return None
        try:
            stored = json.loads(storage.read_bytes(address))
            found = {name: str(stored[name]) for name in ("uri", "run_id")}
            if stored.get("digest", self._digest(found)) == self._digest(found):  # at first, none was written
                return found
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
        say(f"{address} was damaged, so the curves go on in a new MLflow run")
        return None

    def _digest(self, value: Any) -> str:
        """Of something that is stored for this training: another training's has another."""
        return manifest.digest([value, manifest.digest(self.plan)])


def with_precision(config: TrainConfig) -> TrainConfig:
    """The options with ``precision`` auto resolved for this machine, so that workers and restarts use the same one."""
    if config.precision != "auto":
        return config
    capabilities = torch.cpu.get_capabilities()
    native = config.gpu or capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return replace(config, precision="bf16" if native else "float32")


def splits(config: TrainConfig, faces: Faces) -> tuple[pa.Table, pa.Table | None]:
    """The rows to train on, and those to validate on (None without a validation split).

    Raises:
        ConfigError: both splits are the same one.
        DataError: there is no such split, faces in one have no name, or the validation split has too few pairs.
    """
    names = set(faces.table["split"].to_pylist())
    train = config.train_split or ("train" if "train" in names else None)
    valid = config.valid_split or ("valid" if "valid" in names else None)
    if valid is None:
        return _named(faces.select(train), faces), None
    if train == valid:
        raise ConfigError(f"train_split and valid_split are both {valid!r}; validation needs a split of its own")
    valid_rows = _named(faces.select(valid), faces)
    validation.check(valid_rows)
    train_rows = faces.select(train)
    if train is None:
        train_rows = train_rows.filter(pc.fill_null(pc.not_equal(train_rows["split"], valid), True))
    return _named(train_rows, faces), valid_rows


def _named(table: pa.Table, faces: Faces) -> pa.Table:
    require_named([table], faces.uri, "training")
    return table
