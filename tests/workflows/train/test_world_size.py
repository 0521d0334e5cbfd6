"""Training on 1, 2 and 3 workers gives the same loss curve, because the global batches are the same."""

from pathlib import Path

import numpy as np
import pytest
from support.tiny import Chain, small

from workflows.train import job as train


def curve(chain: Chain, out: Path, workers: int, steps: int, precision: str) -> np.ndarray:
    """The loss of every step."""
    from mlflow import MlflowClient

    config = small(
        chain.faces,
        str(out),
        chain.tracking_uri,
        workers=workers,
        steps=steps,
        precision=precision,
        report_every=1,
        evaluate_every=steps,
        checkpoint_every=steps,
        identities=7,  # so that 2 and 3 workers have shares of different sizes
        learning_rate=3e-4,
        image_size=16,
        embedding_size=16,
    )
    run_id = train.run(config)["mlflow_run"]
    history = MlflowClient(tracking_uri=chain.tracking_uri).get_metric_history(run_id, "loss")
    assert [m.step for m in history] == list(range(1, steps + 1))
    return np.array([m.value for m in history])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "steps", "tolerance"), [("float64", 100, 1e-9), ("float32", 10, 1e-3)])
def test_curves_agree(chain: Chain, tmp_path: Path, precision: str, steps: int, tolerance: float) -> None:
    alone = curve(chain, tmp_path / "1", 1, steps, precision)
    assert alone[-1] < alone[0], "it learns"
    assert len(np.unique(alone)) == steps
    for workers in (2, 3):
        together = curve(chain, tmp_path / str(workers), workers, steps, precision)
        gap = np.abs(together - alone) / np.abs(alone)
        assert gap.max() <= tolerance, f"{workers} workers, step {gap.argmax() + 1}"
