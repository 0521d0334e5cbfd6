"""What jobs tell Prometheus: on a cluster's metrics port, and on the dashboard that asks for it."""

import re
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
from support.tiny import Chain, small

from workflows.embed import job as embed
from workflows.embed.config import EmbedConfig
from workflows.index import job as index
from workflows.index.config import IndexConfig
from workflows.shared import metrics
from workflows.train import job as train


class Recorded:
    """A gauge that keeps what it was set to."""

    def __init__(self) -> None:
        self.values: list[tuple[float, dict[str, str]]] = []

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values.append((value, tags))


def test_figures_without_a_gauge_and_without_a_value_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gauges: dict[str, Recorded] = {}
    monkeypatch.setattr(metrics, "_gauge", lambda name: gauges.setdefault(name, Recorded()))
    figures = {"loss": 0.5, "done": 3, "gradient_norm": 1.0, "active_fraction": float("nan"), "rejected": float("inf")}
    metrics.publish("train", "s3://key@bucket/runs/model/", figures)
    tags = {"job": "train", "run": "model"}
    assert {name: gauge.values for name, gauge in gauges.items()} == {"loss": [(0.5, tags)], "done": [(3.0, tags)]}


def test_ray_gets_names_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    gauge = Recorded()
    monkeypatch.setattr(metrics, "_gauge", lambda name: gauge)
    metrics.publish("embed", "/runs/größe", {"done": 1})
    assert gauge.values == [(1.0, {"job": "embed", "run": "gr\\xf6\\xdfe"})]


def test_figures_cost_microseconds(ray_session: None) -> None:
    begun = time.process_time()
    for step in range(1000):
        metrics.publish("train", "/runs/timed", {"loss": 0.5, "done": step, "total": 1000})
    assert (time.process_time() - begun) / 1000 < 1e-3, "seconds per report"


def test_without_a_ray_nothing_happens() -> None:
    line = "from workflows.shared import metrics; metrics.publish('index', 'runs/index', {'done': 1, 'total': 2})"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def exported(expected: dict[str, float], wanted: set[str], seconds: float = 120.0) -> dict[str, float]:
    """{'figure job run': value} from the metrics ports of the cluster's nodes, the latest of each, once the expected
    values and all wanted figures were there."""
    line = re.compile(r'^ray_likeness_(\w+)\{.*job="(\w+)".*run="([^"]*)".*\} (\S+)$', re.MULTILINE)
    found: dict[str, float] = {}
    ports = {(node["NodeManagerAddress"], node["MetricsExportPort"]) for node in ray.nodes() if node["Alive"]}
    until = time.monotonic() + seconds
    while time.monotonic() < until and not (wanted <= set(found) and found | expected == found):
        time.sleep(1)
        for host, port in ports:
            with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            found |= {f"{name} {job} {run}": float(value) for name, job, run, value in line.findall(text)}
    return found


@pytest.mark.slow
def test_a_cluster_offers_the_figures_of_train_embed_and_index(chain: Chain, tmp_path: Path) -> None:
    rows = chain.answers["index"]["rows"]
    expected = {
        "done train told": 12,
        "total train told": 12,
        "done embed vectors": rows,
        "total embed vectors": rows,
        "rejected embed vectors": 0,
        "done index built": 2,
        "total index built": 2,
    }
    metrics.publish("train", "/runs/odd", {"done": 1})
    metrics.publish("train", '/runs/"odd" \n} ö\\', {"done": 1})  # must not spoil what else the node offers
    wanted = {"done train odd", "loss train told", "images_per_second embed vectors"}
    with ThreadPoolExecutor(1) as looking:  # while the jobs run: Ray forgets figures that are not set again
        looked = looking.submit(exported, expected, wanted)
        train.run(small(chain.faces, str(tmp_path / "told"), chain.tracking_uri, workers=1))
        embed.run(EmbedConfig(faces=chain.faces, model=chain.model, out=str(tmp_path / "vectors"), unit_size=40))
        index.run(IndexConfig(embeddings=chain.embeddings, out=str(tmp_path / "built"), shards=2))
        found = looked.result()
    assert found | expected == found
    assert found["loss train told"] > 0
    assert 0 <= found["active_fraction train told"] <= 1
    assert found["images_per_second train told"] > 0
    assert found["images_per_second embed vectors"] > 0
