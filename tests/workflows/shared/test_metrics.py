"""What jobs tell Prometheus: on a cluster's metrics port, and on the dashboard that asks for it."""

import re
import subprocess
import sys
import time
import urllib.request

import pytest
import ray
from support.tiny import Chain

from workflows.shared import metrics


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


def exported(wanted: set[str], seconds: float = 60.0) -> dict[str, float]:
    """{'figure job run': value} from the metrics ports of the cluster's nodes, once all wanted ones are there."""
    line = re.compile(r'^ray_likeness_(\w+)\{.*job="(\w+)".*run="([^"]*)".*\} (\S+)$', re.MULTILINE)
    found: dict[str, float] = {}
    ports = {(node["NodeManagerAddress"], node["MetricsExportPort"]) for node in ray.nodes() if node["Alive"]}
    until = time.monotonic() + seconds
    while time.monotonic() < until and not wanted <= set(found):
        time.sleep(1)
        for host, port in ports:
            with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
            found |= {f"{name} {job} {run}": float(value) for name, job, run, value in line.findall(text)}
    return found


@pytest.mark.slow
def test_a_cluster_offers_the_figures_of_train_embed_and_index(chain: Chain) -> None:
    rows, shards = chain.answers["index"]["rows"], chain.answers["index"]["shards"]
    expected = {
        "done train model": 12,
        "total train model": 12,
        "done embed embeddings": rows,
        "total embed embeddings": rows,
        "rejected embed embeddings": 0,
        "done index index": shards,
        "total index index": shards,
    }
    metrics.publish("train", "/runs/odd", {"done": 1})
    metrics.publish("train", '/runs/"odd" \n} ö\\', {"done": 1})  # must not spoil what else the node offers
    found = exported({*expected, "done train odd", "loss train model", "images_per_second embed embeddings"})
    assert found | expected == found
    assert found["loss train model"] > 0
    assert 0 <= found["active_fraction train model"] <= 1
    assert found["images_per_second train model"] > 0
    assert found["images_per_second embed embeddings"] > 0
