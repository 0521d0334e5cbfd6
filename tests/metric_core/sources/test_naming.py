"""Who a picture shows: one tree in every format gives the same people, or the same refusal."""

import os
import re
import socket
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.packed import scan
from support.shard_writers import write_tar

from metric_core.errors import ConfigError, DataError, LikenessError
from metric_core.sources import catalogue, ignored, naming
from metric_core.sources.found import Notes, Source

JSON = b'{"identity": "Zoe"}'
TREES: list[tuple[str, dict[str, bytes], int | None, dict[str, str] | str]] = [
    ("folders", {"x/A/1.jpg": b"", "B/2.jpg": b""}, None, {"x/A/1": "A", "B/2": "B"}),
    ("labels", {"t/1.jpg": b"", "t/2.jpg": b"", "t/1.cls": b"7", "t/2.CLS": b"8\n"}, None, {"t/1": "7", "t/2": "8"}),
    ("no folder", {"1.jpg": b"", "1.cls": b"7", "2.jpg": b"", "2.txt": b"Zoe\n"}, None, {"1": "7", "2": "Zoe"}),
    ("several dots",
        {"t/0.5.png": b"", "t/0.5.json": JSON, "t/0.7.png": b"", "t/0.7.cls": b"3"},
        None, {"t/0.5": "Zoe", "t/0.7": "3"}),
    ("dots in a name", {"A/J.K.1.jpg": b"", "A/J.K.2.jpg": b""}, None, {"A/J.K.1": "A", "A/J.K.2": "A"}),
    ("cls before json", {"t/1.jpg": b"", "t/1.json": JSON, "t/1.cls": b"7"}, None, {"t/1": "7"}),
    ("twins", {"t/1.jpg": b"", "t/1.png": b"", "t/1.cls": b"7"}, None, {"t/1": "7", "t/1.png": "7"}),
    ("captions",
        {"A/1.jpg": b"", "A/1.txt": b"smiling", "A/2.jpg": b"", "A/2.txt": b"\xff"},
        None, {"A/1": "A", "A/2": "A"}),
    ("no names in json", {"A/1.jpg": b"", "A/1.json": b'{"width": 9}'}, None, {"A/1": "A"}),
    ("level", {"I/1/left/a.jpg": b"", "I/2/left/a.jpg": b""}, 2, {"I/1/left/a": "1", "I/2/left/a": "2"}),
    ("level before labels", {"A/1.jpg": b"", "A/1.cls": b"7"}, 1, {"A/1": "A"}),
    ("two folders",
        {"I/1/left/a.jpg": b"", "I/2/left/a.jpg": b""},
        None, r"two folders named 'left' .* Pass --person-level 2"),
    ("two folders, level", {"x/A/a.jpg": b"", "y/A/a.jpg": b""}, 2, r"two folders named 'A' .* else rename one folder"),
    ("below a person",
        {"A/1.jpg": b"", "A/old/2.jpg": b""},
        None, r"in the folder A and in A/old below .* --person-level 1"),
    ("below, first", {"A/old/2.jpg": b"", "A/z.jpg": b""}, None, r"in the folder A and in A/old below it"),
    ("too flat", {"A/1.jpg": b""}, 2, r"A/1\.jpg lies in 1 folders, so none at --person-level 2"),
    ("half labelled",
        {"t/1.jpg": b"", "t/2.jpg": b"", "t/2.cls": b"8"},
        None, r"names the person of t/2\.jpg, but other"),
    ("half labelled, first",
        {"t/1.jpg": b"", "t/1.cls": b"8", "t/2.jpg": b""},
        None, r"names the person of t/1\.jpg, but other"),
    ("nobody", {"1.jpg": b""}, None, r"1 has no identity; expected 1\.cls, 1\.json .* not in a person's folder"),
    ("a caption, no folder", {"1.jpg": b"", "1.txt": b"a smiling woman"}, None, "1 has no identity"),
    ("empty in json",
        {"A/1.jpg": b"", "A/1.json": b'{"identity": " "}'},
        None, r"1\.json has the identity ' '; expected"),
    ("null in json",
        {"A/1.jpg": b"", "A/1.json": b'{"label": null}'},
        None, r"1\.json has the identity None; expected"),
    ("NaN in json", {"A/1.jpg": b"", "A/1.json": b'{"label": NaN}'}, None, r"1\.json has the identity nan; expected"),
    ("nested in json", {"A/1.jpg": b"", "A/1.json": b'{"label": {}}'}, None, r"1\.json has the identity {}; expected"),
    ("no json", {"A/1.jpg": b"", "A/1.json": b"[" * 99_999}, None, "a sidecar of A/1 is not text or not JSON"),
    ("half of a surrogate pair",
        {"A/1.jpg": b"", "A/1.json": b'{"identity": "a\\ud800b"}'},
        None, r"1\.json has the identity 'a\\ud800b'; expected"),
    ("NUL", {"A/1.jpg": b"", "A/1.cls": b"a\0b"}, None, r"1\.cls has the identity 'a\\x00b'; expected"),
]  # fmt: skip


def tree(root: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


@pytest.mark.parametrize("form", ["folder", "tar", "pictures first", "pictures last", "a tar per file"])
@pytest.mark.parametrize(("files", "level", "right"), [t[1:] for t in TREES], ids=[t[0] for t in TREES])
def test_a_folder_and_a_tar_agree(
    form: str, files: dict[str, bytes], level: int | None, right: dict[str, str] | str, tmp_path: Path
) -> None:
    """Wherever the members stand; in many tars if there are no sidecars, which stand in one tar with their picture."""
    source = tmp_path / "source"
    source.mkdir()
    by_ending = dict(sorted(files.items(), key=lambda f: not f[0].endswith(("jpg", "png"))))
    if form == "folder":
        tree(source, files)
    elif form == "a tar per file" and all(re.fullmatch(r"[^.]*[.]jpg", path) for path in files):
        for n, (path, data) in enumerate(files.items()):
            write_tar(source / f"{n}.tar", {path: data})
    else:
        backwards = dict(reversed(by_ending.items()))
        write_tar(source / "a.tar", {"pictures first": by_ending, "pictures last": backwards}.get(form, files))
    if isinstance(right, str):
        with pytest.raises(DataError, match=right) as refusal:
            noted(catalogue.scan(str(source), level))
        assert "\n" not in str(refusal.value)
    else:
        assert noted(catalogue.scan(str(source), level)) == right


def noted(source: Source) -> dict[str, str]:
    """{key: identity}, each shard with notes of its own that are put together, as when they are scanned in parallel."""
    found: dict[str, str] = {}
    for shard in source.shards:
        notes = Notes()
        faces = {face.key: face.identity for face in shard(notes)}
        source.notes.update(notes, source.root)
        assert not found.keys() & faces
        found |= faces
    return found


def test_landmarks_beside_a_picture_count_in_a_folder_too(tmp_path: Path) -> None:
    files = {"A/1.jpg": b"", "A/1.json": b'{"landmarks": [1,2,3,4,5,6,7,8,9,10]}'}
    write_tar(tmp_path / "x.tar", files)
    found = [scan(at) for at in (tmp_path / "x.tar", tree(tmp_path / "tree", files))]
    assert [face.landmarks for (face,) in found] == [tuple(map(float, range(1, 11)))] * 2
    tree(tmp_path / "tree", {"A/1.json": b'{"landmarks": [1]}'})
    with pytest.raises(DataError, match=r"A/1\.json: '\[1\]' are not landmarks"):
        scan(tmp_path / "tree")


def test_what_belongs_to_nobody_is_counted(tmp_path: Path) -> None:
    files = {"A/1.jpg": b"", "A/2.cls": b"x", "A/3.json": b"{", "A/1.face.json": b""}
    files |= {"A/n.txt": b"", "A/x.heic": b""}
    write_tar(tmp_path / "x.tar", files | {"A/1.mask.png": b""})
    sources = [catalogue.scan(str(at)) for at in (tmp_path / "x.tar", tree(tmp_path / "tree", files))]
    for source in sources:
        assert [(face.identity, face.key) for face in source.faces] == [("A", "A/1")]
    assert sources[0].ignored == sources[1].ignored | {".mask.png": 1}
    assert [ignored.line(*item) for item in sorted(sources[0].ignored.items())] == [
        "skipped 1 files ending in .cls: sidecars that belong to no picture",
        "skipped 1 files ending in .heic: HEIC, which is not read; convert the pictures to JPEG or PNG",
        "skipped 2 files ending in .json: sidecars that belong to no picture",
        "skipped 1 pictures ending in .mask.png: beside a face of the same name, as masks are",
        "skipped 1 files ending in .txt: not pictures",
    ]


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", {"A/1.jpg": b""})
    os.mkfifo(root / "A" / "2.jpg")
    (root / "A" / "3.cls").mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(root / "A" / "4.jpg"))
    source = catalogue.scan(str(root))
    assert [face.key for face in source.faces] == ["A/1"]
    assert source.ignored == {"(special)": 2}
    os.mkfifo(tmp_path / "x.csv")
    os.mkfifo(tmp_path / "x")
    for at in ("x.csv", "x"):
        with pytest.raises(DataError, match=f"{at} is a named pipe; a file was expected"):
            catalogue.scan(str(tmp_path / at))
    with pytest.raises(DataError, match="/dev/null is a device; a file was expected"):
        catalogue.scan("/dev/null")
    for path, what in (("A/2.jpg", "named pipe"), ("A", "folder"), ("A/4.jpg", "socket"), ("/dev/null", "device")):
        (root / "list.csv").write_text(f"path,identity\nA/1.jpg,A\n{path},A\n")
        with pytest.raises(DataError, match=f"row 2 has the path '{path}': .* is a {what}; a file was expected"):
            scan(root / "list.csv")


def test_identities_are_compared_in_one_form() -> None:
    decomposed = unicodedata.normalize("NFD", "José")
    assert naming.compared(decomposed) == naming.compared("José") == "José"
    assert naming.folded(decomposed) == naming.folded("JOSÉ") == naming.folded("josé")
    assert naming.compared("JOSÉ") != naming.compared("josé")


def test_identities_that_look_alike_are_noted(tmp_path: Path) -> None:
    names = ["José", "Ann", "ann", "Bob", "straße", "STRASSE", unicodedata.normalize("NFD", "José"), "Ann"]
    for number in range(len(names)):
        (tmp_path / f"{number}.jpg").touch()
    (tmp_path / "l.csv").write_text("path,identity\n" + "".join(f"{n}.jpg,{name}\n" for n, name in enumerate(names)))
    tables = [catalogue.to_table(found, "n") for found in (scan(tmp_path / "l.csv")[:5], scan(tmp_path / "l.csv")[5:])]
    notes = Notes()
    catalogue.write(str(tmp_path / "out"), tables, "n", notes)
    assert notes.alike == [("Ann", "ann"), ("straße", "STRASSE"), ("José", names[6])]


def test_a_level_is_for_folders(tmp_path: Path) -> None:
    tree(tmp_path, {"1.jpg": b""})
    (tmp_path / "l.csv").write_text("path,identity\n1.jpg,A\n")
    pq.write_table(pa.table({"image": [b"x"], "label": [1]}), tmp_path / "x.parquet")
    for name in ("l.csv", "x.parquet"):
        with pytest.raises(ConfigError, match=rf"person_level is 1, but .*{name} names people itself"):
            catalogue.scan(str(tmp_path / name), 1)


def test_endings_in_any_case_and_colons_in_a_folder(tmp_path: Path) -> None:
    root = tree(tmp_path / "a::b", {"A/1.JPG": b""})
    (root / "FACES.CSV").write_text("path,identity\nA/1.JPG,A\n")
    assert [face.key for face in scan(root / "FACES.CSV")] == ["A/1"]
    assert [face.key for face in scan(root)] == ["A/1"]
    write_tar(root / "A" / "X.TAR", {"A/1.jpg": b""})
    assert [face.key for face in scan(root / "A" / "X.TAR")] == ["A/1"]
    pq.write_table(pa.table({"image": [b"x"], "label": [1]}), root / "A" / "X.PARQUET")
    assert [face.identity for face in scan(root / "A" / "X.PARQUET")] == ["1"]


@pytest.mark.parametrize(
    ("address", "message"),
    [("gs://bucket/x", "gcsfs"), ("what://x", "Protocol not known"), ("abfs://x/y", "adlfs")],
)
def test_storage_that_is_not_installed(address: str, message: str) -> None:
    with pytest.raises(LikenessError, match=message) as refusal:
        catalogue.scan(address)
    assert refusal.value.exit_code == 2
