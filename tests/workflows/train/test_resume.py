"""A training that loses a worker or its driver ends with the same model as an undisturbed one."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow import MlflowClient
from support.drivers import started, until
from support.tiny import Chain, small

from metric_core.artefacts import manifest
from metric_core.errors import JobRunning
from metric_core.learn.objective import Objective
from metric_core.model import bundle
from workflows.shared import lease
from workflows.shared.tracking import Tracker
from workflows.train import job as train
from workflows.train.config import TrainConfig
from workflows.train.training import Training


def slow_enough(chain: Chain, out: str) -> TrainConfig:
    """Two workers with many checkpoints, so that they can be killed between two, and a memory of over two batches."""
    objective = Objective(loss="softall", distance="cosine", temperature=1 / 48, memory_rows=48)
    how = {"workers": 2, "steps": 40, "checkpoint_every": 5, "objective": objective}
    return small(chain.faces, out, chain.tracking_uri, **how)


def fingerprint(uri: str) -> str:
    return str(manifest.read(uri, "model").content["fingerprint"])


@pytest.fixture(scope="module")
def undisturbed(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("undisturbed") / "model")
    train.run(slow_enough(chain, out))
    return fingerprint(out)


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_driver_continues(chain: Chain, tmp_path: Path, undisturbed: str) -> None:
    out = tmp_path / "model"
    config = slow_enough(chain, str(out))
    config_file = tmp_path / "train.yaml"
    argv = [sys.executable, "-m", "workflows.cli", "train", "--config", str(config_file)]
    config_file.write_text(yaml.safe_dump(asdict(config)))
    first = subprocess.Popen(argv, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(out.glob("_run/train/checkpoint_*/state.pt")):
        assert first.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint within 4 minutes"
        time.sleep(0.05)
    # Ray's processes end with the driver that started them. Its agents end a minute later, and do nothing until then.
    family = [p for p in psutil.Process(first.pid).children(recursive=True) if not p.name().endswith("Agent")]
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not psutil.wait_procs(family, timeout=60)[1]
    assert not (out / "manifest.json").exists(), "killed too late to test anything"
    subprocess.run(argv, check=True, timeout=400, capture_output=True)
    assert fingerprint(str(out)) == undisturbed
    from mlflow import MlflowClient

    run_id = manifest.read(str(out), "model").provenance["result"]["mlflow_run"]
    steps = [m.step for m in MlflowClient(tracking_uri=chain.tracking_uri).get_metric_history(run_id, "loss")]
    assert len(steps) == len(set(steps)), "no step is logged twice"
    assert steps[-1] == 40


def _forget_last(chain: Chain, run_id: str) -> None:
    """As if the driver had been killed before it sent the figures of the last step that was reported."""
    with sqlite3.connect(chain.tracking_uri.removeprefix("sqlite:///")) as store:
        last = "SELECT max(step) FROM metrics WHERE run_uuid = ?1"
        store.execute(f"DELETE FROM metrics WHERE run_uuid = ?1 AND step = ({last})", [run_id])
    store.close()


@pytest.mark.slow
def test_a_training_that_is_stopped_twice(chain: Chain, tmp_path: Path, undisturbed: str) -> None:
    """By Ctrl-C, which goes to all processes of a terminal, then by SIGTERM; the same command finishes the same run."""
    out, file = tmp_path / "model", tmp_path / "train.yaml"
    file.write_text(yaml.safe_dump(asdict(slow_enough(chain, str(out)))))
    argv = [sys.executable, "-m", "workflows.cli", "train", "--config", str(file)]
    client, log, runs = MlflowClient(chain.tracking_uri), tmp_path / "log.txt", set()

    def kinds() -> list[str]:
        found = out / "events.json"
        return [one["kind"] for one in json.loads(found.read_text())] if found.exists() else []

    for reached, stop, code in (
        (lambda: list(out.glob("_run/train/checkpoint_*/state.pt")), lambda pid: os.killpg(pid, signal.SIGINT), 130),
        (lambda: kinds() == ["stopped", "started"], lambda pid: os.kill(pid, signal.SIGTERM), 143),
    ):
        driver = started(argv, log)
        until(lambda: reached() or driver.poll() is not None, "the training has begun")  # noqa: B023
        assert driver.poll() is None, f"ended before it was stopped, after {kinds()}:\n{log.read_text()}"
        stop(driver.pid)
        assert driver.wait(60) == code, log.read_text()
        runs.add(json.loads((out / "_run" / "mlflow.json").read_text())["run_id"])
        assert client.get_run(*runs).info.status == "KILLED"
        _forget_last(chain, *runs)
    lines = [line for line in log.read_text().splitlines() if line.startswith("likeness train: ")]
    steps = [one["step"] for one in json.loads((out / "events.json").read_text()) if one["kind"] == "stopped"]
    assert lines == [f"likeness train: stopped at step {step}; the same command continues" for step in steps]
    assert 5 <= steps[0] < steps[1] < 40
    done = subprocess.run([*argv, "--json"], check=True, timeout=400, capture_output=True, text=True)
    assert json.loads(done.stdout)["fingerprint"] == fingerprint(str(out)) == undisturbed
    assert json.loads(done.stdout)["mlflow_run"] in runs
    assert kinds() == ["stopped", "started"] * 2
    run = client.get_run(*runs)
    assert run.info.status == "FINISHED"
    assert [name for name in sorted(run.data.tags) if name.startswith("event")] == [
        f"event.00{n}" for n in (1, 2, 3, 4)
    ]
    curve = [m.step for m in client.get_metric_history(*runs, "loss")]
    assert curve == sorted({*range(3, 41, 3), *range(5, 41, 5)}), "each step once"


@pytest.mark.slow
def test_a_killed_worker_is_replaced(chain: Chain, tmp_path: Path, undisturbed: str) -> None:
    """One of two workers is killed between two checkpoints; the training continues with two workers."""
    out = tmp_path / "model"
    config = slow_enough(chain, str(out))
    killed: list[int] = []

    def kill_after_a_checkpoint() -> None:
        while not list(out.glob("_run/train/checkpoint_*/state.pt")):
            time.sleep(0.02)
        # Only among this process's children: another training may be running on the machine.
        family = psutil.Process().children(recursive=True)
        one = next(process for process in family if "RayTrainWorker" in " ".join(process.cmdline()))
        one.kill()
        killed.append(one.pid)

    import threading

    killer = threading.Thread(target=kill_after_a_checkpoint, daemon=True)
    killer.start()
    train.run(config)
    killer.join()
    assert killed, "nothing was killed"
    assert fingerprint(str(out)) == undisturbed


def test_a_finished_training_is_not_done_again(chain: Chain) -> None:
    config = small(chain.faces, chain.model, chain.tracking_uri, workers=2)
    assert train.run(config) == chain.answers["train"]
    assert bundle.load(chain.model).fingerprint == chain.answers["train"]["fingerprint"]


@pytest.mark.slow
def test_a_training_that_was_taken_over_writes_no_model(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process sleeps for so long that another run has taken the lease when it wakes up."""
    tracked = Training.open_run

    def slept(self: Training) -> Tracker:
        mine = json.loads((tmp_path / "model" / lease.NAME).read_text())
        (tmp_path / "model" / lease.NAME).write_text(json.dumps(mine | {"token": "another run's"}))
        return tracked(self)

    monkeypatch.setattr(Training, "open_run", slept)
    monkeypatch.setattr(lease, "BEAT_S", 0.5)
    with pytest.raises(JobRunning, match="another one took over"):
        train.run(small(chain.faces, str(tmp_path / "model"), chain.tracking_uri, steps=100_000))
    assert not list((tmp_path / "model").glob("*.safetensors"))
    assert not (tmp_path / "model" / "manifest.json").exists()


@pytest.mark.slow
def test_a_run_killed_after_its_manifest_is_tidied_up(chain: Chain, tmp_path: Path) -> None:
    """The manifest is written, but the checkpoints are still there and MLflow shows the run as running."""
    out = tmp_path / "model"
    config = small(chain.faces, str(out), chain.tracking_uri)
    answer = train.run(config)
    (out / "_run").mkdir()
    state = {"uri": chain.tracking_uri, "run_id": answer["mlflow_run"]}
    (out / "_run" / "mlflow.json").write_text(json.dumps(state))
    client = MlflowClient(chain.tracking_uri)
    client.update_run(answer["mlflow_run"], "RUNNING")
    assert train.run(config) == answer
    assert not (out / "_run").exists()
    assert client.get_run(answer["mlflow_run"]).info.status == "FINISHED"
