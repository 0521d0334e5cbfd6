"""A training that diverges ends with a message, and leaves neither a Model nor a checkpoint with NaN."""

import re
from pathlib import Path

import pytest
import torch
from support.tiny import Chain, small

from metric_core.errors import JobFailed
from workflows.train import job as train


@pytest.mark.slow
def test_a_diverged_training_ends_at_once(chain: Chain, tmp_path: Path) -> None:
    """Weight decay multiplies the weights by -80 per step, until they overflow float32."""
    config = small(
        chain.faces,
        str(tmp_path / "model"),
        chain.tracking_uri,
        workers=2,
        precision="float32",
        steps=200,
        learning_rate=9.0,
        weight_decay=9.0,
        warmup=0,
        evaluate_every=1000,
        checkpoint_every=3,
        report_every=1000,
    )
    with pytest.raises(JobFailed, match=r"training has diverged: .* hold NaN or infinity.*; lower the") as error:
        train.run(config)
    step = int(re.findall(r"step (\d+)", str(error.value))[0])
    assert step < 40
    assert not (tmp_path / "model" / "manifest.json").exists()
    saved = list((tmp_path / "model").glob("_run/train/checkpoint_*/state.pt"))
    assert saved
    for path in saved:
        weights = torch.load(path, weights_only=True)["model"].values()
        assert all(weight.isfinite().all() for weight in weights)
