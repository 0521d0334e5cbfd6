"""Faces and embeddings on an unreliable object store: nothing is lost, and a job that gave up can continue."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import flaky
from support.crowd import odd_pictures, pictures
from support.drivers import ROOT, Run
from support.flaky import Flaky
from support.tiny import untrained

from metric_core.artefacts import manifest

pytest.importorskip("s3fs", reason="the extra s3 is not installed")
BUCKET = "faces"
COPIES = 6
"""Copies of each picture."""
OPTIONS = ("--actors", "2", "--unit-size", "20", "--max-bad-fraction", "0.05")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    for name, value in flaky.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with flaky.server(seed=4) as found:
        found.client().create_bucket(Bucket=BUCKET)
        yield found


def uploaded(store: Flaky, folder: Path) -> int:
    """Upload the pictures; returns their number."""
    client = store.client()
    paths = [*pictures(folder / "people") * COPIES, *odd_pictures(folder / "odd")[:8]]
    for n, path in enumerate(paths):
        key = f"people/{path.parent.name}/{n:05d}{path.suffix}"
        client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    return len(paths)


def job(store: Flaky, folder: Path, name: str) -> Run:
    faces, out = f"s3://{BUCKET}/catalogue", f"s3://{BUCKET}/{name}"
    return Run(folder, faces, str(folder.parent / "model"), *OPTIONS, out=out, environment=store.environment)


def content(store: Flaky, name: str) -> dict[str, Any]:
    """The manifest's content, after checking that every file it names is there."""
    client = store.client()
    body = client.get_object(Bucket=BUCKET, Key=f"{name}/{manifest.NAME}")["Body"].read()
    found = manifest.parse(body, name)["content"]
    for folder in ("parts", "quarantine"):
        for file in found[folder]:
            key = f"{name}/{file['name']}" if folder == "parts" else f"{name}/quarantine/{file['name']}"
            data = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
    return dict(found)


@pytest.mark.long
@pytest.mark.slow
def test_through_errors_and_slow_answers(store: Flaky, tmp_path: Path) -> None:
    rows = uploaded(store, tmp_path)
    untrained(str(tmp_path / "model"))
    argv = [sys.executable, "-m", "workflows.cli", "catalogue", "--source", f"s3://{BUCKET}/people"]
    argv += ["--out", f"s3://{BUCKET}/catalogue", "--json"]
    done = subprocess.run(argv, cwd=ROOT, env=os.environ | store.environment, capture_output=True)
    assert json.loads(done.stdout)["rows"] == rows, done.stderr

    calm = job(store, tmp_path / "calm", "calm")
    calm.start()
    calm.end()
    expected = content(store, "calm")
    assert expected["inputs"] == expected["embedded"] + expected["quarantined"] == rows

    store.trouble = 0.03
    before = store.counts.copy()
    troubled = job(store, tmp_path / "troubled", "troubled")
    troubled.start()
    troubled.end()
    counts = store.counts - before
    assert min(counts["refused"], counts["answer lost"], counts["late"]) > 0, counts
    store.trouble = 0.0
    assert content(store, "troubled") == expected

    store.units, store.down_after = 0, 5
    stopped = job(store, tmp_path / "stopped", "stopped")
    stopped.start()
    output = stopped.end(1)
    assert f"s3://{BUCKET}/" in output
    assert "the object store does not answer" in output
    assert "start again with the same arguments once it does" in output
    assert "Traceback" not in output
    store.down_after = None
    kept = store.client().list_objects_v2(Bucket=BUCKET, Prefix="stopped/part-")["Contents"]
    stopped.start()
    assert "units are done already" in stopped.end()
    now = {o["Key"]: o["LastModified"] for o in store.client().list_objects_v2(Bucket=BUCKET)["Contents"]}
    assert all(now[o["Key"]] == o["LastModified"] for o in kept), "a finished unit has changed"
    assert content(store, "stopped") == expected
