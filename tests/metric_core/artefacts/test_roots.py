"""Where a catalogue's rows may point: what is compared before anything is opened, and what a list adds."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from metric_core.artefacts import manifest, roots
from metric_core.artefacts.faces import Faces
from metric_core.artefacts.roots import Elsewhere, Root
from metric_core.errors import ImageUnreadable
from metric_core.sources.fetching import fetch_many


@pytest.mark.parametrize(
    ("root", "further", "uri", "inside"),
    [
        ("/data", (), "a/1.jpg", True),
        ("/data", (), "a/../1.jpg", True),
        ("/data", (), "/data/1.jpg", True),
        ("/data", (), "file:///data/1.jpg", True),
        ("/data", (), "a::b.jpg", True),
        ("/data/", (), "1.jpg", True),
        ("/", (), "/etc/passwd", True),
        ("/data", (), "../1.jpg", False),
        ("/data", (), "a/../../1.jpg", False),
        ("/data", (), "/data2/1.jpg", False),
        ("/data", (), "/etc/passwd", False),
        ("/data", (), "//etc/passwd", False),
        ("/data", (), "file:///etc/passwd", False),
        ("/data", (), "file:///data/../etc/passwd", False),
        ("/data", (), "http://169.254.169.254/latest", False),
        ("/data", (), "s3://bucket/1.jpg", False),
        ("/data", (), "a\0b.jpg", False),
        ("/data", ("/more",), "/more/1.jpg", True),
        ("/data", ("/more",), "../more/1.jpg", True),
        ("/data", ("/more",), "/moreover/1.jpg", False),
        ("/data", ("https://host",), "https://host/1.jpg", True),
        ("/data", ("https://host",), "http://host/1.jpg", False),
        ("/data", ("https://host",), "https://host.evil/1.jpg", False),
        ("/data", ("https://host",), "https://host@evil/1.jpg", False),
        ("/data", ("https://host",), "https://host/../evil/1.jpg", False),
        ("/data", ("https://host",), "https://host/a::https://evil/b", False),
        ("s3://bucket/faces", (), "a/1.jpg", True),
        ("s3://bucket/faces", (), "../other/1.jpg", False),
        ("s3://bucket/faces", (), "/etc/passwd", False),
        ("s3://bucket/faces", (), "a::http://evil/1.jpg", False),
    ],
)
def test_what_is_below(root: str, further: tuple[str, ...], uri: str, inside: bool) -> None:
    found = roots.address(pickle.loads(pickle.dumps(Root(root, further))), uri)
    assert (found is not None) == inside


@pytest.mark.parametrize("uri", ["/etc/passwd", "../1.jpg", "http://host/1.jpg"])
def test_older_faces_and_sources_lead_anywhere(uri: str) -> None:
    for root in ("/data", Root("/data", None)):
        assert roots.address(root, uri) == roots.storage.resolve("/data", uri)


def collected(root: str, *uris: str) -> list[str]:
    elsewhere = Elsewhere(root)
    (table,) = elsewhere.over([pa.table({"uri": list(uris)})])
    assert table["uri"].to_pylist() == list(uris)
    return elsewhere.roots


def test_what_a_list_leads_to() -> None:
    assert collected("/d", "a/1.jpg", "a..b/2.jpg", "/d/3.jpg", "a/../4.jpg") == []
    assert collected("/d", "/e/f/1.jpg", "/e/f/2.jpg", "/e/f/g/3.jpg", "../h/4.jpg") == ["/e/f", "/h"]
    assert collected("/d", "https://host:8/a/1.jpg", "s3://bucket/b/2.jpg") == ["https://host:8", "s3://bucket"]


def test_many_folders_are_their_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    people = [f"/e/f/p{n}/1.jpg" for n in range(roots.MOST + 1)]
    assert collected("/d", *people[:-1]) == sorted(path.removesuffix("/1.jpg") for path in people[:-1])
    assert collected("/d", *people, "/g/1.jpg") == ["/e/f", "/g"]
    assert len(collected("/d", *(f"/p{n}/1.jpg" for n in range(200)))) == 200, "the root of everything is none"


def test_faces_know_their_roots(tmp_path: Path) -> None:
    content = {"root": "/data", "namespace": "n", "parts": [], "rows": 0, "splits": {}, "salts": {}}
    for name, more, further in (("a", {}, ()), ("b", {"roots": ["/more"]}, ("/more",))):
        manifest.write(str(tmp_path / name), "faces", content | more, {})
        assert Faces.open(str(tmp_path / name)).root.further == further
    path = tmp_path / "a" / manifest.NAME
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    assert Faces.open(str(tmp_path / "a")).root.further is None


def test_a_row_that_points_out_is_a_reject_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_bytes(b"one")
    (tmp_path / "2.jpg").write_bytes(b"two")
    locator = {"offset": None, "length": None, "row_group": None, "row": None, "column": None, "content_tag": "t"}
    uris = ["../2.jpg", "1.jpg", "http://nowhere.invalid/3.jpg", "x\0y.jpg"]
    rows = [{"kind": kind, "uri": uri, **locator} for kind in ("file", "tar") for uri in uris]
    del rows[5]  # a tar, which has no such tag
    answers = fetch_many(Root(str(tmp_path / "in")), rows)
    assert answers[1] == b"one"
    for answer in answers[:1] + answers[2:]:
        assert isinstance(answer, ImageUnreadable)
        assert str(answer).startswith("outside: ")
