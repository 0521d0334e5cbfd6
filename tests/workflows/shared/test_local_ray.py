"""The Ray that a job starts for itself: nobody else on the machine or the network gets to it, or reads its files."""

import json
import os
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from support.tiny import Chain

from workflows import cli

ROOT = Path(__file__).parents[3]
LOOPBACK = {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
LOOK = """
import json, os, stat, sys
from pathlib import Path

import grpc, psutil, ray
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from workflows.shared import cluster
from workflows.shared.options import RunOptions


def umask():
    found = os.umask(0)
    os.umask(found)
    return found


os.umask(0o027)
with cluster.connected(RunOptions()):
    worker = ray.get(ray.remote(lambda: umask()).remote())
    me = psutil.Process()
    family = [me, *me.children(recursive=True)]
    inside = Path(ray._private.worker._global_node.get_session_dir_path()).parents[1]
    with grpc.insecure_channel(ray.get_runtime_context().gcs_address) as channel:
        try:
            gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).CheckAlive(
                gcs_service_pb2.CheckAliveRequest(), timeout=20
            )
            stranger = "let in"
        except grpc.RpcError as error:
            stranger = error.code().name
    listening = {c.laddr.ip for one in family for c in one.net_connections("inet") if c.status == "LISTEN"}
    print(json.dumps({
        "names": sorted({one.name() for one in family}),
        "listening": sorted(listening),
        "folder": [str(inside), stat.S_IMODE(inside.stat().st_mode)],
        "stranger": stranger,
        "umask": worker,
    }))
"""


@pytest.mark.slow
def test_it_listens_on_loopback_has_a_token_a_private_folder_and_our_umask(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", LOOK]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {"gcs_server", "raylet"} <= set(found["names"])
    assert set(found["listening"]) <= LOOPBACK
    folder, rights = found["folder"]
    assert (rights, os.path.basename(folder)[:3]) == (0o700, "lk-")
    assert not os.path.exists(folder)
    assert found["stranger"] == "UNAUTHENTICATED"
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600
    assert found["umask"] == 0o027


def modes(folder: Path) -> tuple[set[int], set[int]]:
    """Rights of the folders and of the files."""
    paths = [folder, *folder.rglob("*")]
    of = {kind: {stat.S_IMODE(p.stat().st_mode) for p in paths if p.is_dir() == kind} for kind in (True, False)}
    return of[True], of[False]


def test_private_artefacts_are_for_their_owner_and_the_umask_is_as_it_was_afterwards(
    tmp_path: Path, people: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.umask(0o022)
    try:
        for out, more, expected in (("open", [], (0o755, 0o644)), ("mine", ["--private"], (0o700, 0o600))):
            argv = ["catalogue", "--source", str(people), "--out", str(tmp_path / out), *more]
            assert cli.main(argv) == 0, capsys.readouterr().err
            assert modes(tmp_path / out) == ({expected[0]}, {expected[1]})
            assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.slow
def test_private_embeddings_of_workers_are_for_their_owner(tmp_path: Path, chain: Chain) -> None:
    command = [sys.executable, "-m", "workflows.cli", "embed", "--faces", chain.faces, "--model", chain.model]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "mine"), "--actors", "1", "--private"],
        env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert modes(tmp_path / "mine") == ({0o700}, {0o600})


@pytest.mark.slow
def test_workers_that_train_together_listen_on_loopback(tmp_path: Path, chain: Chain) -> None:
    small = ["--steps", "12", "--identities", "6", "--images", "3", "--image-size", "32", "--embedding-size", "32"]
    command = [sys.executable, "-m", "workflows.cli", "train", "--faces", chain.faces, "--out", str(tmp_path / "model")]
    command += [*small, "--warmup", "4", "--workers", "2", "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    listening: set[str] = set()
    workers: set[int] = set()
    with open(tmp_path / "said.txt", "w") as said:
        process = subprocess.Popen(command, env=env | {"PYTHONPATH": str(ROOT)}, stdout=said, stderr=said)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                family = {one.pid: one.name() for one in psutil.Process(process.pid).children(recursive=True)}
                sockets = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN]
                listening.update(c.laddr.ip for c in sockets if c.pid in family)
                workers.update(pid for pid, name in family.items() if "RayTrainWorker" in name)
            time.sleep(0.3)
    assert process.returncode == 0, (tmp_path / "said.txt").read_text()
    assert len(workers) == 2
    assert listening <= LOOPBACK
