"""The whole chain submitted to a cluster that loses processes and a node while it works: a head and two nodes that let
nobody in without a token and know no ``likeness``, a store and an MLflow server that only they have the keys of. The
artefacts are those of one process that nothing disturbs, and everything that was lost is told."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from support import answering, drivers, flaky, heads
from support.drivers import PATIENCE, ROOT
from support.flaky import Flaky
from support.heads import Head

from metric_core.artefacts import manifest
from workflows.demo import drawn
from workflows.shared.console import say

pytest.importorskip("s3fs", reason="the extra s3 is not installed")
TOKEN = "0123456789abcdef" * 4
BUCKET = "likeness"
PEOPLE, PICTURES, STEPS = 40, 6, 120
QUICK = json.dumps({"health_check_period_ms": 500, "health_check_failure_threshold": 3})
"""A lost node is noticed after two seconds instead of fifteen."""
ONE_PROCESS = """
import json, logging, os, sys, ray
from workflows import cli
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
sys.exit(any([cli.main(job) for job in json.loads(sys.argv[1])]))
"""
"""Runs jobs one after the other on one Ray, which takes seconds to start."""


def jobs(name: str) -> dict[str, list[str]]:
    """The command line of each job of the chain, whose artefacts have this name in the store."""
    faces, out = f"s3://{BUCKET}/faces", f"s3://{BUCKET}/{name}"
    model, embeddings = f"{out}/model", f"{out}/embeddings"
    train = ["train", "--faces", faces, "--out", model, "--workers", "2", "--cpus-per-worker", "1"]
    train += ["--steps", str(STEPS), "--checkpoint-every", "10", "--report-every", "1", "--identities", "6"]
    train += ["--images", "3", "--image-size", "32", "--embedding-size", "32", "--evaluate-every", str(STEPS)]
    embed = ["embed", "--faces", faces, "--model", model, "--out", embeddings, "--actors", "2", "--unit-size", "10"]
    index = ["index", "--embeddings", embeddings, "--out", f"{out}/index", "--shards", "2"]
    return {"train": train, "embed": embed, "index": index}


class Shop:
    """The store, the MLflow server and the cluster, and who submits to it: with the token, and nothing else."""

    def __init__(self, folder: Path, store: Flaky, mlflow: str, stack: ExitStack) -> None:
        self._folder, self._client, self._stack = folder, store.client(), stack
        self.mlflow = MlflowClient(f"http://{mlflow}")
        home = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
        assert shutil.which("likeness", path=home["PATH"]) is None
        self._nodes = home | store.environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        self._nodes |= {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_TRACKING_URI": f"http://{mlflow}"}
        quick = f"--system-config={QUICK}"
        self._head: Head = stack.enter_context(heads.head(self._nodes, 0, folder, quick))
        self.nodes: list[int] = []
        self._user = {name: value for name, value in os.environ.items() if name.split("_")[0] not in ("RAY", "AWS")}
        self._user |= {"HOME": str(folder), "PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": TOKEN}
        self._user.pop("MLFLOW_TRACKING_URI", None)

    def join(self) -> None:
        """Let a node join."""
        self.nodes.append(self._stack.enter_context(heads.node(self._nodes, 1, self._head, self._folder)))

    def submit(self, job: str, command: list[str]) -> tuple["subprocess.Popen[bytes]", Path]:
        """Submit a job, or continue it, and watch it; what it says is added to the file."""
        log = self._folder / f"{job}.txt"
        argv = [sys.executable, "-m", "workflows.cli", "submit", "--address", self._head.url, "--name", job]
        with open(log, "ab") as output:
            watching = subprocess.Popen([*argv, "--", *command], env=self._user, stdout=output, stderr=output)
        self._stack.callback(watching.kill)
        return watching, log

    def kill(self, title: str, below: list[int] | None = None) -> bool:
        """Kill a process with this in its command line, of a node or else of any; False if there is none."""
        tops = psutil.Process().children() if below is None else [psutil.Process(pid) for pid in below]
        for one in (process for top in tops for process in top.children(recursive=True)):
            try:
                if title in " ".join(one.cmdline()):
                    one.kill()
                    return True
            except psutil.NoSuchProcess:
                continue
        return False

    def has(self, prefix: str) -> bool:
        """Whether the store has objects whose keys begin so."""
        return bool(self._client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents"))

    def read(self, key: str) -> Any:
        """An object of the store, as JSON; None if there is none."""
        return json.loads(self._bytes(key)) if self.has(key) else None

    def digests(self, name: str) -> dict[str, str]:
        """Of what the chain leaves."""
        version = self._bytes(f"{name}/index/CURRENT").decode().strip()
        places = {"model": "model", "embeddings": "embeddings", "index": f"index/versions/{version}"}
        return {kind: self.read(f"{name}/{place}/{manifest.NAME}")["digest"] for kind, place in places.items()}

    def _bytes(self, key: str) -> bytes:
        return bytes(self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    for name, value in flaky.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:
        store = stack.enter_context(flaky.server(seed=6))
        client = store.client()
        client.create_bucket(Bucket=BUCKET)
        drawn.write_people(tmp_path / "people", range(PEOPLE), pictures=PICTURES, seed=3, size=32)
        for path in sorted((tmp_path / "people").rglob("*.jpg")):
            key = str(path.relative_to(tmp_path))
            client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        calm = undisturbed(tmp_path, store)
        stack.callback(lambda: calm.poll() is None and heads.kill_family(calm.pid))
        shop = Shop(tmp_path, store, stack.enter_context(answering.mlflow(tmp_path)), stack)
        for _ in range(2):
            shop.join()
        assert calm.wait(PATIENCE) == 0, (tmp_path / "calm.txt").read_text()[-3000:]
        yield shop


def undisturbed(folder: Path, store: Flaky) -> "subprocess.Popen[bytes]":
    """The faces, and the chain in one process here."""
    faces = ["catalogue", "--source", f"s3://{BUCKET}/people", "--out", f"s3://{BUCKET}/faces"]
    argv = [sys.executable, "-c", ONE_PROCESS, json.dumps([faces, *jobs("calm").values()])]
    env = os.environ | store.environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/calm.db"}
    with open(folder / "calm.txt", "wb") as output:
        return subprocess.Popen(argv, env=env | {"RAY_AUTH_MODE": "disabled"}, cwd=ROOT, stdout=output, stderr=output)


@pytest.mark.long
@pytest.mark.slow
def test_whatever_is_lost_the_chain_is_the_same(shop: Shop) -> None:
    commands, began = jobs("run"), time.monotonic()
    watching, log = shop.submit("train", commands["train"])

    def told() -> list[str]:
        return [one["text"] for one in shop.read("run/model/events.json") or []]

    def until(condition: Callable[[], object], what: str) -> None:
        drivers.until(lambda: condition() or watching.poll() is not None, what)
        assert watching.poll() is None, log.read_text()[-3000:]
        say(f"{time.monotonic() - began:5.1f} s: {what}")

    snapshot = "run/model/_run/train/checkpoint_manager_snapshot.json"
    until(lambda: (shop.read(snapshot) or {}).get("checkpoint_results"), "a checkpoint that Ray Train goes on from")
    assert shop.kill("ray::RayTrainWorker", shop.nodes)
    until(lambda: "2 workers: going on" in "".join(told()[1:2]), "a worker was lost, and replaced")
    heads.kill_family(shop.nodes.pop(0))
    shop.join()
    until(lambda: "2 workers: going on" in "".join(told()[3:]), "a node was lost, and replaced")
    assert shop.kill("workflows.submit.remote train")
    assert watching.wait(PATIENCE) == 128 + signal.SIGKILL, log.read_text()[-3000:]
    say(f"{time.monotonic() - began:5.1f} s: the driver was lost")
    watching, log = shop.submit("train", commands["train"])
    assert watching.wait(PATIENCE) == 0, log.read_text()[-3000:]
    say(f"{time.monotonic() - began:5.1f} s: trained")

    watching, log = shop.submit("embed", commands["embed"])
    until(lambda: shop.has("run/embeddings/done/"), "some faces are embedded")
    assert shop.kill("ray::EmbedWorker", shop.nodes)
    assert watching.wait(PATIENCE) == 0, log.read_text()[-3000:]
    assert re.search(r"^lost an actor; another one takes its place; units to do again: [12]$", log.read_text(), re.M)
    say(f"{time.monotonic() - began:5.1f} s: embedded, by one actor more")
    watching, log = shop.submit("index", commands["index"])
    assert watching.wait(PATIENCE) == 0, log.read_text()[-3000:]
    say(f"{time.monotonic() - began:5.1f} s: indexed")

    assert shop.digests("run") == shop.digests("calm")
    events = told()
    say("\n".join(events))
    experiment = shop.mlflow.get_experiment_by_name("likeness")
    assert experiment
    (run,) = shop.mlflow.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert [text for name, text in sorted(run.data.tags.items()) if name.startswith("event.")] == events
    steps = [m.step for m in shop.mlflow.get_metric_history(run.info.run_id, "loss")]
    assert steps == [*range(1, STEPS + 1)], "each step once"
    shown = (log.parent / "train.txt").read_text().splitlines()
    assert [line for line in shown if "going on from step" in line] == events
