"""A pipeline whose source, model and folder lie on an object store."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import flaky, tiny
from support.drivers import PATIENCE, ROOT
from support.flaky import Flaky

from workflows.demo import drawn

pytest.importorskip("s3fs", reason="the extra s3 is not installed")
BUCKET = "live"


def upload(store: Flaky, folder: Path) -> None:
    client = store.client()
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        client.put_object(Bucket=BUCKET, Key=str(path.relative_to(folder)), Body=path.read_bytes())


def run(store: Flaky) -> dict[str, Any]:
    argv = [sys.executable, "-m", "workflows.cli", "pipeline", "--source", f"s3://{BUCKET}/people", "--json"]
    argv += ["--model", f"s3://{BUCKET}/model", "--work", f"s3://{BUCKET}/work", "--keep", "1"]
    how = os.environ | store.environment
    done = subprocess.run(argv, cwd=ROOT, env=how, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.long
@pytest.mark.slow
def test_on_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (flaky.ENVIRONMENT | {"XDG_CACHE_HOME": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    here = tmp_path / "here"
    drawn.write_people(here / "people", range(12), pictures=3, seed=3, size=32)
    tiny.untrained(str(here / "model"))
    with flaky.server(seed=6) as store:
        store.client().create_bucket(Bucket=BUCKET)
        upload(store, here)
        first = run(store)
        assert (first["rows"], first["people"]) == (36, 12)
        assert not run(store)["changed"]
        drawn.write_people(here / "more" / "people", range(12, 13), pictures=3, seed=3, size=32)
        upload(store, here / "more")
        store.client().delete_object(Bucket=BUCKET, Key="people/person-0001/00.jpg")
        second = run(store)
        delta = next(step["figures"] for step in second["steps"] if step["name"] == "delta")
        assert delta == {"new or changed": 3, "unchanged": 35, "gone": 1}
        assert (second["rows"], second["people"]) == (38, 13)
        left = store.client().list_objects_v2(Bucket=BUCKET, Prefix="work/", Delimiter="/")
        folders = [one["Prefix"].split("/")[1] for one in left["CommonPrefixes"]]
        assert [name for name in folders if name.startswith("faces")] == ["faces-000002"]
        assert not run(store)["changed"]
