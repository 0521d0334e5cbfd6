"""Jobs on a running Ray cluster, by its address, and on nodes that share no files. Submitted ones are in ``submit``."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import answering, heads, victims
from support.heads import Head
from support.tiny import Chain

from metric_core.artefacts import manifest

BIN = Path(sys.executable).parent


@pytest.fixture
def head() -> Iterator[tuple[Head, dict[str, str]]]:
    """A new head node, and the environment to reach it with."""
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    with heads.head(environment, cpus=3) as found:
        ready = retried([str(BIN / "ray"), "status", f"--address={found.address}"], environment)
        assert ready.returncode == 0, ready.stderr
        yield found, environment


def retried(argv: list[str], environment: dict[str, str], seconds: float = 90) -> subprocess.CompletedProcess[str]:
    """Run a command until it succeeds, for a head that may still be starting."""
    deadline = time.monotonic() + seconds
    while True:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode == 0 or time.monotonic() > deadline:
            return done
        time.sleep(0.5)


@pytest.mark.long
@pytest.mark.slow
def test_on_a_cluster_by_its_address(head: tuple[Head, dict[str, str]], chain: Chain, tmp_path: Path) -> None:
    found, environment = head
    out, likeness = str(tmp_path / "out"), str(BIN / "likeness")
    embed = [likeness, "embed", "--faces", chain.faces, "--model", chain.model, "--out", out, "--unit-size", "40"]
    embed += ["--actors", "1", "--json", "--address", found.address]
    done = subprocess.run(embed, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["embedded"] == 144
    there, here = (manifest.read(uri, "embeddings").digest for uri in (out, chain.embeddings))
    assert there == here
    status = [str(BIN / "ray"), "status", f"--address={found.address}"]
    still = subprocess.run(status, env=environment, capture_output=True)
    assert still.returncode == 0, "a cluster that was running before keeps running"


@pytest.mark.long
@pytest.mark.slow
def test_neither_logs_nor_the_job_api_show_a_password(
    head: tuple[Head, dict[str, str]], people: Path, tmp_path: Path
) -> None:
    (found, environment), likeness = head, str(BIN / "likeness")
    address, dashboard = found.address, found.url
    secret, faces = "pl4nted-s3cret", str(tmp_path / "faces")
    with answering.mlflow(tmp_path) as place:
        store = f"http://anna:{secret}@{place}"
        train = ["train", "--faces", faces, "--out", str(tmp_path / "model"), "--steps", "2", "--identities", "6"]
        train += ["--images", "3", "--image-size", "32", "--tracking-uri", store, "--verbose"]
        embed = ["embed", "--faces", faces, "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
        for argv in (["catalogue", "--source", str(people), "--out", faces], train, embed):
            done = subprocess.run(
                [likeness, *argv, *([] if argv[0] == "catalogue" else ["--address", address])],
                env=environment | {"MLFLOW_TRACKING_URI": store},
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr
            assert secret not in done.stdout + done.stderr
    with urllib.request.urlopen(f"{dashboard}/api/jobs/", timeout=30) as answer:
        jobs = answer.read().decode()
    assert f"--tracking-uri http://{place}" in jobs
    assert secret not in jobs
    files = [path for top in (tmp_path, found.folder) for path in top.rglob("*") if path.is_file()]
    assert any("/logs/" in str(path) for path in files)
    assert [path for path in files if secret.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_no_cluster_at_the_address(chain: Chain, tmp_path: Path) -> None:
    argv = [str(BIN / "likeness"), "embed", "--faces", chain.faces, "--model", chain.model]
    argv += ["--out", str(tmp_path / "out"), "--address", heads.closed_port()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "no Ray cluster answers at" in done.stderr


@pytest.mark.slow
def test_folders_that_the_nodes_do_not_share_are_refused(tmp_path: Path) -> None:
    """On one machine, nodes cannot see different folders; only that both look is tested. A file that only the driver
    sees is one that it holds open.
    """
    code = (
        "import os, sys, ray\n"
        "from ray.cluster_utils import Cluster\n"
        "from metric_core.errors import ConfigError\n"
        "from metric_core import storage\n"
        "from workflows.shared import preflight\n"
        "made = Cluster(initialize_head=True, head_node_args={'num_cpus': 1})\n"
        "made.add_node(num_cpus=1)\n"
        "ray.init(address=made.address, log_to_driver=False, logging_level='ERROR')\n"
        "preflight.require_nodes(sys.argv[1], [], [sys.argv[1] + '/none.jpg', sys.executable])\n"
        "print('shared', storage.names(sys.argv[1]))\n"
        "os.dup2(os.open(sys.executable, os.O_RDONLY), 900)\n"
        "try:\n"
        "    preflight.require_nodes(sys.argv[1], [], ['/proc/self/fd/900'])\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
        "ray.shutdown(); made.shutdown()\n"
    )
    with victims.apart():
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    shared, *refused = done.stdout.strip().splitlines()
    assert shared == "shared []"
    assert len(refused) == 2, "each node says so"
    for line in refused:
        assert re.fullmatch(
            r"node \S+ \(\S+, \w{6}\) cannot read /proc/self/fd/900: .*; use a shared file system or an object store",
            line,
        )
