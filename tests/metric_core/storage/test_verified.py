import hashlib
import os
from pathlib import Path

import pytest

from metric_core import storage
from metric_core.errors import ConfigError, Corrupt, Missing
from metric_core.storage import digests, reading

DATA = b"0123456789"
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> storage.Cache:
    return storage.Cache(tmp_path / "cache")


def test_a_local_file_is_used_where_it_is(
    tmp_path: Path, cache: storage.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(DATA)
    monkeypatch.chdir(tmp_path)
    for address in ("file", f"file://{tmp_path}/file"):
        with storage.verified(address, SHA256, cache=cache) as path:
            assert path == tmp_path / "file"
    assert not (cache.folder / "files").exists()


def test_a_damaged_local_file_is_reported(tmp_path: Path, cache: storage.Cache) -> None:
    (tmp_path / "file").write_bytes(DATA[::-1])
    found = hashlib.sha256(DATA[::-1]).hexdigest()
    with (
        pytest.raises(Corrupt, match=rf"{tmp_path}/file: its sha256 is {found}, expected {SHA256}; .* restore it"),
        storage.verified(str(tmp_path / "file"), SHA256, cache=cache),
    ):
        pass
    assert (tmp_path / "file").read_bytes() == DATA[::-1], "it is the user's and stays"


@pytest.mark.parametrize("address", ["{}/nowhere", "memory://verified/nowhere"])
def test_nothing_at_the_address_is_reported(tmp_path: Path, cache: storage.Cache, address: str) -> None:
    with (
        pytest.raises(Missing, match="nowhere"),
        storage.verified(address.format(tmp_path), SHA256, cache=cache),
    ):
        pass


@pytest.mark.parametrize("wrong", ["", "../../file", SHA256.upper(), SHA256 + "\n"])
def test_what_is_no_digest_never_becomes_a_file_s_name(tmp_path: Path, cache: storage.Cache, wrong: str) -> None:
    with (
        pytest.raises(Corrupt, match="not as 64 hexadecimal digits"),
        storage.verified("memory://verified/x", wrong, cache=cache),
    ):
        pass
    assert not cache.folder.exists()


def test_a_copy_does_not_stand_for_what_is_stored(cache: storage.Cache) -> None:
    here, twin = "memory://stored/file", "memory://stored/twin"
    storage.write_bytes(here, DATA)
    with storage.verified(here, SHA256, cache=cache):
        pass
    storage.require_stored(here, SHA256, cache=cache)
    with pytest.raises(Missing, match="stored/twin"):
        storage.require_stored(twin, SHA256, cache=cache)
    storage.write_bytes(twin, DATA[::-1])
    with pytest.raises(Corrupt, match="stored/twin: its sha256 is"):
        storage.require_stored(twin, SHA256, cache=cache)
    storage.write_bytes(here, DATA[::-1])
    with pytest.raises(Corrupt, match="stored/file: its sha256 is"):
        storage.require_stored(here, SHA256, cache=cache)
    storage.remove(here)
    with pytest.raises(Missing, match="stored/file"):
        storage.require_stored(here, SHA256, cache=cache)
    with storage.verified(here, SHA256, cache=cache) as path:
        assert path.read_bytes() == DATA, "a copy is enough to read"


def test_a_stored_object_is_read_again_only_if_it_changed_or_on_request(
    cache: storage.Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, read = "memory://stored/again", []
    storage.write_bytes(address, DATA)
    monkeypatch.setattr(digests, "open_read", lambda uri: (read.append(uri), reading.open_read(uri))[1])
    for _ in range(2):
        storage.require_stored(address, SHA256, cache=cache)
    assert read == [address]
    storage.require_stored(address, SHA256, again=True, cache=cache)
    assert read == [address] * 2


def test_the_user_s_cache_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(digests, "SETTLED_S", -(10**6))
    (tmp_path / "file").write_bytes(DATA)
    storage.write_bytes("memory://verified/file", DATA)
    for address in (str(tmp_path / "file"), "memory://verified/file"):
        with storage.verified(address, SHA256):
            pass
    assert sorted(os.listdir(tmp_path / "likeness")) == ["digests", "files"]
    assert len(os.listdir(tmp_path / "likeness" / "digests")) == 3, "the local file, the object and its copy"


def test_a_negative_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is -1; expected 0 or more"):
        storage.Cache(tmp_path, limit_bytes=-1)
