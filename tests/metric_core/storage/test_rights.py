"""Who may read what is written: the umask says so, links are never followed, and the erasure key is its owner's."""

import multiprocessing
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from metric_core import storage
from metric_core.artefacts import tombstones
from metric_core.errors import NotReadable, NotWritable
from metric_core.storage.downloads import Downloads

NOBODY = 65534
WRITERS: dict[str, Callable[[str], object]] = {
    "write": lambda uri: storage.write_bytes(uri, b"x"),
    "create": lambda uri: storage.create_if_absent(uri, b"x"),
    "put": lambda uri: storage.put_file(Path(__file__), uri),
    "replace": lambda uri: storage.create_if_absent(uri, b"x") and storage.replace_if_match(uri, b"y", b"x"),
}


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("how", WRITERS)
def test_new_files_and_folders_have_the_rights_that_the_umask_leaves(how: str, umask: int, tmp_path: Path) -> None:
    WRITERS[how](str(tmp_path / "folder" / "file"))
    assert rights(tmp_path / "folder") == 0o777 & ~umask
    assert {rights(path) for path in (tmp_path / "folder").iterdir()} == {0o666 & ~umask}


def test_a_large_file_has_them_too_and_the_group_of_its_folder(umask: int, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root may hand a folder to another group")
    os.chown(tmp_path, -1, 12345)
    os.chmod(tmp_path, 0o2777)
    with storage.new_file(str(tmp_path / "folder" / "file")) as path:
        path.write_bytes(b"x")
    found = (tmp_path / "folder" / "file").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o666 & ~umask, 12345)


def test_a_lock_is_not_opened_through_a_link(tmp_path: Path) -> None:
    victim, file = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"precious")
    file.write_bytes(b"x")
    Path(f"{file}.lock").symlink_to(victim)
    with pytest.raises(NotWritable, match=r"file\.lock is a link; expected a file of Likeness; remove it"):
        storage.replace_if_match(str(file), b"y", b"x")
    assert (victim.read_bytes(), file.read_bytes()) == (b"precious", b"x")


def test_an_unfinished_download_is_not_written_through_a_link(tmp_path: Path) -> None:
    victim, folder, digest = tmp_path / "victim", tmp_path / "files", "0" * 64
    victim.write_bytes(b"precious")
    folder.mkdir()
    (folder / f".{digest}{storage.durable.UNFINISHED}").symlink_to(victim)
    downloads = Downloads(folder, 1 << 20, memory=None)  # type: ignore[arg-type]  # it comes to nothing
    with pytest.raises(NotWritable, match="is a link"), downloads.hold(str(victim), digest):
        pass
    assert victim.read_bytes() == b"precious"


def test_the_erasure_key_is_its_owners(umask: int, tmp_path: Path) -> None:
    uri = str(tmp_path / "tombstones")
    tombstones.add(uri, "corpus", identities=["Ada"])
    assert rights(tmp_path / "tombstones" / "key") == 0o600
    (tmp_path / "tombstones" / "key").chmod(0o644)  # as older versions of Likeness wrote it
    assert tombstones.read(uri)
    assert rights(tmp_path / "tombstones" / "key") == 0o600


def as_nobody(work: Callable[[], object]) -> str:
    """The message of the error that another account gets."""

    def there(send: Connection) -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            send.send(f"no error: {work()}")
        except Exception as error:  # noqa: BLE001  # the test looks at it
            send.send(f"{type(error).__name__}: {error}")

    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=there, args=(send,))
    process.start()
    assert receive.poll(60), "no answer"
    answer: str = receive.recv()
    process.join(60)
    return answer


@pytest.mark.parametrize(("what", "mode"), [("key", 0o600), (".", 0o700), (".", 0o744), (".", 0o711)])
def test_an_account_that_may_not_read_the_key_is_refused(what: str, mode: int) -> None:
    if os.geteuid():
        pytest.skip("only root may become another account")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own is closed to others
        os.chmod(folder, 0o755)
        uri = Path(folder) / "tombstones"
        tombstones.add(str(uri), "corpus", identities=["Ada"])
        (uri / what).chmod(mode)
        found = as_nobody(lambda: bool(tombstones.read(str(uri))))
    expected = "this account may not read what was erased, so erased faces would not be left out; run the job as the"
    assert found.startswith(NotReadable.__name__), found
    assert expected in found
