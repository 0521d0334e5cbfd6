"""What MLflow calls to serve a registered model: pixels in, unit vectors out, no pickle on the way.

Registered models have this module's name in them.
"""

import numpy as np
import torch

from metric_core.model import bundle


class _Predictor:
    def __init__(self, path: str) -> None:
        self._embedder = bundle.load(path).embedder

    def predict(self, model_input: np.ndarray) -> np.ndarray:
        """uint8 (B, C, S, S), preprocessed as the model's manifest says, to unit vectors, float32 (B, D)."""
        return self._embedder.embed(torch.from_numpy(np.ascontiguousarray(model_input)))[0]


def _load_pyfunc(path: str) -> _Predictor:
    return _Predictor(path)
