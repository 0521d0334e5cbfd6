"""Submissions to a real head that lets nobody in without its token, from a machine whose nodes know no ``likeness``."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import heads
from support.tiny import untrained

from metric_core.artefacts import manifest

ROOT = Path(__file__).parents[3]
TOKEN = "0123456789abcdef" * 4
PRINT_PLACES = """
import ray, workflows
ray.init(log_to_driver=False)
print("places", [workflows.__file__, ray.get(ray.remote(lambda: __import__("workflows").__file__).remote())])
"""


@dataclass(frozen=True)
class Cluster:
    """A head, and the command as somebody runs it who has its token."""

    address: str
    folder: Path

    def likeness(self, *argv: str, code: int = 0, **environment: str) -> tuple[str, str]:
        """Run the command to its end, which must have this exit code; returns stdout and stderr."""
        done = subprocess.run(
            self.line(*argv), env=self.environment(**environment), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    def line(self, *argv: str) -> list[str]:
        return [sys.executable, "-m", "workflows.cli", *argv]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        kept |= {"PYTHONPATH": str(ROOT), "HOME": str(self.folder), "RAY_API_SERVER_ADDRESS": self.address}
        return kept | {"RAY_AUTH_TOKEN": TOKEN} | more

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What Ray's own job server answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A head in an environment of its own: another folder, no PYTHONPATH, and neither likeness nor python on PATH."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0"}
    with heads.head(environment, cpus=2, folder=tmp_path) as head:
        found, deadline = Cluster(head.url, tmp_path), time.monotonic() + 90
        while True:
            try:
                found.ask("/api/version")
                break
            except OSError:
                assert time.monotonic() < deadline, "the head did not start"
                time.sleep(0.3)
        yield found


@pytest.mark.slow
def test_from_submission_to_stop(cluster: Cluster, people: Path, tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    assert shutil.which("likeness", path="/usr/bin:/bin") is None
    began = time.monotonic()
    for said, more in [
        ("wants a token and there is none", {"RAY_AUTH_TOKEN": ""}),
        ("does not accept the token", {"RAY_AUTH_TOKEN": "f" * 64}),
        ("no Ray head answers at http://127.0.0.1:", {"RAY_API_SERVER_ADDRESS": f"http://{heads.closed_port()}"}),
    ]:
        (line,) = cluster.likeness("jobs", "list", code=2, **more)[1].splitlines()
        assert said in line
    assert time.monotonic() - began < 3 * 15

    command = ["--", "catalogue", "--source", str(people), "--out", str(faces), "--json"]
    secret = {"PASSWORD": "planted"}
    out, err = cluster.likeness("submit", "--name", "faces", "--pass-env", "PASSWORD", *command, **secret)
    assert json.loads(out)["rows"] == 144
    hosts = cluster.ask("/nodes?view=hostNameList")["data"]["hostNameList"]
    assert hosts == [socket.gethostname()], "how a tunnel is told from a head here"
    assert [line.split()[0] for line in err.splitlines()] == ["looking", "submitted"], "nothing of Ray's own"
    provenance = manifest.read(str(faces), "faces").provenance
    assert provenance["git_commit"] is None, "the code ran from no checkout, the one that is installed here included"
    assert provenance["command"].startswith("likeness catalogue --source")
    (job,) = cluster.ask("/api/jobs/")
    places = {"working_dir": job["runtime_env"]["working_dir"]}
    places["env_vars"] = {k: v for k, v in job["runtime_env"]["env_vars"].items() if k != "PASSWORD"}
    entrypoint = f"$LIKENESS_PYTHON -c '{PRINT_PLACES}'"
    cluster.ask("/api/jobs/", {"entrypoint": entrypoint, "submission_id": "places", "runtime_env": places})

    out, err = cluster.likeness("submit", "--name", "faces", *command)
    assert json.loads(out)["rows"] == 144
    assert err == "faces is done already; another --name runs it again\n"
    embed = ["--", "embed", "--faces", str(faces), "--model", untrained(str(tmp_path / "model")), "--actors", "1"]
    cluster.likeness("submit", "--name", "mine", *embed, "--out", str(tmp_path / "mine"), "--private")
    written = [tmp_path / "mine", *(tmp_path / "mine").rglob("*")]
    assert {p.stat().st_mode & 0o777 for p in written} == {0o700, 0o600}, "the cluster's workers keep it private, too"
    missing = [*command[:3], str(tmp_path / "no"), "--out", str(tmp_path / "other")]
    err = cluster.likeness("submit", "--name", "bad", *missing, code=2)[1]
    assert "likeness catalogue: " in err
    assert "bad failed (exit code 2); correct the command, under the same name" in err
    out, _ = cluster.likeness("jobs", "logs", "--name", "places", "--follow")
    log = cluster.likeness("jobs", "logs", "--name", "places")[0]
    assert log.count("/_ray_pkg_") == 2, f"driver and worker run what was sent: {log}"

    demo = [
        "submit",
        "--name",
        "demo",
        "--",
        "demo",
        "--out",
        str(tmp_path / "demo"),
        "--people",
        "50000",
        "--workers",
        "1",
    ]
    watching = subprocess.Popen(cluster.line(*demo), env=cluster.environment(), stderr=subprocess.PIPE, text=True)
    assert watching.stderr
    first = watching.stderr.readline()
    assert first.startswith("submitted demo to ")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(30) == 130
    assert (
        "detached from demo, which goes on; `likeness jobs logs --follow --name demo` attaches"
        in watching.stderr.read()
    )
    states = {job["job"]: job["state"] for job in json.loads(cluster.likeness("jobs", "list", "--json")[0])["jobs"]}
    assert states.pop("demo") in ("PENDING", "RUNNING")
    assert states == {"faces": "SUCCEEDED", "mine": "SUCCEEDED", "bad": "FAILED", "places": "SUCCEEDED"}
    assert json.loads(cluster.likeness("jobs", "stop", "--name", "demo", "--json")[0])["state"] == "STOPPED"
    out, _ = cluster.likeness("jobs", "status", "--name", "demo", "--json")
    assert (json.loads(out)["state"], json.loads(out)["exit_code"]) == ("STOPPED", 143)
    assert "planted" not in cluster.likeness("jobs", "list", "--json")[0]
