"""Commands on the versions of an index: each is one step, and a worse version does not go live unseen."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support import indexed, minted

from metric_core.artefacts import tombstones
from metric_core.errors import ConfigError, Corrupt, GateStopped, JobRunning, LikenessError, Missing
from metric_core.index.search import Index
from metric_core.index.store import IndexStore
from workflows import cli
from workflows.index import diff, job, prune, publish, rollback, versions
from workflows.index.config import DiffConfig, PruneConfig, PublishConfig, RollbackConfig, VersionsConfig
from workflows.shared import lease


@pytest.fixture(scope="module")
def built(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """An index with two versions of the same people, the second of which is live, and one without a tenth of them."""
    root = tmp_path_factory.mktemp("life")
    out = str(root / "index")
    whole = indexed.crowd(root / "whole")
    made = [job.run(indexed.options(whole, out, seed=seed))["version"] for seed in (0, 1)]
    with pytest.raises(GateStopped):
        job.run(indexed.options(indexed.crowd(root / "fewer", 144), out))
    (third,) = {info.id for info in IndexStore(out).versions()} - set(made)
    return out, [*made, third]


@pytest.fixture
def index(built: tuple[str, list[str]], tmp_path: Path) -> tuple[str, list[str]]:
    """A copy that may be changed."""

    out, made = built
    return str(shutil.copytree(out, tmp_path / "index")), made


def listed(out: str) -> dict[str, str]:
    return {one["version"]: one["state"] for one in versions.run(VersionsConfig(index=out))["versions"]}


def test_a_version_without_a_tenth_of_the_people_is_built_and_not_live(
    index: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, (first, second, third) = index
    assert listed(out) == {first: "finished", second: "live", third: "finished"}
    assert cli.main(["index", "publish", "--index", out, "--version", third]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith(f"version {third} is worse than the live one (probes found, rows, people), which stays:")
    (people,) = [line for line in lines if " people " in line]
    assert people.partition(" people ")[2].split()[:3] == ["160", "144", "159.52"]
    assert "STOPS 16 are gone, p0144, p0145, p0146 …" in people
    assert f"likeness index publish --index {out} --version {third} --force" in lines[-1]
    assert IndexStore(out).current().id == second
    assert cli.main(["index", "publish", "--index", out, "--version", third, "--tolerance", "0.2"]) == 0
    assert IndexStore(out).current().id == third


def test_force_is_remembered(index: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    out, (_, second, third) = index
    answer = publish.run(PublishConfig(index=out, version=third, force=True))
    assert [one["name"] for one in answer["compared"] if one["stops"]] == ["probes found", "rows", "people"]
    assert "is live, by --force" in capsys.readouterr().err
    shown = versions.show(versions.run(VersionsConfig(index=out)))
    (line,) = [line for line in shown.splitlines() if third in line]
    assert line.endswith(", by --force")
    assert rollback.run(RollbackConfig(index=out))["version"] == second
    assert IndexStore(out).current().id == second


def test_going_back_and_forth(index: tuple[str, list[str]]) -> None:
    out, (first, second, third) = index
    assert rollback.run(RollbackConfig(index=out))["version"] == first
    with pytest.raises(Missing, match=f"no version was live before {first}; no other one is there"):
        rollback.run(RollbackConfig(index=out))
    publish.run(PublishConfig(index=out, version=second))
    with pytest.raises(Missing, match=f"version {third} was live before {second}; .*still there: {first}"):
        rollback.run(RollbackConfig(index=out, to=third))
    damaged = Path(next(iter(Index.open(out, first).version.sizes())))
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    with pytest.raises(Corrupt, match=str(damaged)):
        rollback.run(RollbackConfig(index=out))
    assert IndexStore(out).current().id == second


def test_probes_of_ones_own_choice(index: tuple[str, list[str]], tmp_path: Path) -> None:
    out, (_, _, third) = index
    own = indexed.crowd(tmp_path / "own", 160, 5)
    with pytest.raises(GateStopped, match=r"\(probes found, given probes found, rows, people\)"):
        publish.run(PublishConfig(index=out, version=third, probes=own))
    other = minted.embeddings(tmp_path / "other", [1], np.eye(1, indexed.DIM, dtype=np.float32), fingerprint="b" * 64)
    with pytest.raises(LikenessError, match="belongs to model bbbb"):
        publish.run(PublishConfig(index=out, version=third, probes=other))


def test_versions_that_are_not_there_or_unfinished(index: tuple[str, list[str]]) -> None:
    out, (first, second, _) = index
    Path(out, "versions", first, "manifest.json").unlink()
    for name, error in (("0" * 16, "does not exist"), (first, "has no manifest.json"), ("../../x", "has no version")):
        with pytest.raises(LikenessError, match=error):
            publish.run(PublishConfig(index=out, version=name))
    assert listed(out)[first] == "unfinished"
    assert IndexStore(out).current().id == second


def test_a_person_who_was_erased_does_not_come_back(index: tuple[str, list[str]], tmp_path: Path) -> None:
    out, (first, second, _) = index
    for name in (first, second):
        path = Path(out, "versions", name, "manifest.json")
        found = json.loads(path.read_text())
        found["provenance"]["faces"] = str(tmp_path / "faces")
        path.write_text(json.dumps(found))
    namespace = json.loads(path.read_text())["content"]["namespace"]
    tombstones.add(tombstones.beside(str(tmp_path / "faces")), namespace, identities=["p0007"], face_ids=[3])
    for refused in (
        lambda: rollback.run(RollbackConfig(index=out)),
        lambda: publish.run(PublishConfig(index=out, version=first)),
    ):
        with pytest.raises(ConfigError, match=f"version {first} holds 6 faces that were erased since it was built"):
            refused()
    assert IndexStore(out).current().id == second


def test_whose_answers_differ(index: tuple[str, list[str]]) -> None:
    out, (first, second, third) = index
    same = diff.run(DiffConfig(index=out, a=first, b=second))
    assert same["probes"] == 800
    assert same["differ"] == len(same["changes"]) <= 8
    found = diff.run(DiffConfig(index=out, b=third, top=5))
    assert (found["a"], found["b"]) == (second, third)
    assert found["right_a"] - found["right_b"] >= 75
    assert found["differ"] >= 75
    assert len(found["changes"]) == 5
    for one in found["changes"]:
        assert one["identity"] == one["a"] != one["b"]
        assert one["score_a"] > one["score_b"]
    text = diff.show(found).splitlines()
    assert text[0].startswith(f"{found['differ']} of 800 probes find another person first in {third} than in {second}")
    assert len(text) == 7


def test_pruning(index: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    out, (first, second, third) = index
    before = {path: path.stat().st_size for path in Path(out).rglob("*") if path.is_file()}
    dry = prune.run(PruneConfig(index=out, keep=1, dry_run=True))
    assert {path: path.stat().st_size for path in before} == before
    assert dry["removed"] == sorted({first, second, third} - {second, IndexStore(out).versions()[-1].id})
    done = prune.run(PruneConfig(index=out, keep=0))
    assert done["removed"] == sorted([first, third])
    left = {path: path.stat().st_size for path in Path(out).rglob("[!.]*") if path.is_file()}
    lost = sum(size for path, size in before.items() if path not in left and not path.name.startswith("."))
    assert done["bytes"] == lost > 0
    assert listed(out) == {second: "live"}
    assert Index.open(out, verify=True).rows == 800
    assert prune.show(done).startswith("removed 2 versions: ")
    assert prune.run(PruneConfig(index=out, keep=0))["removed"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing says what goes"),
        ({"older": "a week"}, "older is 'a week'; expected a number of days or hours, such as 30d or 12h"),
        ({"version": ["live"]}, "is the live one; publish another one first"),
        ({"version": ["0" * 16]}, f"version {'0' * 16} is not there"),
    ],
)
def test_pruning_refuses(index: tuple[str, list[str]], options: dict[str, object], message: str) -> None:
    out, (_, second, _) = index
    if options.get("version") == ["live"]:
        options = {"version": [second]}
    with pytest.raises(ConfigError, match=message):
        prune.run(PruneConfig(index=out, **options))  # type: ignore[arg-type]


def test_pruning_by_age_and_beside_a_build(index: tuple[str, list[str]]) -> None:
    out, (first, _, third) = index
    assert prune.run(PruneConfig(index=out, older="1h"))["removed"] == []
    path = Path(out, "versions", first, "manifest.json")
    found = json.loads(path.read_text())
    found["provenance"]["finished"] = "2026-01-01T00:00:00+00:00"
    path.write_text(json.dumps(found))
    with lease.held(out), pytest.raises(JobRunning):
        prune.run(PruneConfig(index=out, older="30d"))
    assert prune.run(PruneConfig(index=out, older="30d"))["removed"] == [first]
    Path(out, "versions", third, "manifest.json").unlink()
    assert prune.run(PruneConfig(index=out, keep=0))["removed"] == []
    assert prune.run(PruneConfig(index=out, unfinished=True))["removed"] == [third]


def test_a_damaged_live_version_is_replaced_without_a_comparison(
    index: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, (first, second, third) = index
    Path(out, "versions", second, "manifest.json").write_text("{}")
    publish.run(PublishConfig(index=out, version=third))
    assert f"the live version {second} is damaged, so the new one is not compared" in capsys.readouterr().err
    only = set(IndexStore(out).version(third).sizes()) - set(IndexStore(out).version(first).sizes())
    damaged = Path(next(path for path in sorted(only) if path.endswith(".rows")))
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    publish.run(PublishConfig(index=out, version=first))
    told = capsys.readouterr().err
    assert f"the live version {third} is damaged, so the new one is not compared with it" in told
    assert IndexStore(out).current().id == first
