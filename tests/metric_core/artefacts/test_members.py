"""Names of members by the headers of real tars: the one that the reader of tars finds, or none."""

import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.shard_writers import write_tar

from metric_core.artefacts import members
from metric_core.sources import webdataset
from metric_core.sources.found import Notes


def rows(root: Path, names: list[str]) -> list[dict[str, Any]]:
    """What a catalogue of x.tar says of its members; ``path`` is what it does not say."""
    found = webdataset.faces(str(root), "x.tar", Notes())
    return [
        {"key": f.key, "uri": f.uri, "offset": f.offset, "content_tag": f.content_tag, "path": name}
        for f, name in zip(found, names, strict=True)
    ]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_name_is_whole_or_unknown(tmp_path: Path, form: int) -> None:
    """A name that is cut may end in another ending: .jpe of .jpeg, .tif of .tiff."""
    lengths = range(90, 111)
    endings = (".jpeg", ".tiff", ".Jpg")
    names = [f"Ann/{ending[1]}".ljust(length - len(ending), "x") + ending for ending in endings for length in lengths]
    write_tar(tmp_path / "x.tar", dict.fromkeys(names, b"data"), form)
    found = members.names(str(tmp_path), rows(tmp_path, names))
    assert found == [name if len(name) < 99 else None for name in names]


@pytest.mark.parametrize("folder", ["Zoë", "b" * 120])
def test_a_name_in_the_fields_of_a_plain_tar(tmp_path: Path, folder: str) -> None:
    names = [f"{folder}/1.jpg", f"{folder}/{'x' * 80}.jpeg"]
    write_tar(tmp_path / "x.tar", dict.fromkeys(names, b"data"), tarfile.USTAR_FORMAT)
    assert members.names(str(tmp_path), rows(tmp_path, names)) == names
    write_tar(tmp_path / "x.tar", dict.fromkeys(names, b"data"), tarfile.PAX_FORMAT)
    assert members.names(str(tmp_path), rows(tmp_path, names)) == [None, None], "it is in another header"


def test_names_are_in_normal_form(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"./Ann//1.Jpg": b"1", "Ann/2.v2.JPG": b"2"})
    assert members.names(str(tmp_path), rows(tmp_path, ["", ""])) == ["Ann/1.Jpg", "Ann/2.v2.JPG"]


def test_a_map_of_holes_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "Ann").mkdir()
    with (tmp_path / "Ann" / "1.jpg").open("wb") as f:
        f.write(b"x" * 5000)
    for form in ("gnu", "posix"):
        pack = ["tar", "--sparse", f"--format={form}", "-C", str(tmp_path), "-cf", str(tmp_path / "x.tar"), "Ann"]
        subprocess.run(pack, check=True)
        assert members.names(str(tmp_path), rows(tmp_path, ["Ann/1.jpg"])) == ["Ann/1.jpg"]
    row = rows(tmp_path, ["Ann/1.jpg"])[0]
    assert members.names(str(tmp_path), [row | {"offset": row["offset"] + 512}]) == [None]


def test_a_tar_that_is_not_what_was_catalogued_is_not_asked(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"Ann/1.jpg": b"1"})
    known = rows(tmp_path, ["Ann/1.jpg"])
    assert members.names(str(tmp_path), known) == ["Ann/1.jpg"]
    assert members.names(str(tmp_path), [known[0] | {"key": "Ann/2"}]) == [None]
    assert members.names(str(tmp_path), [known[0] | {"uri": "y.tar"}, *known]) == [None, "Ann/1.jpg"]
    os.utime(tmp_path / "x.tar", ns=(0, 1))
    assert members.names(str(tmp_path), known) == [None]
    (tmp_path / "x.tar").unlink()
    (tmp_path / "x.tar").mkdir()
    assert members.names(str(tmp_path), known) == [None]
