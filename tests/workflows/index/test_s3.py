"""An index on an object store: built and published there, raced for, opened through the local cache, and mended."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import flaky, indexed
from support.drivers import PATIENCE, ROOT
from support.flaky import Flaky

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.artefacts.collection import Collection
from metric_core.errors import Corrupt
from metric_core.index import layout
from metric_core.index.search import Index
from metric_core.index.store import IndexStore
from metric_core.index.version import Version
from workflows.index import check
from workflows.index.config import CheckConfig

pytest.importorskip("s3fs", reason="the extra s3 is not installed")
BUCKET = "vectors"


@pytest.fixture(scope="module")
def store() -> Iterator[Flaky]:
    """A server that this process uses as well; s3fs remembers its address."""
    with flaky.server(seed=5) as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        found.client().create_bucket(Bucket=BUCKET)
        yield found


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the local copies, apart from the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "likeness" / "files"


def built(store: Flaky, embeddings: str, out: str, *more: str) -> str:
    """Run the command; returns what it said."""
    argv = indexed.command(embeddings, out, *more)
    how = os.environ | store.environment
    done = subprocess.run(argv, cwd=ROOT, env=how, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stderr


def stored(store: Flaky, folder: str) -> dict[str, str]:
    """The tag of each object, a digest of its bytes."""
    found = store.client().list_objects_v2(Bucket=BUCKET, Prefix=f"{folder}/")["Contents"]
    return {one["Key"]: one["ETag"] for one in found}


@pytest.mark.slow
def test_from_the_build_to_a_mended_object(store: Flaky, cache: Path, tmp_path: Path) -> None:
    out = f"s3://{BUCKET}/mended"
    source = indexed.crowd(tmp_path / "embeddings")
    assert "is live" in built(store, source, out)
    version = IndexStore(out).current()
    digest = version.manifest().digest
    assert digest == on_disk(source, tmp_path / "local"), "where it lies changes nothing"

    for copy in cache.iterdir():
        copy.unlink()
    probe_QD = Collection.open(source).load().embedding_ND[::50].astype("float32")
    first = Index.open(out).search(probe_QD, 3, nprobe=64, depth=100)
    named = {file.sha256 for shard in version.content().shards for file in shard.files.values()}
    named |= {version.content().files[name].sha256 for name in (layout.NAMES, layout.CODES)}
    assert {path.name for path in cache.iterdir()} == named, "one copy of each file that is mapped"
    asked = store.counts.total()
    again = Index.open(out).search(probe_QD, 3, nprobe=64, depth=100)
    assert (again.face_id_QK == first.face_id_QK).all()
    assert first.face_id_QK[:, 0].tolist() == list(range(0, 800, 50))
    assert store.counts.total() - asked < 30, "the shards are not downloaded again"

    whole = stored(store, "mended")
    built(store, source, f"s3://{BUCKET}/twin")
    twin = stored(store, "twin")
    shared = {key: tag for key, tag in whole.items() if "/shards/" in key or "/files/" in key}
    assert shared.items() <= {key.replace("twin", "mended", 1): tag for key, tag in twin.items()}.items(), (
        "a copy in the cache does not count as stored"
    )
    shard = version.content().shards[1]
    key = f"mended/shards/{shard.digest}.vectors"
    data = bytearray(store.client().get_object(Bucket=BUCKET, Key=key)["Body"].read())
    data[len(data) // 2] ^= 0xFF
    store.client().put_object(Bucket=BUCKET, Key=key, Body=bytes(data))
    with pytest.raises(Corrupt, match=rf"shard 1: .*{shard.digest}\.vectors"):
        check.run(CheckConfig(index=out))
    with pytest.raises(Corrupt, match=rf"{shard.digest}\.vectors"):
        IndexStore(out).publish(version)
    for copy in cache.iterdir():
        copy.unlink()
    with pytest.raises(Corrupt, match=rf"{shard.digest}\.vectors"):
        Index.open(out)
    said = built(store, source, out)
    assert f"{shard.digest}.vectors" in said
    assert "built already" not in said
    assert version.manifest().digest == digest
    assert stored(store, "mended") == whole
    assert check.run(CheckConfig(index=out, verify=True))["rows"] == 800
    assert (Index.open(out).search(probe_QD, 3, nprobe=64, depth=100).face_id_QK == first.face_id_QK).all()


@pytest.mark.slow
def test_of_two_that_publish_at_once_one_is_live_and_both_are_whole(store: Flaky, tmp_path: Path) -> None:
    out = f"s3://{BUCKET}/raced"
    source = indexed.crowd(tmp_path / "embeddings")
    built(store, source, out)
    built(store, source, out, "--seed", "1")
    names = [found.id for found in IndexStore(out).versions()]
    assert len(names) == 2
    storage.remove(f"{out}/CURRENT")
    gate, errors = threading.Barrier(2), []

    def publish(name: str) -> None:
        gate.wait()
        try:
            for _ in range(10):
                IndexStore(out).publish(Version(out, name))
        except Exception as error:  # noqa: BLE001  # told to the test
            errors.append(error)

    threads = [threading.Thread(target=publish, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert IndexStore(out).current().id in names
    for name in names:
        assert check.run(CheckConfig(index=out, version=name))["rows"] == 800


@pytest.mark.slow
def test_a_build_through_errors_of_the_store_gives_the_same_index(store: Flaky, tmp_path: Path) -> None:
    out = f"s3://{BUCKET}/troubled"
    source = indexed.crowd(tmp_path / "embeddings")
    store.trouble = 0.02
    built(store, source, out)
    store.trouble = 0.0
    assert IndexStore(out).current().manifest().digest == on_disk(source, tmp_path / "local")


def on_disk(embeddings: str, out: Path) -> str:
    """The digest of the same index in a local folder."""
    argv = [*indexed.command(embeddings, out), "--json"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return manifest.read(str(out / "versions" / json.loads(done.stdout)["version"]), "index").digest
