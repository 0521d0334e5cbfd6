"""Evaluation on the validation split during training: each worker embeds its share, every worker gets all vectors."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from metric_core.artefacts.embeddings import Vectors
from metric_core.artefacts.faces import identity_codes
from metric_core.errors import TooFewImages
from metric_core.evaluate import all_pairs, verification
from metric_core.learn.collective import World, all_gather_ids
from metric_core.model.embedder import Embedder
from metric_core.sampling import loader
from metric_core.sampling.loader import FaceDataset
from metric_core.sampling.sharding import share

BATCH = 256
"""Pictures embedded at a time."""


def check(valid: pa.Table) -> None:
    """Check, before training starts, that the split has enough pairs.

    Raises:
        TooFewImages: it has fewer than two genuine or two impostor pairs.
    """
    size = np.bincount(identity_codes(valid))
    genuine = int((size * (size - 1) // 2).sum())
    impostor = valid.num_rows * (valid.num_rows - 1) // 2 - genuine
    if min(genuine, impostor) < 2:
        raise TooFewImages(
            f"the validation split has {len(size)} people with {valid.num_rows} pictures, which make {genuine} genuine "
            f"and {impostor} impostor pairs; at least 2 of each are needed: give another --valid-split, or make a "
            f"catalogue with more people and pictures in this split"
        )


class Validation:
    """The validation split of one training."""

    def __init__(self, valid: pa.Table, dataset: FaceDataset, world: World, device: torch.device) -> None:
        """``dataset`` holds the pictures of ``valid``."""
        self._dataset, self._world, self._device = dataset, world, device
        mine = share(valid.num_rows, world.rank, world.size)
        self._rows_n = np.arange(valid.num_rows)[mine]
        self._code_N = identity_codes(valid)
        self._face_id_N = valid["face_id"].to_numpy()

    def event(self, embedder: Embedder, *, final: bool) -> dict[str, Any]:
        """{validation: {accuracy, auc, eer, tar_at_far_1e-2, ...}} and, at the end, the operating points.

        Rates at a FAR are exact over all pairs; the others are measured on equal numbers of genuine and impostor pairs.

        Raises:
            DataError: too few pictures could be read to make two genuine and two impostor pairs.
        """
        vectors = self._embed(embedder)
        # Only two resamples, because the standard error is not reported.
        report = verification.report(all_pairs.balanced_scores(vectors, all_pairs.BALANCED_PAIRS, seed=0), resamples=2)
        figures = {name: report[name] for name in ("accuracy", "auc", "eer")}
        points = all_pairs.operating_points(vectors)
        figures |= {f"tar_at_far_{verification.far_name(point.far)}": point.tar for point in points}
        event: dict[str, Any] = {"validation": figures}
        if final:
            event["operating_points"] = [asdict(point) for point in points]
        return event

    def _embed(self, embedder: Embedder) -> Vectors:
        embedder.eval()
        rows, parts = [], []
        for batch in loader.pass_loader(self._dataset, self._rows_n, batch=BATCH, workers=0):
            if len(batch.row_B):
                rows.append(batch.row_B)
                parts.append(embedder.embed(batch.pixels_BCSS.to(self._device))[0])
        row_n = np.concatenate([np.empty(0, np.int64), *rows])
        emb_nD = np.concatenate([np.empty((0, embedder.spec.backbone.dim), np.float32), *parts])
        row_N = all_gather_ids(torch.from_numpy(row_n).to(self._device), self._world).cpu().numpy()
        emb_ND = all_gather_ids(torch.from_numpy(emb_nD).to(self._device), self._world).cpu().numpy()
        return Vectors(self._face_id_N[row_N], self._code_N[row_N].astype(str).astype(object), emb_ND)
