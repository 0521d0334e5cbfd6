"""Bad input to ``likeness index``: one clear line, before hours of work, and nothing is published."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import indexed, minted, small_disk
from support.drivers import PATIENCE
from support.indexed import Built

from metric_core.artefacts.collection import Collection
from metric_core.errors import ConfigError, Corrupt, FingerprintMismatch, JobRunning, LikenessError
from metric_core.index.corpus import Corpus
from metric_core.index.search import Index
from metric_core.index.store import IndexStore
from workflows import cli
from workflows.index import job
from workflows.index.build import Build
from workflows.index.config import IndexConfig
from workflows.shared import cluster, lease


def refused(config: IndexConfig, error: type[LikenessError], message: str, code: int) -> None:
    """The job ends with this error, and there is no version that could be taken for a whole one."""
    with pytest.raises(error, match=message) as caught:
        job.run(config)
    assert caught.value.exit_code == code
    assert not unpublished(Path(config.out))


def unpublished(out: Path) -> list[Path]:
    """What should not be there before an index is finished."""
    return [*out.glob("CURRENT"), *out.glob("versions/*/manifest.json"), *out.rglob("*.unfinished*")]


@pytest.fixture
def embeddings(tmp_path: Path, ray_session: None) -> Callable[..., str]:
    """Writes embeddings: ``crowd(folder)``."""
    return lambda name="embeddings", *args, **more: indexed.crowd(tmp_path / name, *args, **more)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"spec": "IVF40,PQ4x4fsr"},
            r"needs at least 1560 vectors to train its lists, got 800; ask for fewer lists or",
        ),
        ({"spec": "IVF4,PQ5x4fsr"}, r"M is 5, which does not divide 16 components; nearest valid M: 4 and 8"),
        (
            {"spec": None, "memory_budget": "1KB"},
            r"take at least .* more than the budget of 1000B; give --memory-budget",
        ),
        (
            {"spec": None, "disk_budget": "1KB"},
            r"take at least .* on disk .* more than the budget of 1000B; give --disk",
        ),
        ({"memory_budget": "1KB"}, r"take at least .*IVF4,PQ4x4fsr.* more than the budget of 1000B"),
        (
            {"spec": "IVF4,PQ2x4fsr", "target_recall": 0.999},
            r"no index within the budgets reaches .*; the best, IVF4,PQ2x",
        ),
    ],
    ids=["lists", "M", "memory", "disk", "memory-of-a-spec", "target"],
)
def test_of_options_that_no_index_meets(
    embeddings: Callable[..., str], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    config = indexed.options(embeddings(), tmp_path / "index", **options)
    refused(config, ConfigError, message, 2)
    assert not (tmp_path / "index" / "shards").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--spec", "IVF4,PQ8x4"], "spec is 'IVF4,PQ8x4'; expected Flat, .*; the nearest is 'IVF4,PQ8x4fsr'"),
        (["--spec", "HNSW32"], "spec is 'HNSW32'; expected Flat, .*; the nearest is '.*'"),
        (["--spec", "IVF0,SQ8"], "spec is 'IVF0,SQ8'; there must be 1 list or more"),
        (["--spec", "IVF4,RaBitQfs12"], "spec is 'IVF4,RaBitQfs12'; RaBitQ has 1 to 9 bits per component, not 12"),
        (
            ["--spec", "IVF4,SQ8", "--target-identity-recall", "1"],
            "target_identity_recall is 1 and spec is 'IVF4,SQ8', .*",
        ),
        (["--spec", "SQfp16", "--target-recall", "1"], "target_recall is 1 and spec is 'SQfp16', .*or --spec Flat.*"),
        (["--memory-budget", "much"], "memory_budget is 'much'; expected a size such as 4GiB or 500MB"),
        (["--disk-budget", "0"], "disk_budget is '0'; expected more than nothing"),
        (["--target-identity-recall", "0"], "target_identity_recall is 0.0; it must be above 0 and at most 1"),
        (["--shards", "0"], "shards is 0; it must be 1 or more"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_of_options_before_anything_is_opened(
    options: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["index", "--embeddings", "none", "--out", str(tmp_path / "index"), *options]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(f"likeness index: {line}", said), said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spec", ["Flat", "IVF4,Flat"])
def test_a_target_of_1_is_fine_for_vectors_that_are_kept(spec: str) -> None:
    assert IndexConfig(embeddings="e", out="o", spec=spec, target_identity_recall=1.0).spec == spec


def test_of_one_person(embeddings: Callable[..., str], tmp_path: Path) -> None:
    message = r"all of the 800 vectors .* are of one person, 'p0000', so there is nobody to tell apart"
    for number, spec in enumerate((None, indexed.SPEC)):
        source = embeddings(f"one-{number}", 1, 800)
        refused(indexed.options(source, tmp_path / "index", spec=spec), ConfigError, message, 2)


@pytest.mark.parametrize("spec", [None, indexed.SPEC])
def test_of_equal_vectors(tmp_path: Path, ray_session: None, spec: str | None) -> None:
    same_ND = np.repeat(minted.unit_vectors(1, indexed.DIM), 800, axis=0)
    source = minted.embeddings(tmp_path / "embeddings", range(800), same_ND, unit=100)
    message = r"all \d+ sampled vectors are equal, so they cannot be told apart; .* or give --spec Flat"
    refused(indexed.options(source, tmp_path / "index", spec=spec), ConfigError, message, 2)


def test_of_a_face_that_is_in_two_parts(tmp_path: Path, ray_session: None) -> None:
    ids = [*range(400), 7, *range(401, 800)]
    source = minted.embeddings(tmp_path / "embeddings", ids, minted.unit_vectors(800, indexed.DIM), unit=100)
    message = r"face_id 7 is in two rows, in .*part-000000\.parquet and .*part-000004\.parquet; embed again"
    refused(indexed.options(source, tmp_path / "index"), Corrupt, message, 1)


def test_of_two_artefacts_the_later_one_counts(embeddings: Callable[..., str], tmp_path: Path) -> None:
    first = embeddings("a")
    changed_ND = -Collection.open(first).load().embedding_ND[:100]
    second = minted.embeddings(tmp_path / "b", range(100), changed_ND, identities=["new"] * 100, unit=50)
    answer = job.run(indexed.options(f"{first},{second}", tmp_path / "index", spec="Flat"))
    assert (answer["rows"], answer["people"]) == (800, 141)
    near = Index.open(str(tmp_path / "index")).search(changed_ND, 1)
    assert near.face_id_QK[:, 0].tolist() == list(range(100))


def test_the_same_artefact_twice_is_read_once(embeddings: Callable[..., str], tmp_path: Path) -> None:
    source = embeddings()
    answer = job.run(indexed.options(f"{source},{source}", tmp_path / "index", spec="Flat"))
    assert answer["rows"] == 800


def test_of_another_dimension_or_model(embeddings: Callable[..., str], tmp_path: Path) -> None:
    first = embeddings("a")
    wide = minted.embeddings(tmp_path / "wide", range(900, 910), minted.unit_vectors(10, 8))
    other = embeddings("other", 10, first=1000, fingerprint="e" * 64)
    with pytest.raises(LikenessError, match=r"8|16") as caught:
        job.run(indexed.options(f"{first},{wide}", tmp_path / "index"))
    assert caught.value.exit_code in (1, 2)
    refused(indexed.options(f"{first},{other}", tmp_path / "index"), FingerprintMismatch, "model", 2)
    assert not (tmp_path / "index").exists()


def test_of_a_part_that_changed_between_sampling_and_adding(embeddings: Callable[..., str], tmp_path: Path) -> None:
    config = indexed.options(embeddings(), tmp_path / "index")
    version, _ = IndexStore(config.out).begin({})
    work = Build(config, Corpus.of(Collection.open(config.embeddings)), version)
    plan = work.plan()
    path = Path(config.embeddings, "part-000005.parquet")
    path.write_bytes(Path(config.embeddings, "part-000004.parquet").read_bytes())
    with pytest.raises(Corrupt, match=r"part-000005\.parquet.*sha256"):
        list(work.shards(plan))
    receipts = {path.name for path in Path(version.uri).glob("shard-*.json")}
    assert "shard-001.json" not in receipts, "the shard that has the part"
    assert not unpublished(Path(config.out))


def test_an_index_that_another_run_builds(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    before = indexed.contents(built.out)
    with lease.held(str(built.out)):
        with pytest.raises(JobRunning, match="is being written by process") as caught:
            job.run(built.options(seed=1))
        assert job.run(built.options())["rows"] == 800, "what is built already needs no lease"
    assert caught.value.exit_code == 1
    after = indexed.contents(built.out)
    assert before.items() <= after.items()


def test_an_empty_corpus(embeddings: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Corpus, "rows", 0)
    for dry_run in (False, True):
        config = indexed.options(embeddings(), tmp_path / "index", dry_run=dry_run)
        refused(config, ConfigError, "has no vectors to index; look at its quarantine", 2)
    assert not (tmp_path / "index").exists()


def test_of_a_task_that_no_node_has_the_memory_for(
    embeddings: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = cluster.require_memory
    monkeypatch.setattr(cluster, "require_memory", lambda need, remedy: honest(need + (1 << 50), remedy))
    message = r"a task needs 1048576\.\d GiB of memory, no node has over .*; give more --shards, or a node"
    refused(indexed.options(embeddings(), tmp_path / "index"), ConfigError, message, 2)


def test_what_is_not_an_index_is_left_alone(tmp_path: Path) -> None:
    """Found out before the embeddings are opened, which are not there, and Ray is started."""
    out = tmp_path / "index"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(LikenessError, match=r"holds notes\.txt and is no index; give --out an empty or a new folder"):
        job.run(indexed.options(str(tmp_path / "embeddings"), out))
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


SCRIPT = """
set -e
at=$1; shift
mkdir "$at/small"
mount -t tmpfs -o size=200k tmpfs "$at/small"
index() { code=0; "$@" --out "$at/small/index" 2> "$at/$when.txt" || code=$?; echo $code > "$at/$when.code"; }
when=full index "$@"
cp -a "$at/small/index" "$at/partly"
mount -o remount,size=20m "$at/small"
when=room index "$@"
cp -a "$at/small/index" "$at/index"
"""


@pytest.mark.slow
def test_a_full_disk_stops_the_job_and_room_continues_it(whole: Built, tmp_path: Path) -> None:
    small_disk.require(tmp_path)
    argv = indexed.command(whole.embeddings, "")
    argv = argv[: argv.index("--out")] + argv[argv.index("--out") + 2 :]
    small_disk.run(SCRIPT, tmp_path, argv, timeout=PATIENCE * 2)
    assert (tmp_path / "full.code").read_text() == "1\n"
    line = (tmp_path / "full.txt").read_text().splitlines()[-1]
    assert line.startswith(f"likeness index: {tmp_path}/small/index"), line
    assert "No space left on device" in line
    assert "no partial file is left; free some space and start again" in line
    partly = tmp_path / "partly"
    assert not unpublished(partly)
    assert (tmp_path / "room.code").read_text() == "0\n"
    done = indexed.contents(partly)
    assert len(done) > 3
    assert done.items() <= indexed.contents(tmp_path / "index").items(), "every file is complete"
    assert Built("", tmp_path / "index").digest == whole.digest
