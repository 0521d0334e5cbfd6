"""A cluster that cannot do the job says so in seconds, in one line for each reason, and nothing is left behind."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import flaky, victims
from support.drivers import ROOT
from support.flaky import Flaky
from support.heads import closed_port
from support.tiny import untrained

pytest.importorskip("s3fs", reason="the extra s3 is not installed")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-this-test-" + "0" * 20}
NO_LOGIN = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
NO_LOGIN |= {"AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_CONFIG_FILE": "/dev/null"}


@contextmanager
def cluster(store: Flaky, *nodes: dict[str, str]) -> Iterator[str]:
    """A head and nodes with these environment variables; its address."""
    environment = os.environ | TOKEN | store.environment | {"PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "tests.support.unequal_nodes", *map(json.dumps, nodes)]
    with victims.apart():
        made = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=environment | {"RAY_TMPDIR": os.environ["RAY_TMPDIR"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert made.stdin
        assert made.stdout
        try:
            yield made.stdout.readline().strip()
        finally:
            made.stdin.close()
            made.wait(timeout=60)


def other_likeness(folder: Path) -> str:
    """A copy of the packages with one more line, as a node has it that was not updated."""
    for package in ("metric_core", "workflows"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    with open(folder / "workflows" / "hints.py", "a") as f:
        f.write("# another version\n")
    return str(folder)


@pytest.mark.slow
def test_a_cluster_that_cannot_do_the_job(tmp_path: Path, people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in flaky.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    model = untrained(str(tmp_path / "model"))
    older = other_likeness(tmp_path / "older")
    with flaky.server(seed=1) as store:
        environment = os.environ | TOKEN | store.environment | {"PYTHONPATH": str(ROOT)}

        def likeness(*argv: str, **more: str) -> tuple[int, list[str], float]:
            start = time.monotonic()
            command = [str(Path(sys.executable).parent / "likeness"), *argv]
            done = subprocess.run(
                command, cwd=tmp_path, env=environment | more, capture_output=True, text=True, timeout=200
            )
            assert done.stdout == "" or done.returncode == 0
            return done.returncode, done.stderr.splitlines(), time.monotonic() - start

        store.client().create_bucket(Bucket="faces")
        code, lines, _ = likeness("catalogue", "--source", str(people), "--out", "s3://faces/catalogue")
        assert code == 0, lines
        before = [one["Key"] for one in store.client().list_objects_v2(Bucket="faces")["Contents"]]
        job = ["embed", "--faces", "s3://faces/catalogue", "--model", model, "--out", "s3://faces/out", "--address"]

        with cluster(store, NO_LOGIN, {"PYTHONPATH": older}) as address:
            code, lines, seconds = likeness(*job, address)
            assert code == 2, lines
            assert seconds < 60
            node = r"likeness embed: node \S+ \(\S+, \w{6}\) "
            assert len(lines) == 2, lines
            login = next(line for line in lines if "cannot read s3://faces/" in line)
            assert re.fullmatch(rf"{node}cannot read s3://faces/\w+: .*credentials.*own environment or profile", login)
            version = next(line for line in lines if line != login)
            assert re.fullmatch(
                rf"{node}has Likeness \S+ \(\w+\), not \S+ \(\w+\) as this process; install the same on every node",
                version,
            )

            for token, why in (({"RAY_AUTH_TOKEN": "wrong"}, "is another one"), ({"RAY_AUTH_TOKEN": ""}, "no token")):
                code, lines, seconds = likeness(*job, address, HOME=str(tmp_path), **token)
                assert (code, len(lines)) == (2, 1), lines
                assert lines[0].startswith(f"likeness embed: Ray at {address} answers but refuses the token (")
                assert why in lines[0]
                assert "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH" in lines[0]
                assert seconds < 30

        code, lines, seconds = likeness(*job, closed_port())
        assert (code, len(lines)) == (2, 1), lines
        assert "no Ray cluster answers at 127.0.0.1:" in lines[0]
        assert seconds < 30
        assert [one["Key"] for one in store.client().list_objects_v2(Bucket="faces")["Contents"]] == before
