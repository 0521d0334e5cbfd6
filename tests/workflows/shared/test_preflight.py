"""What is checked before a job writes anything: its output folder, what nodes read and write, and room for it."""

import errno
import os
from pathlib import Path

import pytest

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.errors import ConfigError, NotWritable, StorageFull
from workflows.shared import cluster, preflight
from workflows.shared.preflight import NODE_GROUP, seen_problem


def expected(*addresses: object) -> dict[str, str]:
    return {str(address): preflight._beginning(str(address)) for address in addresses}


@pytest.mark.parametrize("out", ["out", "new/folder/out"])
def test_the_mark_is_where_the_output_will_be_and_does_not_stay(out: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with preflight._written(str(tmp_path / out)) as mark:
        assert mark
        assert Path(mark).parent == (tmp_path / "out" if out == "out" else tmp_path)
        assert Path(mark).stat().st_size == preflight.WRITTEN
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def test_a_file_in_the_way_is_left_to_the_job(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with preflight._written(str(tmp_path / "file" / "out")) as mark:
        assert mark is None


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, StorageFull, "/new/out: No space left on device while writing plan.json; .*free some space"),
        (errno.EROFS, NotWritable, "/new/out: plan.json cannot be written there .Read-only file system.; give --out"),
    ],
)
def test_a_full_or_read_only_disk(
    number: int, kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Path, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cluster, "live_nodes", lambda: [{}])
    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(kind, match=message):
        preflight.require_nodes(str(tmp_path / "new" / "out"), [])
    assert list(tmp_path.iterdir()) == []


def test_what_a_node_sees(tmp_path: Path) -> None:
    out, faces = str(tmp_path / "out"), tmp_path / "faces"
    faces.mkdir()
    (faces / manifest.NAME).write_text("{}")
    mark = tmp_path / ".mark"
    mark.write_bytes(b"1")
    right = expected(faces / manifest.NAME, mark)
    assert seen_problem(out, str(mark), "node", right) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mark", "faces"], "nothing stays"

    mark.write_bytes(b"2")
    assert (
        seen_problem(out, str(mark), "node", right) == f"has another {out} than this process; use a shared file system"
    )
    mark.unlink()
    problem = seen_problem(out, str(mark), "node", right) or ""
    assert problem.startswith(f"cannot read {out}: {mark}: there is no such file; use a shared file system")
    (faces / manifest.NAME).write_text("[]")
    assert (seen_problem(out, str(mark), "node", right) or "").startswith(f"has another {faces} than")


def test_a_node_that_may_not_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    problem = seen_problem("/out", f"{tmp_path}/file/.mark", "node", {}) or ""
    assert problem.startswith("cannot write to /out: ")
    assert problem.endswith("; give it the right to")


def test_a_store_s_own_error_is_one_clause(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(uri: str, data: bytes) -> None:
        raise PermissionError("Access Denied\n for s3://key:s3cret@bucket/x; ask somebody")

    monkeypatch.setattr(storage, "write_bytes", refused)
    monkeypatch.setattr(storage, "remove", lambda uri: None)
    assert seen_problem("s3://bucket/out", "s3://bucket/out/.mark", "node", {}) == (
        "cannot write to s3://bucket/out: PermissionError: Access Denied for s3://bucket/x; give the node credentials "
        "for it, in its own environment or profile"
    )


def test_unequal_versions() -> None:
    ours = preflight.versions()
    assert ours.keys() == {"Likeness", "torch", "Ray", "Python"}
    assert preflight._unequal(ours, ours) is None
    theirs = ours | {"torch": "1.0", "Python": "3.9.1"}
    assert preflight._unequal(theirs, ours) == (
        f"has torch 1.0, not {ours['torch']}, Python 3.9.1, not {ours['Python']} as this process; install the same on "
        f"every node"
    )


def test_only_a_cluster_that_can_grow_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "workers is 9 but there is room for 1; lower workers"
    monkeypatch.setattr(cluster, "live_nodes", lambda: [{"Labels": {"ray.io/node-id": "1"}}])
    preflight.require_room(True, message)
    with pytest.raises(ConfigError, match=message):
        preflight.require_room(False, message)
    monkeypatch.setattr(cluster, "live_nodes", lambda: [{"Labels": {NODE_GROUP: "headgroup"}}])
    preflight.require_room(False, message)
    assert capsys.readouterr().err == (
        "workers is 9 but there is room for 1; waiting for the cluster's autoscaler to add nodes\n"
    )
