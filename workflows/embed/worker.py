"""The actor of an embed job: one process with the model in memory, which embeds units and commits them.

Decoding and the network overlap: a worker has two units at a time, and while one uses the network the other one is
decoded or written. Units are handed out in ``pool``.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import torch

from metric_core.artefacts import embeddings, schema
from metric_core.artefacts.layout import to_parquet
from metric_core.sampling.loader import Bad
from workflows.embed.decoding import READABLE, DecodedBatch, batches, clock, rejects_of
from workflows.embed.setup import Precision, Setup
from workflows.embed.units import STAGES, Reject, Unit, UnitRecord, UnitResult

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
CPU_PASS = 4
"""Pictures that go through the network together on a CPU: more are hardly faster, and fragment the memory."""
NO_VECTOR = ("no-vector", "the model's answer is not finite")


@dataclass(frozen=True)
class Sample:
    """Costs of embedding a few batches, and how exact their vectors are."""

    embedded: int
    rejected: int
    bytes: int
    """Size of a part with these vectors."""
    cosine: float
    """The lowest cosine between a face's vectors in the chosen precision and in float32."""
    seconds: dict[str, float]
    """Seconds spent on each of ``STAGES``."""


class EmbedWorker:
    """One process with the model in memory."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._embedder = setup.embedder.to(setup.device).eval()
        self._network = threading.Lock()

    def ready(self) -> None:
        """Returns once the process is running, the model loaded and the network warm."""
        how = self._setup.embedder.spec.preprocessing
        self._forward(np.zeros((1, how.channels, how.size, how.size), np.uint8), self._setup.precision)

    def work(self, unit: Unit, decoded: list[DecodedBatch] | None) -> UnitRecord:
        """Embed and commit a unit, unless it is done already. ``decoded``: its batches; None: they are decoded here.

        Raises:
            StorageFull: the disk or a quota is full; no partial file is left.
        """
        store = self._setup.store
        record = store.finished(unit)
        if record:
            return record
        return store.commit(unit, self._compute(batches(self._setup, unit) if decoded is None else decoded))

    def sample(self, units: list[Unit], count: int) -> Sample:
        """Embed the first batch of each of the first ``count`` units that have readable faces to embed, time it and
        compare the vectors with those in float32. Nothing is written."""
        precision = self._setup.precision
        first = (batch for unit in units for batch in islice(batches(self._setup, unit), 1))
        taken = list(islice((batch for batch in first if len(batch.pixels_BCSS)), count))
        result = self._compute(taken)
        with clock(result.seconds, "write"):
            size = len(to_parquet(result.vectors))
        cosine = 1.0
        if precision != "float32":
            for batch in taken:
                one, other = (self._forward(batch.pixels_BCSS, p)[0] for p in ("float32", precision))
                cosine = min(cosine, float(np.nan_to_num(np.einsum("bd,bd->b", one, other), nan=-1).min()))
        return Sample(result.vectors.num_rows, len(result.rejects), size, cosine, result.seconds)

    def _compute(self, decoded: Iterable[DecodedBatch]) -> UnitResult:
        dim = self._setup.embedder.spec.backbone.dim
        rejects: list[Reject] = []
        seconds = dict.fromkeys(STAGES, 0.0)
        tags = [schema.TAGS.empty_table()]
        faces = self._setup.faces
        kept = [faces.schema.empty_table().select(READABLE)]
        vectors = [np.empty((0, dim), np.float32)]
        norms = [np.empty(0, np.float32)]
        for batch in decoded:
            seconds = {stage: seconds[stage] + batch.seconds[stage] for stage in STAGES}
            rejects += batch.rejects
            tags.append(batch.tags)
            if not batch.table.num_rows:
                continue
            with self._network, clock(seconds, "forward"):
                vector_BD, norm_B = self._forward(batch.pixels_BCSS, self._setup.precision)
            # A network can return NaN, and NaN never enters an artefact.
            finite_B = np.isfinite(vector_BD).all(axis=1) & vector_BD.any(axis=1)
            rejects += rejects_of(batch.table, [Bad(int(n), *NO_VECTOR) for n in np.flatnonzero(~finite_B)])
            kept.append(batch.table.filter(finite_B))
            vectors.append(vector_BD[finite_B])
            norms.append(norm_B[finite_B])
        table = pa.concat_tables(kept)
        part = embeddings.to_table(
            table["face_id"].to_numpy(),
            table["identity"].to_pylist(),
            table["view"].to_pylist(),
            np.concatenate(vectors).astype(self._setup.dtype),
            np.concatenate(norms),
            unlabelled=faces.unlabelled,
        )
        return UnitResult(pa.concat_tables(tags).sort_by("face_id"), part, rejects, seconds)

    def _forward(self, pixels_BCSS: np.ndarray, precision: Precision) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors, float32 (B, D), and their lengths before normalisation, float32 (B,)."""
        kind, reduced = self._setup.device, precision != "float32"
        with torch.autocast(kind, AUTOCAST.get(precision), enabled=reduced):
            x_BCSS = torch.from_numpy(pixels_BCSS).to(kind)
            passes = x_BCSS.split(CPU_PASS) if kind == "cpu" else [x_BCSS]
            vectors, norms = zip(*(self._embedder.embed(x) for x in passes))
        return np.concatenate(vectors), np.concatenate(norms)
