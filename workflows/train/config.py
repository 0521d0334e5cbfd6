"""The options of ``likeness train``."""

import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from metric_core.errors import ConfigError
from metric_core.image.spec import BLANK_MEAN_FACE, CROPS, SIZES, Augmentation, Preprocessing
from metric_core.learn.collapse import Collapse
from metric_core.learn.objective import Objective
from metric_core.learn.schedule import Hardening, HardeningState
from metric_core.model.spec import DIMS, ModelSpec, backbone_spec
from metric_core.options import out_of_range
from workflows.shared.options import PictureOptions


@dataclass(frozen=True, kw_only=True)
class TrainConfig(PictureOptions):
    """Learn a metric from a catalogue of faces."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input and output": ("faces", "out", "train_split", "valid_split"),
        "batches": ("steps", "identities", "images", "person_weight", "cross_view", "seed"),
        "optimiser": ("learning_rate", "warmup", "weight_decay", "harden"),
        "network": ("backbone", "norm", "embedding_size", "flip_average"),
        "pictures": ("image_size", "colour", "crop", "resize", "align", "standardise"),
        "reports and checkpoints": ("report_every", "evaluate_every", "checkpoint_every"),
        "how it runs": (
            "workers",
            "gpu",
            "cpus_per_worker",
            "loader_workers",
            "cache_mib",
            "precision",
            "max_bad_fraction",
            "max_failures",
            "collective_timeout",
        ),
        "MLflow": ("tracking_uri", "experiment", "run_name", "register"),
    }

    faces: str
    """The Faces artefact to learn from."""
    out: str
    """Folder or object-store address of the Model to write."""
    train_split: str | None = None
    """Split to learn from; default: train if there is one, else everyone outside the validation split."""
    valid_split: str | None = None
    """Split of other people, for validation and calibration; default: valid if there is one."""

    workers: int | str = 1
    """Data-parallel workers; they share one global batch. MIN:MAX, such as 2:8, is elastic: the training goes on with
    as many as the cluster has room for, and the batch stays the same. In a file, quote it: '2:8'."""
    gpu: bool = False
    """Train on GPUs, one per worker, with NCCL between them; otherwise on CPUs with gloo."""
    cpus_per_worker: int | None = None
    """CPUs, and threads, per worker; default: the most that every worker can have on the cluster's nodes, and 1 with
    --gpu. The last bits of a result depend on it."""
    loader_workers: int = 0
    """Decoding processes per worker; 0 decodes in the worker itself."""
    cache_mib: int = 1024
    """Memory per worker for decoded training pictures, in MiB, shared by its loader processes; the validation split may
    take as much again."""
    precision: Literal["auto", "float32", "float64", "bf16"] = "auto"
    """What is computed in. bf16: the network in bfloat16 and the loss in float32; auto: bf16 on GPUs and on CPUs that
    support it, where it is twice as fast, else float32."""

    steps: int = 2000
    """Steps of the optimiser."""
    identities: int = 32
    """People per global batch (P)."""
    images: int = 4
    """Pictures per person in a batch (K)."""
    person_weight: Literal["uniform", "sqrt-images", "images"] = "uniform"
    """How often a person is drawn. uniform: everyone once per epoch; images: in proportion to the person's number of
    pictures; sqrt-images: to the square root of that number."""
    cross_view: bool = False
    """Draw every person of a batch in two or more views, and leave out people with only one view; always on with the
    multi-view loss."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW, reached after the warm-up; it then falls to 0 along a cosine."""
    warmup: int = 100
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = 5e-2
    """Decoupled weight decay of AdamW, for weight matrices and kernels only."""
    seed: int = 0
    """Random seed for the initial weights, the batches and the augmentation."""
    objective: Objective = field(
        default_factory=lambda: Objective(loss="softall", distance="cosine", temperature=1 / 48)
    )
    """What training minimises: loss, distance, miner and margin. By default every pair of the batch counts, the harder
    the more: in tests/bench/study.py no loss with one triplet per anchor learns as much from few pictures."""
    harden: bool = False
    """Start with semi-hard negatives and switch to batch-hard ones once few triplets are still active."""
    hardening: Hardening = field(default_factory=Hardening)
    """When --harden switches to batch-hard negatives."""
    collapse: Collapse = field(default_factory=Collapse)
    """When to warn that all embeddings are becoming one point."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How far pictures are varied at random; 0 switches a change off."""

    backbone: Literal["plain", "iresnet18", "iresnet50", "iresnet100"] = "plain"
    """Network. plain has 0.7 million weights and suits thousands of pictures; the others have their published shapes
    and suit millions."""
    norm: Literal["group", "batch"] = "group"
    """Normalisation layers; with batch, the result depends on the number of workers."""
    embedding_size: int = 128
    """Components per embedding."""
    image_size: int = 64
    """Side of the square that the network sees, in pixels, 16 to 1024."""
    colour: Literal["grey", "rgb"] = "grey"
    """Channels that the network sees."""
    crop: float | None = None
    """Side of the central square that is kept of each picture, as a share of the picture's shorter side; default: 0.8,
    and 1 with arcface, whose template decides what is kept."""
    resize: Literal["box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """Filter for resizing pictures."""
    align: Literal["none", "mean-face", "arcface"] = "mean-face"
    """How faces are aligned. mean-face: every picture is rotated, scaled and shifted until it looks most like the mean
    of the training pictures; arcface: landmarks are brought to ArcFace's template, which needs them in the
    catalogue."""
    standardise: bool = True
    """Bring every picture to mean 0 and standard deviation 1 before the network sees it, so that brightness and
    contrast do not matter."""
    flip_average: bool = True
    """Embed a face as the mean of the picture and its mirror image."""

    report_every: int = 10
    """Steps between two points of the training curves."""
    evaluate_every: int = 250
    """Steps between two validations."""
    checkpoint_every: int = 250
    """Steps between two checkpoints."""
    max_bad_fraction: float = 0.01
    """Largest share of unreadable pictures, among those drawn, before the job stops."""
    max_failures: int = 3
    """How many times the workers are restarted from the last checkpoint after a failure."""
    collective_timeout: int = 600
    """Seconds that workers wait for one that does not arrive at their exchange; they are then restarted from the last
    checkpoint."""

    tracking_uri: str | None = None
    """Address of the MLflow store; default: MLFLOW_TRACKING_URI, else an SQLite file in ~/.likeness."""
    experiment: str = "likeness"
    """Name of the MLflow experiment."""
    run_name: str | None = None
    """Name of the MLflow run; default: the name of the output folder."""
    register: str = "likeness"
    """Name under which the model is registered in MLflow."""

    def problems(self) -> list[str]:
        count, share = "[1, inf)", "[0, 1]"
        problems = super().problems() + out_of_range(
            self,
            cpus_per_worker=count,
            loader_workers="[0, inf)",
            cache_mib="[0, inf)",
            steps=count,
            learning_rate="(0, 10)",
            warmup="[0, inf)",
            weight_decay="[0, 10)",
            report_every=count,
            evaluate_every=count,
            checkpoint_every=count,
            max_bad_fraction=share,
            max_failures="[0, inf)",
            collective_timeout=count,
        )
        try:
            most = self.most_workers
            if self.fewest_workers < most and self.invariance_breaker:
                why = self.invariance_breaker
                problems.append(f"workers is {self.workers!r}; with --norm batch their number must be fixed: {why}")
        except ValueError as error:
            most = 0
            problems.append(f"workers is {self.workers!r}; {error}")
        if self.identities < max(2, most):
            problems.append(f"identities is {self.identities}; it must be 2 or more, and at least workers, {most}")
        if self.images < 2:
            problems.append(f"images is {self.images}; it must be 2 or more: an anchor needs a positive")
        try:
            for hard in (False, True) if self.harden else ():
                self.hardening.objective(self.objective, HardeningState(hard=hard))
        except ConfigError as error:
            problems.append(f"harden does not go with this objective: {error}")
        shape = out_of_range(self, embedding_size=DIMS, image_size=SIZES, crop=CROPS)
        try:
            if not shape:
                self.model_spec(BLANK_MEAN_FACE)
        except ConfigError as error:
            shape = str(error).splitlines()
        return problems + shape

    def model_spec(self, mean_face: str) -> ModelSpec:
        """All of the model but its weights; ``mean_face`` is not looked at unless faces are aligned by it."""
        kept = 1.0 if self.align == "arcface" else 0.8
        how = Preprocessing(
            size=self.image_size,
            colour=self.colour,
            crop=kept if self.crop is None else self.crop,
            resize=self.resize,
            align=self.align,
            mean_face=mean_face if self.align == "mean-face" else "",
        )
        backbone = backbone_spec(self.backbone, norm=self.norm, dim=self.embedding_size)
        return ModelSpec(backbone, how, self.standardise, self.flip_average, self.objective.distance)

    @property
    def fewest_workers(self) -> int:
        """The number of workers below which the training waits."""
        return worker_range(self.workers)[0]

    @property
    def most_workers(self) -> int:
        """The number of workers that the training uses where there is room."""
        return worker_range(self.workers)[1]

    @property
    def draws_across_views(self) -> bool:
        """Whether batches show everybody in two views or more."""
        return self.cross_view or self.objective.loss == "multi-view"

    @property
    def invariance_breaker(self) -> str | None:
        """Why results depend on the number of workers; None when they do not."""
        return "BatchNorm statistics are each worker's own" if self.norm == "batch" else None


def worker_range(workers: int | str) -> tuple[int, int]:
    """The smallest and the largest number of workers that ``--workers`` allows.

    Raises:
        ValueError: it is neither N nor MIN:MAX; the message says what must hold.
    """
    found = re.fullmatch(r"(\d+)(?::(\d+))?", str(workers))
    if not found:
        raise ValueError("it must be a number, or MIN:MAX such as 2:8")
    fewest, most = int(found[1]), int(found[2] or found[1])
    if fewest < 1:
        raise ValueError("it must be 1 or more")
    if fewest > most:
        raise ValueError("the first number must not be larger than the second")
    return fewest, most
