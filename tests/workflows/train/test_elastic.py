"""A training that loses a worker and a node and gets another one has the loss curve of an undisturbed one."""

import json
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from support import victims
from support.drivers import kill_all, started, until
from support.tiny import Chain, small

from workflows.train import job as train

STEPS = 100


def curve(tracking_uri: str, run_id: str) -> np.ndarray:
    """The loss of every step."""
    history = MlflowClient(tracking_uri).get_metric_history(run_id, "loss")
    assert [m.step for m in history] == list(range(1, STEPS + 1)), "each step once"
    return np.array([m.value for m in history])


@pytest.mark.long
@pytest.mark.slow
def test_two_one_two_workers(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = {"steps": STEPS, "precision": "float64", "identities": 7, "image_size": 16, "embedding_size": 16}
    how |= {"report_every": 1, "evaluate_every": STEPS, "checkpoint_every": 10, "learning_rate": 3e-4}
    alone = train.run(small(chain.faces, str(tmp_path / "alone"), chain.tracking_uri, **how))
    out, draw = tmp_path / "model", random.Random(0)
    elastic = small(chain.faces, str(out), chain.tracking_uri, **how, workers="1:2")
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(asdict(elastic) | {"cpus_per_worker": victims.CPUS}))

    def told() -> list[str]:
        found = out / "events.json"
        return [one["text"] for one in json.loads(found.read_text())] if found.exists() else []

    def tell(driver: subprocess.Popen[bytes], number: int, text: str) -> None:
        """Wait for an event."""
        until(lambda: len(told()) > number or driver.poll() is not None, text)
        assert text in told()[number], (tmp_path / "log.txt").read_text()

    def saved() -> bool:
        """Whether Ray Train knows of a checkpoint; its files are there before."""
        known = out / "_run" / "train" / "checkpoint_manager_snapshot.json"
        try:
            return bool(json.loads(known.read_text())["checkpoint_results"])
        except (FileNotFoundError, json.JSONDecodeError):  # Ray writes it in place
            return False

    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    with victims.nodes() as nodes:
        argv = [sys.executable, "-m", "tests.support.elastic", "train", "--config", str(tmp_path / "train.yaml")]
        driver = started([*argv, "--address", nodes.address], tmp_path / "log.txt")
        try:
            until(saved, "a checkpoint that Ray Train goes on from")
            assert nodes.lose_worker(draw, "ray::RayTrainWorker")
            tell(driver, 0, "of 2 (the process ended); going on from step ")
            step = int(told()[0].rpartition(" ")[2])
            assert step in (10, 20), told()
            tell(driver, 1, f"2 workers: going on from step {step}")
            nodes.remove(draw)
            tell(driver, 2, "of 2 (with node ")
            tell(driver, 3, "1 worker, after 2: going on from step ")
            nodes.add()
            tell(driver, 4, "the number of workers changes; going on from step ")
            tell(driver, 5, "2 workers, after 1: going on from step ")
            assert driver.wait(300) == 0, (tmp_path / "log.txt").read_text()
        finally:
            kill_all(driver)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line for line in lines if "going on from" in line] == told()
    run_id = json.loads((out / "manifest.json").read_text())["provenance"]["result"]["mlflow_run"]
    undisturbed = curve(chain.tracking_uri, alone["mlflow_run"])
    gap = np.abs(curve(chain.tracking_uri, run_id) - undisturbed) / np.abs(undisturbed)
    assert gap.max() <= 1e-9, f"step {gap.argmax() + 1}"
