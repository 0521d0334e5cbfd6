"""A kill before any write or removal leaves every artefact whole, and the same command completes to the same end."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from support import erasable
from support.erasable import World

from metric_core import storage
from metric_core.artefacts import tombstones
from workflows.erase import job

WRITES = ("write_bytes", "create_if_absent", "replace_if_match", "remove")
NAMES = ["person-02", "person-07"]


class Killed(BaseException):
    """What no handler of errors catches."""


class _Switch:
    """Counts what changes the storage, and stops the process before one of these calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.stop_at, self.dead = 0, -1, False
        for name in WRITES:
            monkeypatch.setattr(storage, name, self._counted(getattr(storage, name)))

    def _counted(self, call: Any) -> Any:
        def counted(uri: str, *args: Any, **more: Any) -> Any:
            if uri.endswith((".lease.json", ".lease.json.lock")):
                return call(uri, *args, **more)
            if self.dead or self.calls == self.stop_at:
                self.dead = True
                raise Killed
            self.calls += 1
            return call(uri, *args, **more)

        return counted


def _again(kept: Path, root: Path) -> World:
    """The world as it was before."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(kept, root)
    return World(root / "pictures", *(str(root / name) for name in ("faces", "base", "delta", "matches")))


@pytest.mark.slow
def test_a_kill_at_any_write_is_completed_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    erasable.world(root := tmp_path / "world")
    shutil.copytree(root, kept := tmp_path / "kept")
    world = _again(kept, root)
    switch = _Switch(monkeypatch)
    before = world.state()
    job.run(world.options(identity=NAMES))
    digests, after, calls = world.digests(), world.state(), switch.calls
    noted = tombstones.read(tombstones.beside(world.faces)).face_id_M.tolist()
    assert calls > 30, "many places to die"
    for stop_at in range(calls):
        world = _again(kept, root)
        switch.calls, switch.stop_at, switch.dead = 0, stop_at, False
        with pytest.raises(Killed):
            job.run(world.options(identity=NAMES))
        switch.stop_at, switch.dead = -1, False
        found = world.state()  # which reads every file, and compares its digest with the manifest's
        for name, rows in found.items():
            assert rows in (before[name], after[name]), f"{name} is half erased after call {stop_at}"
        job.run(world.options(identity=NAMES))
        assert world.digests() == digests
        assert world.state() == after
        assert tombstones.read(tombstones.beside(world.faces)).face_id_M.tolist() == noted
        left = {path.name for path in root.rglob("*") if path.is_file()}
        assert not {name for name in left if name.endswith((".unfinished", ".lock"))}
