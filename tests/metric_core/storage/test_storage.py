import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import flaky
from support.flaky import Flaky

from metric_core import storage
from metric_core.errors import ConfigError, Missing
from metric_core.storage import reading, writing


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("bucket")


def test_write_read_and_names(place: str) -> None:
    storage.write_bytes(storage.join(place, "a", "one.bin"), b"0123456789")
    storage.write_bytes(storage.join(place, "a", "two.bin"), b"")
    assert storage.names(storage.join(place, "a")) == ["one.bin", "two.bin"]
    assert storage.read_bytes(storage.join(place, "a", "one.bin")) == b"0123456789"
    assert storage.read_bytes(storage.join(place, "a", "one.bin"), 3, 4) == b"3456"
    assert storage.read_bytes(storage.join(place, "a", "one.bin"), 3) == b"3456789"
    for offset in (8, 10, 20):
        assert storage.read_bytes(storage.join(place, "a", "one.bin"), offset, 4) == b"0123456789"[offset : offset + 4]
    assert storage.size(storage.join(place, "a", "two.bin")) == 0
    assert storage.read_bytes(storage.join(place, "a", "two.bin")) == b""
    with pytest.raises(Missing, match=r"a/three\.bin"):
        storage.read_bytes(storage.join(place, "a", "three.bin"))
    assert storage.names(storage.join(place, "absent")) == []


@pytest.mark.parametrize("slow", [False, True])
def test_many_reads_return_what_single_reads_do(
    place: str, slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SLOW", 0 if slow else 1)
    here, there, nowhere = storage.join(place, "1"), str(tmp_path / "2"), storage.join(place, "3")
    storage.write_bytes(here, b"0123456789")
    storage.write_bytes(there, b"elsewhere")
    ranges = [(here, 0, None), (here, 2, 3), (there, 4, None), (here, 9, 5), (here, 30, 2), (nowhere, 0, 4)] * 20
    answers = storage.read_many(ranges)
    assert answers[:5] == [b"0123456789", b"234", b"where", b"9", b""]
    assert str(answers[5]) == f"{nowhere}: there is no such file"
    assert [str(a) for a in answers] == [str(a) for a in answers[:6]] * 20
    assert storage.read_many([]) == []


def test_a_listing_sees_what_other_processes_wrote(bucket: str) -> None:
    storage.write_bytes(storage.join(bucket, "done", "1"), b"")
    assert storage.names(storage.join(bucket, "done")) == ["1"]
    code = f"from metric_core import storage; storage.write_bytes('{bucket}/done/2', b'')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, cwd=Path(__file__).parents[3])
    assert storage.names(storage.join(bucket, "done")) == ["1", "2"]
    assert storage.exists(storage.join(bucket, "done", "2"))


def test_only_the_first_creator_wins(place: str) -> None:
    address = storage.join(place, "done.json")
    assert storage.create_if_absent(address, b"first")
    assert not storage.create_if_absent(address, b"second")
    assert storage.read_bytes(address) == b"first"


def test_replace_only_what_was_read(place: str) -> None:
    address = storage.join(place, "CURRENT")
    assert not storage.replace_if_match(address, b"x", expected=b"y"), "nothing is there to replace"
    storage.write_bytes(address, b"v1")
    assert not storage.replace_if_match(address, b"v3", expected=b"v0")
    assert storage.read_bytes(address) == b"v1"
    assert storage.replace_if_match(address, b"v2", expected=b"v1")
    assert storage.read_bytes(address) == b"v2"


def test_s3_put_is_conditional_on_the_server(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer between our read and our put must win: the server decides, not our earlier read."""
    address = storage.join(bucket, "CURRENT")
    storage.write_bytes(address, b"v1")
    original = writing.file_system

    class Interrupted:
        def __init__(self, fs: Any) -> None:
            self.fs = fs

        def __getattr__(self, name: str) -> Any:
            return getattr(self.fs, name)

        def cat_file(self, path: str) -> bytes:
            data = self.fs.cat_file(path)
            self.fs.pipe_file(path, b"theirs")
            return data

    def interrupted(uri: str) -> tuple[Any, str]:
        fs, path = original(uri)
        return Interrupted(fs), path

    monkeypatch.setattr(writing, "file_system", interrupted)
    assert not storage.replace_if_match(address, b"ours", expected=b"v1")
    monkeypatch.undo()
    assert storage.read_bytes(address) == b"theirs"


@pytest.fixture
def troubled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Flaky]:
    """A store with the bucket ``faces`` that fails on demand."""
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    from metric_core.storage.s3 import S3

    with flaky.server(seed=0) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        S3.clear_instance_cache()  # an instance from another test talks to another server
        store.client().create_bucket(Bucket="faces")
        yield store
    S3.clear_instance_cache()


def test_a_lost_response_is_not_a_lost_race(troubled: Flaky) -> None:
    """The repeated request finds that the first one succeeded."""
    troubled.lose_next = "PUT"
    storage.write_bytes("s3://faces/CURRENT", b"v1")
    troubled.lose_next = "PUT"
    assert storage.replace_if_match("s3://faces/CURRENT", b"v2", expected=b"v1")
    assert storage.read_bytes("s3://faces/CURRENT") == b"v2"
    assert troubled.counts["answer lost"] == 2


def test_a_store_that_does_not_answer_is_reported(troubled: Flaky) -> None:
    storage.write_bytes("s3://faces/silent/x", b"x")
    troubled.down_after = 0
    for ask in (storage.read_bytes, storage.is_file, storage.exists, storage.names, storage.size, storage.remove):
        with pytest.raises(ConnectionError, match=r"s3://faces/.*does not answer .* start again .* once it does"):
            ask("s3://faces/silent/x")  # type: ignore[operator]
    with pytest.raises(ConnectionError, match=r"does not answer put_object .*We encountered an internal error"):
        storage.create_if_absent("s3://faces/silent/y", b"y")
    troubled.down_after = None
    assert storage.names("s3://faces/silent") == ["x"]


def test_an_unreachable_store_is_reported(troubled: Flaky) -> None:
    troubled.close()
    with pytest.raises(ConnectionError, match=r"s3://faces/x: the object store does not answer .*Could not connect"):
        storage.read_bytes("s3://faces/x")


def test_refused_credentials_are_not_an_error_of_the_object(troubled: Flaky) -> None:
    storage.write_bytes("s3://faces/x", b"x")
    troubled.forbid = "ExpiredToken"
    with pytest.raises(ConnectionError, match=r"refuses the credentials .* renew them and start again"):
        storage.read_many([("s3://faces/x", 0, None)])
    troubled.forbid = "InvalidObjectState"
    (answer,) = storage.read_many([("s3://faces/x", 0, None)])
    assert isinstance(answer, PermissionError)


def test_other_stores_have_no_conditional_replace() -> None:
    storage.write_bytes("memory://m/CURRENT", b"v1")
    with pytest.raises(ConfigError, match="local path or s3"):
        storage.replace_if_match("memory://m/CURRENT", b"v2", expected=b"v1")


def _create(address: str, word: bytes, queue: "multiprocessing.Queue[bool]") -> None:
    queue.put(storage.create_if_absent(address, word))


def test_concurrent_creators(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    address = str(tmp_path / "lease")
    processes = [context.Process(target=_create, args=(address, b"%d" % n, queue)) for n in range(4)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sum(answers) == 1
    assert os.listdir(tmp_path) == ["lease"], "no temporary file stays"


def test_walk_order_is_that_of_whole_paths(tmp_path: Path) -> None:
    for path in ("b/1.jpg", "a/z/2.jpg", "a.txt", "a/b.jpg", ".hidden/x.jpg", "a/.DS_Store"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    found = [path for path, _ in storage.walk(str(tmp_path))]
    assert found == ["a.txt", "a/b.jpg", "a/z/2.jpg", "b/1.jpg"] == sorted(found)
    (tmp_path / "a" / "c.jpg").symlink_to("nowhere.jpg")
    assert [path for path, _ in storage.walk(str(tmp_path / "a"))] == ["b.jpg", "c.jpg", "z/2.jpg"], "broken links too"


def test_walk_agrees_between_stores(tmp_path: Path, bucket: str) -> None:
    for path in ("b/1.jpg", "a/z/2.jpg", "a.txt", "a/b.jpg"):
        storage.write_bytes(storage.join(str(tmp_path), path), b"x")
        storage.write_bytes(storage.join(bucket, "tree", path), b"x")
    there = [path for path, _ in storage.walk(storage.join(bucket, "tree"))]
    assert there == [path for path, _ in storage.walk(str(tmp_path))]


def test_files_and_folders(place: str) -> None:
    for path in ("b.txt", "z/1.jpg", "a.txt", "y/x/2.jpg"):
        storage.write_bytes(storage.join(place, "top", path), b"x")
    if storage.is_local(place):
        os.symlink(storage.join(place, "top", "a.txt"), storage.join(place, "top", "c.txt"))
        os.symlink(storage.join(place, "top", "y"), storage.join(place, "top", "w"))
        assert storage.files_and_folders(storage.join(place, "top")) == (["a.txt", "b.txt", "c.txt"], ["w", "y", "z"])
    else:
        assert storage.files_and_folders(storage.join(place, "top")) == (["a.txt", "b.txt"], ["y", "z"])


def test_content_tag_follows_the_bytes(place: str) -> None:
    address = storage.join(place, "face.jpg")
    storage.write_bytes(address, b"one")
    before = storage.content_tag(address)
    storage.write_bytes(address, b"other")
    assert storage.content_tag(address) != before


def test_missing_names_the_address(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="nowhere"):
        storage.read_bytes(str(tmp_path / "nowhere"))
    with pytest.raises(Missing, match="nowhere"), storage.local_copy(str(tmp_path / "nowhere")):
        pass


def test_absolute() -> None:
    assert storage.absolute("s3://bucket/x/") == "s3://bucket/x"
    assert storage.absolute("x") == str(Path("x").absolute())


@pytest.mark.parametrize(
    ("link", "target", "out"),
    [
        ("a", "../outside", True),
        ("a", "/etc/passwd", True),
        ("deep/er/a", "../../../outside", True),
        ("a", "nothing", False),
        ("a", "../nothing", True),
        ("a", "file", False),
        ("deep/a", "../file", False),
        ("a", "deep/../../outside", True),
        ("a", ".", False),
    ],
)
def test_links_that_lead_out_of_a_folder(tmp_path: Path, link: str, target: str, out: bool) -> None:
    folder = tmp_path / "folder"
    (folder / "deep" / "er").mkdir(parents=True)
    for name in ("outside", "folder/file", "folder-beside"):
        (tmp_path / name).write_text("x")
    assert storage.link_out(str(folder)) is None
    (folder / link).symlink_to(target)
    assert storage.link_out(str(folder)) == (str(folder / link) if out else None)
    (tmp_path / "by-link").symlink_to(folder)
    assert storage.link_out(str(tmp_path / "by-link")) == (str(tmp_path / "by-link" / link) if out else None)


def test_where_there_are_no_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for uri in (str(tmp_path / "nothing"), str(tmp_path / "file"), "memory://anything"):
        assert storage.link_out(uri) is None
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").symlink_to(tmp_path / "folder-beside")
    assert storage.link_out(str(tmp_path / "folder")) == str(tmp_path / "folder" / "a"), "not only the beginning counts"


@pytest.mark.parametrize(
    "uri", ["nosuch://x", "zip://a::b", "zip://a.jpg", "tar://a::/", "jar://x", "dir://::x", "::://x"]
)
def test_an_address_that_nothing_opens(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, Missing), match=re.escape(uri)):
        storage.content_tag(uri)
