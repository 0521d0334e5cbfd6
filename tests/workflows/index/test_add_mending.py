"""Adding that was interrupted continues; a damaged version is mended by the command that made it, and what it was added
to by its own."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import indexed
from support.indexed import Built

from metric_core.artefacts import manifest
from metric_core.errors import Corrupt, IndexBuildError, JobRunning
from metric_core.index import drift, masks
from metric_core.index.search import Index
from metric_core.index.store import IndexStore
from metric_core.index.version import Version
from workflows import cli
from workflows.index import add, check, job
from workflows.index.changes import Change
from workflows.index.config import AddConfig, CheckConfig
from workflows.shared import lease

FILES = 10
"""That adding the delta writes, the manifest apart."""


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def second(out: Path) -> str:
    """A delta that has new, changed and gone faces."""
    return indexed.crowd(out, 20, first=700, since=[{"plan_id": "embeddings"}])


@pytest.fixture(scope="session")
def grown(whole: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, str]:
    """An index that was added to, and the delta; to be copied."""
    root = tmp_path_factory.mktemp("grown")
    shutil.copytree(Path(whole.embeddings).parent, root / "copy")
    built = Built(str(root / "copy" / "embeddings"), root / "copy" / "index")
    given = second(root / "copy" / "delta")
    add.run(AddConfig(index=str(built.out), embeddings=given))
    return built, given


@pytest.fixture
def copy(grown: tuple[Built, str], tmp_path: Path) -> tuple[Path, AddConfig]:
    root = Path(shutil.copytree(grown[0].out.parent, tmp_path / "copy"))
    return root / "index", AddConfig(index=str(root / "index"), embeddings=str(root / "delta"))


def versions_of(index: Path) -> tuple[Version, Version]:
    """The base and the version that was added, which is live."""
    live = IndexStore(str(index)).current()
    base = live.content().base
    assert base is not None
    return Version(str(index), base["version"]), live


def digest(index: Path) -> str:
    return versions_of(index)[1].manifest().digest


def own_files(index: Path) -> list[Path]:
    """What the addition wrote, in this order, without the end."""
    base, live = versions_of(index)
    before, content = base.sizes(), live.content()
    shared = [Path(name) for name in live.sizes() if name not in before]
    shards = sorted(path for path in shared if path.parent.name == "shards")
    folder = Path(live.uri)
    masks = [Path(live.mask(content, mask)) for mask in content.masks]
    others = sorted(path for path in shared if path.parent.name == "files")
    assert len(shards) == 3
    built = [folder / "shard-003.arrow", folder / "shard-003.json", folder / "choice.json"]
    found = [folder / "plan.json", *shards, *built, *others, *masks]
    assert len(found) == FILES
    return found


def test_the_files_are_those_of_its_page(copy: tuple[Path, AddConfig]) -> None:
    index, _ = copy
    base, live = versions_of(index)
    ours = {*own_files(index), Path(live.uri) / manifest.NAME}
    assert {path.name for path in Path(live.uri).iterdir()} == {
        path.name for path in ours if path.parent == Path(live.uri)
    }
    theirs = {Path(name) for name in base.sizes()}
    everything = {path for path in index.rglob("[!.]*") if path.is_file() and base.id not in str(path)}
    live_ones = {index / name for name in ("CURRENT", "CURRENT.lock", "HISTORY", "HISTORY.lock")}
    assert everything - live_ones == ours | {p for p in theirs if base.id not in str(p)}


@pytest.mark.slow
@pytest.mark.parametrize("written", range(0, FILES + 1, 2))
def test_after_any_interruption_the_rest_is_written_and_the_digest_is_equal(
    copy: tuple[Path, AddConfig], grown: tuple[Built, str], written: int
) -> None:
    index, config = copy
    base, live = versions_of(index)
    files = own_files(index)
    (Path(live.uri) / manifest.NAME).unlink()
    for path in files[written:]:
        path.unlink()
    (index / "CURRENT").write_text(f"{base.id}\n")
    before = indexed.times(index)
    found = add.run(config)
    assert found["version"] == live.id
    assert digest(index) == digest(grown[0].out)
    after = indexed.times(index)
    assert indexed.lasting(before).items() <= after.items(), "what was written is kept"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(FILES))
@pytest.mark.parametrize("how", [flipped, Path.unlink])
def test_a_damaged_file_of_its_own_is_mended(
    copy: tuple[Path, AddConfig], grown: tuple[Built, str], number: int, how: Callable[[Path], object]
) -> None:
    index, config = copy
    path = own_files(index)[number]
    how(path)
    with pytest.raises(Corrupt):
        check.run(CheckConfig(index=str(index)))
    before = indexed.times(index)
    add.run(config)
    assert digest(index) == digest(grown[0].out)
    after = indexed.times(index)
    assert {name for name in after if after[name] != before.get(name)} == {str(path.relative_to(index))}
    check.run(CheckConfig(index=str(index), verify=True))


def test_a_damaged_manifest_is_written_again(copy: tuple[Path, AddConfig], grown: tuple[Built, str]) -> None:
    index, config = copy
    base, live = versions_of(index)
    flipped(Path(live.uri) / manifest.NAME)
    (index / "CURRENT").write_text(f"{base.id}\n")
    add.run(config)
    assert digest(index) == digest(grown[0].out)


@pytest.mark.parametrize("ending", ["faiss", "rows", "template.faiss", "truth.arrow", "plan.json"])
def test_what_it_was_added_to_is_mended_by_its_own_command(
    copy: tuple[Path, AddConfig], ending: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index, config = copy
    base, live = versions_of(index)
    paths = [Path(name) for name in base.sizes()] + [Path(base.uri) / "plan.json"]
    flipped(next(path for path in paths if path.name.endswith(ending)))
    flipped(own_files(index)[1])
    before = indexed.times(index)
    assert cli.main(["index", "add", "--index", config.index, "--embeddings", config.embeddings]) == 1
    said = capsys.readouterr().err
    assert re.search(
        f"version {base.id} of .* is damaged; run the command that built it again, with --no-publish", said
    )
    assert indexed.times(index) == before
    rebuilt = indexed.options(str(index.parent / "embeddings"), index, publish=False)
    job.run(rebuilt)
    assert add.run(config)["version"] == live.id
    check.run(CheckConfig(index=str(index), verify=True))


def test_a_damaged_base_is_noticed_before_the_version_is_finished(copy: tuple[Path, AddConfig]) -> None:
    index, config = copy
    base, live = versions_of(index)
    (index / "CURRENT").write_text(f"{base.id}\n")
    shutil.rmtree(live.uri)
    flipped(next(Path(name) for name in base.sizes() if name.endswith(".vectors")))
    with pytest.raises(Corrupt, match=r"\.vectors: its sha256"):
        add.run(config)
    assert not live.finished
    assert (index / "CURRENT").read_text().strip() == base.id


def test_the_version_outlives_the_one_that_it_was_added_to(copy: tuple[Path, AddConfig]) -> None:
    """Whose folder may be removed when there are too many."""
    index, config = copy
    base, live = versions_of(index)
    shutil.rmtree(base.uri)
    check.run(CheckConfig(index=str(index), verify=True))
    assert add.run(config)["version"] == live.id
    more = indexed.crowd(index.parent / "more", 2, first=3000, since=[{"plan_id": "delta"}])
    assert add.run(AddConfig(index=str(index), embeddings=more))["base"] == live.id


def test_another_result_than_the_manifest_describes_is_refused(
    copy: tuple[Path, AddConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, config = copy
    _, live = versions_of(index)
    (Path(live.uri) / "shard-003.json").unlink()
    monkeypatch.setattr(drift, "row_similarity", lambda shards: 0.5)
    with pytest.raises(IndexBuildError, match="differs from what its manifest describes"):
        add.run(config)


def test_an_index_that_another_run_writes(copy: tuple[Path, AddConfig]) -> None:
    index, config = copy
    more = indexed.crowd(index.parent / "more", 2, first=3000, since=[{"plan_id": "delta"}])
    with lease.held(str(index)), pytest.raises(JobRunning, match="is being written by process"):
        add.run(AddConfig(index=str(index), embeddings=more))
    assert (
        add.run(config)["rows"]
        == json.loads((Path(versions_of(index)[1].uri) / manifest.NAME).read_text())["content"]["rows"]
    )


def test_a_version_that_another_run_publishes_meanwhile_is_not_undone(
    copy: tuple[Path, AddConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, _ = copy
    base, _ = versions_of(index)
    more = indexed.crowd(index.parent / "more", 2, first=3000, since=[{"plan_id": "delta"}])
    honest = add.decide

    def slowly(*given: Any) -> Change:
        found = honest(*given)
        (index / "CURRENT").write_text(f"{base.id}\n")
        return found

    monkeypatch.setattr(add, "decide", slowly)
    with pytest.raises(JobRunning, match=f"another run published version {base.id} of .*; start again"):
        add.run(AddConfig(index=str(index), embeddings=more))
    assert (index / "CURRENT").read_text().strip() == base.id


def older(index: Path) -> Version:
    """Give the live version the layout of format 2, whose files lie in its own folder, with a face that is hidden."""
    live = IndexStore(str(index)).current()
    stored = live.manifest()
    content = live.content()
    mask = masks.store(live, np.array([5]), "erased", 3)
    Path(live.mask(content, mask)).rename(Path(live.uri) / "mask-000.parquet")
    for name in content.files:
        Path(live.place(content, name)).rename(Path(live.uri) / name)
    mask = {"name": "mask-000.parquet", "rows": 1, "sha256": mask["sha256"], "why": "erased"}
    changed = asdict(replace(content, shared=False, masks=[mask], rows=content.rows - 1))
    new = manifest.Manifest.of(live.uri, "index", changed, stored.provenance)
    (Path(live.uri) / manifest.NAME).write_bytes(manifest.body(new))
    (index / "files").rmdir()
    return live


def test_files_of_an_older_layout_are_copied(built: Built) -> None:
    live = older(built.out)
    before = indexed.times(built.out)
    found = add.run(AddConfig(index=str(built.out), embeddings=second(built.out.parent / "delta")))
    assert (found["rows"], found["added"], found["replaced"]) == (799, 100, 100)
    assert indexed.lasting(before).items() <= indexed.times(built.out).items()
    shutil.rmtree(live.uri)
    check.run(CheckConfig(index=str(built.out), verify=True))
    index = Index.open(str(built.out))
    assert index.left == 799
    assert not (index.search(index.shards[0].vectors_at(np.arange(50)), 800, nprobe=4).face_id_QK == 5).any()
