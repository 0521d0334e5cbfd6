"""The same on an object store."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import erasable, flaky
from support.flaky import Flaky

from metric_core import storage
from metric_core.artefacts import manifest, tombstones
from metric_core.storage import addresses
from workflows.erase import job

pytest.importorskip("s3fs", reason="the extra s3 is not installed")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    with flaky.server(seed=4) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        found.client().create_bucket(Bucket="faces")
        client = type(addresses.file_system("s3://faces")[0])
        client.clear_instance_cache()  # those of other tests have the address of another server
        yield found
        client.clear_instance_cache()


def test_people_are_erased_on_an_object_store(store: Flaky, tmp_path: Path) -> None:
    local = erasable.world(tmp_path)
    world = erasable.uploaded(local, "s3://faces")
    before, ids = world.state(), world.ids("person-02")
    answer = job.run(world.options(identity=["person-02"]))
    gone = {*ids, "person-02", *map(str, ids)}
    after = {name: {row for row in rows if not gone & set(row)} for name, rows in before.items()}
    assert world.state() == after
    job.run(local.options(identity=["person-02"]))
    assert world.digests()[1:] == local.digests()[1:], "as on a disk, but for the catalogue's own addresses"
    assert answer["receipt"].startswith("s3://faces/receipts/receipt-")
    assert json.loads(storage.read_bytes(answer["receipt"]))["artefacts"]
    listed = {file["name"] for file in manifest.read(world.base, "embeddings").content["parts"]}
    there = {name for name in storage.names(world.base) if name.startswith("part-")}
    assert there == listed, "old parts are gone"
    assert ids <= set(tombstones.read(tombstones.beside(world.faces)).face_id_M.tolist())
