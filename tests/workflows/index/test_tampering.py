"""An index that is not what was written is refused; ``test_mending`` has how it is mended. Likewise Matches."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import indexed, tampering
from support.indexed import Built

from metric_core.artefacts import manifest
from metric_core.errors import ArtefactError, Corrupt, Missing
from metric_core.index import history
from metric_core.index.history import HISTORY
from metric_core.index.search import Index
from metric_core.index.store import CURRENT, IndexStore
from metric_core.index.version import Version
from workflows.index import job
from workflows.search import job as search
from workflows.search.config import SearchConfig

SHARED = tuple(rf"shards/[0-9a-f]{{32}}\.{ending}" for ending in ("faiss", "rows", "vectors"))
OPENED = (r"files/\w+\.names\.arrow", r"files/\w+\.codes\.npy", r"versions/[^/]+/manifest\.json")
OTHERS = (
    *(rf"files/\w+\.{name}" for name in (r"template\.faiss", r"probes\.arrow", r"truth\.arrow")),
    *(rf"versions/[^/]+/{name}" for name in (r"plan\.json", r"choice\.json", r"shard-\d+\.json", r"shard-\d+\.arrow")),
)
MATCHES = (r"matches\.parquet", r"manifest\.json", r"plan\.json")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """An index of other people."""
    root = tmp_path_factory.mktemp("other")
    out = root / "index"
    job.run(indexed.options(indexed.crowd(root / "embeddings", 150, first=100_000), out))
    return out


def check(built: Built) -> list[str]:
    return ["index", "check", "--index", str(built.out)]


def test_every_kind_of_file_has_a_case(whole: Built) -> None:
    tampering.require_every_kind(whole.out, [CURRENT, HISTORY, *SHARED, *OPENED, *OTHERS])


@pytest.mark.parametrize(("pattern", "way"), tampering.cells([*SHARED, *OPENED, *OTHERS]))
def test_an_index_is_refused(
    built: Built, other: Path, pattern: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its check; and neither opened nor published if the file is one that searching uses."""
    store = IndexStore(str(built.out))
    live = store.current()
    name = tampering.damage(built.out, pattern, way, other)
    line = tampering.refused(check(built), capsys, listing=True)
    assert line
    assert str(built.out) in line
    if pattern in SHARED + OPENED or way == "linked":
        assert tampering.outcome(lambda: Index.open(str(built.out)), ArtefactError)
    (built.out / CURRENT).unlink()
    published = tampering.outcome(lambda: store.publish(live), ArtefactError)
    of_building = re.search(r"(plan|choice)\.json$|shard-\d+\.(json|arrow)$", name)  # nobody who searches reads them
    assert (published is None) == (of_building is not None and way != "linked")
    assert (built.out / CURRENT).exists() == (published is None)


@pytest.mark.parametrize("way", tampering.WAYS)
def test_what_names_the_live_version(built: Built, other: Path, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Is refused, and mended by whoever publishes."""
    store = IndexStore(str(built.out))
    live = store.current()
    tampering.damage(built.out, CURRENT, way, other)
    assert tampering.refused(check(built), capsys)
    if way != "linked":
        store.publish(live)
        assert store.current() == live


@pytest.mark.parametrize("way", tampering.WAYS)
def test_what_was_live_before(built: Built, other: Path, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Is no part of a version: nothing that is not there is gone back to, and the next publication writes it anew."""
    store = IndexStore(str(built.out))
    live = store.current()
    tampering.damage(built.out, HISTORY, way, other)
    if way == "linked":
        assert tampering.refused(check(built), capsys)
        return
    with pytest.raises(Missing, match="no version was live before"):
        store.earlier()
    store.publish(live)
    assert history.read(store.uri)[-1].version == live.id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "../{id}",
        "./{id}",
        "{id}/",
        "../../elsewhere/versions/{id}",
        "/{id}",
        "{id}\n{id}",
        "{id} {id}",
        "{ID}",
        "\0",
        "\udcff",
        ".",
        "..",
        "s3://bucket/index",
    ],
)
def test_a_version_is_named_by_its_id_and_nothing_else(built: Built, tmp_path: Path, text: str) -> None:
    shutil.copytree(built.out, tmp_path / "elsewhere")
    name = text.format(id=built.version.name, ID=built.version.name.upper())
    (built.out / CURRENT).write_bytes(name.encode(errors="surrogateescape"))
    store = IndexStore(str(built.out))
    with pytest.raises(Corrupt, match="CURRENT names version"):
        store.current()
    with pytest.raises(Missing, match="has no version"):
        store.version(name)


def test_current_is_a_folder(built: Built) -> None:
    (built.out / CURRENT).unlink()
    (built.out / CURRENT / "x").mkdir(parents=True)
    with pytest.raises(Corrupt, match="CURRENT names version ''"):
        IndexStore(str(built.out)).current()


def test_publishing_looks_at_digests(built: Built) -> None:
    """A byte that changed, which leaves the size."""
    store = IndexStore(str(built.out))
    live = store.current()
    for number, pattern in enumerate((SHARED[1], OPENED[0], OTHERS[0])):
        copy = Built(built.embeddings, Path(shutil.copytree(built.out, built.out.parent / f"copy-{number}")))
        tampering.damage(copy.out, pattern, "flipped", copy.out)
        with pytest.raises(Corrupt):
            IndexStore(str(copy.out)).publish(Version(str(copy.out), live.id))


def test_provenance_only_needs_to_be_readable(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    path = built.version / manifest.NAME
    body = json.loads(path.read_text())
    for provenance in ({}, {"faces": 5, "finished": [], "measured": 3}):
        path.write_text(json.dumps(body | {"provenance": provenance}))
        assert tampering.refused(check(built), capsys) is None
        assert Index.open(str(built.out)).version.faces() is None
        assert job.run(built.options())["memory"] is None


@pytest.fixture(scope="module")
def found(whole: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matches, and others."""
    root = tmp_path_factory.mktemp("found")
    for name, top in (("mine", 2), ("theirs", 3)):
        search.run(SearchConfig(index=str(whole.out), embeddings=whole.embeddings, top=top, out=str(root / name)))
    return root


def test_every_kind_of_file_of_matches_has_a_case(found: Path) -> None:
    tampering.require_every_kind(found / "mine", MATCHES)


@pytest.mark.parametrize("older", [False, True], ids=["", "older"])
@pytest.mark.parametrize(("pattern", "way"), tampering.cells(MATCHES))
def test_matches_are_refused_or_written_again(
    whole: Built, found: Path, tmp_path: Path, pattern: str, way: str, older: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """``older``: whose manifest has no digest of the file, so that only what cannot be read is noticed."""
    out = Path(shutil.copytree(found / "mine", tmp_path / "mine"))
    if older:
        body = json.loads((out / manifest.NAME).read_text())
        del body["files"], body["files_digest"]
        (out / manifest.NAME).write_text(json.dumps(body, indent=1))
    expected = pq.read_table(out / "matches.parquet")
    tampering.damage(out, pattern, way, found / "theirs")
    command = ["search", "--index", str(whole.out), "--embeddings", whole.embeddings, "--top", "2", "--out", str(out)]
    line = tampering.refused([*command, "--json"], capsys)
    if line is None:
        if not (older and way == "flipped"):
            assert pq.read_table(out / "matches.parquet").equals(expected)
        assert manifest.read(str(out), "matches").digest == manifest.read(str(found / "mine"), "matches").digest
    else:
        assert str(out) in line
        assert pattern != MATCHES[0] or way == "linked"


def test_a_row_of_matches_that_was_edited(whole: Built, found: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(found / "mine", tmp_path / "mine"))
    path = out / "matches.parquet"
    table = pq.read_table(path)
    names = pa.array(["zoe", *table["identity"].to_pylist()[1:]])
    pq.write_table(table.set_column(2, table.schema.field(2), names), path)
    search.run(SearchConfig(index=str(whole.out), embeddings=whole.embeddings, top=2, out=str(out)))
    assert np.array_equal(pq.read_table(path)["identity"].to_numpy(), table["identity"].to_numpy())
