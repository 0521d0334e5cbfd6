"""The second step of infra/README.md, typed by a newcomer: a cluster with a token here, a job on it, and its end."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.heads import free_ports, kill_family

from metric_core.artefacts import manifest
from workflows.catalogue import job as catalogue
from workflows.catalogue.config import CatalogueConfig

ROOT = Path(__file__).parents[2]


def step(title: str) -> str:
    """The commands under a title of infra/README.md."""
    text = (ROOT / "infra" / "README.md").read_text().split(f"## {title}")[1]
    block = re.search(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert block
    return block[1]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """An empty home folder and a short folder for Ray's sockets. What the commands leave running is ended."""
    short = tempfile.mkdtemp(prefix="lk-", dir="/tmp")
    home = tmp_path / "home"
    home.mkdir()
    (home / "ray").symlink_to(short)
    yield home
    for process in started(tmp_path):
        kill_family(process.pid)
    shutil.rmtree(short, ignore_errors=True)


def started(folder: Path) -> list[psutil.Process]:
    """The processes whose numbers the commands have noted, as far as they live."""
    numbers = [int(path.read_text()) for path in (folder / "runs").glob("*.pid")]
    return [psutil.Process(number) for number in numbers if psutil.pid_exists(number)]


@pytest.mark.slow
@pytest.mark.long
def test_a_newcomer_starts_a_cluster_trains_on_it_and_stops_it(tmp_path: Path, people: Path, home: Path) -> None:
    catalogue.run(CatalogueConfig(source=str(people), out=str(tmp_path / "demo-out" / "faces"), valid_fraction=0.4))
    text = step("2. A cluster on this machine")
    # Other ports than a Ray beside this test, and a training of seconds; else as written.
    for written, port in zip(("6379", "8265", "5000"), free_ports(3)):
        text = text.replace(written, str(port))
    for port in free_ports(2):  # of the agent that starts jobs, which serves none if another Ray has its port
        text = re.sub(r"ray start (?!--dash)", f"ray start --dashboard-agent-listen-port {port} ", text, count=1)
    assert text.count("--steps 100") == 1
    text = text.replace("--steps 100", "--steps 4 --identities 6 --images 3 --image-size 32 --embedding-size 32")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "LIKENESS_"))}
    env = clean | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": os.readlink(home / "ray"),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert manifest.read(str(tmp_path / "runs" / "submitted"), "model")
    assert "first" in done.stdout
    assert not psutil.wait_procs(started(tmp_path), timeout=40)[1], "the last command did not stop all of them"
    assert stat.S_IMODE((home / ".ray" / "auth_token").stat().st_mode) == 0o600
