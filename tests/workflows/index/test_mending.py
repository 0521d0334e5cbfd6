"""Whatever of a finished index is damaged, the same command writes that again, to the same digest."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support import indexed
from support.indexed import Built

from metric_core.artefacts import manifest
from metric_core.artefacts.manifest import Manifest
from metric_core.errors import Corrupt, IndexBuildError
from metric_core.index import choose
from metric_core.index.search import Index
from workflows import cli
from workflows.index import check, job
from workflows.index.config import CheckConfig

Damage = Callable[[Path], object]


def flipped(path: Path) -> None:
    """One byte in the middle is another one; the size is the same."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def edited(path: Path) -> None:
    """Valid JSON that says something else."""
    text = re.sub(r'("rows": ?)(\d+)', r"\g<1>1\2", path.read_text())
    text = re.sub(r'("seed": ?)(\d+)', r"\g<1>1\2", text)
    text = re.sub(r'("memory": ?)(\d+)', r"\g<1>1\2", text)
    assert text != path.read_text()
    path.write_text(text)


SHARD = [(f"shards/*.{ending}", how) for ending in ("faiss", "rows", "vectors") for how in (flipped, Path.unlink)]
OWN = [
    *((f"files/*.{name}", flipped) for name in ("template.faiss", "names.arrow", "codes.npy", "truth.arrow")),
    *((f"files/*.{name}", Path.unlink) for name in ("template.faiss", "names.arrow", "truth.arrow", "probes.arrow")),
    ("files/*.probes.arrow", flipped),
    ("versions/*/choice.json", flipped),
    ("versions/*/choice.json", cut),
    ("versions/*/choice.json", edited),
    ("versions/*/shard-*.json", flipped),
    ("versions/*/shard-*.json", Path.unlink),
    ("versions/*/shard-*.json", edited),
    ("versions/*/shard-*.arrow", flipped),
    ("versions/*/shard-*.arrow", emptied),
]
HEAD = [
    ("versions/*/manifest.json", flipped),
    ("versions/*/manifest.json", cut),
    ("versions/*/manifest.json", emptied),
    ("versions/*/manifest.json", edited),
    ("versions/*/plan.json", flipped),
    ("versions/*/plan.json", Path.unlink),
    ("versions/*/plan.json", edited),
]


def damaged(built: Built, pattern: str, how: Damage) -> str:
    """Damage one file; returns its name in the index's folder."""
    path = sorted(built.out.glob(pattern))[1 if "shard" in pattern else 0]
    how(path)
    return str(path.relative_to(built.out))


def train_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another processor does, or other versions of FAISS and NumPy."""
    honest = choose.choose
    monkeypatch.setattr(choose, "choose", lambda wanted, sample, seed: honest(wanted, sample, seed + 1))


def checked(built: Built, **more: bool) -> list[str]:
    """What ``likeness index check`` says."""
    try:
        check.run(CheckConfig(index=str(built.out), **more))
    except Corrupt as error:
        return str(error).splitlines()
    return []


def mended(built: Built, whole: Built, capsys: pytest.CaptureFixture[str]) -> tuple[set[str], list[str]]:
    """Run the same command; returns which files it wrote, and what it said before it built anything."""
    before = indexed.times(built.out)
    capsys.readouterr()
    job.run(built.options())
    after = indexed.times(built.out)
    assert built.digest == whole.digest
    assert not checked(built)
    expected, found = indexed.contents(whole.out), indexed.contents(built.out)
    differ = {name for name in expected if found[name] != expected[name]}
    assert differ <= {f"versions/{built.version.name}/manifest.json"}, "its provenance has times"
    assert (before.keys() | after.keys()) - {"CURRENT.lock"} == expected.keys()
    said = capsys.readouterr().err.splitlines()
    return {name for name in after if after[name] != before.get(name)}, said


def test_a_whole_index_passes_the_check(whole: Built) -> None:
    answer = check.run(CheckConfig(index=str(whole.out), verify=True))
    assert (answer["rows"], answer["people"], answer["shards"], answer["format"]) == (800, 160, 3, 3)
    assert (answer["files"], answer["looked_up"]) == (5 + 9, 256 + 256 + 200)
    assert answer["identity_recall"] >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "how"), SHARD + OWN, ids=lambda value: getattr(value, "__name__", value))
def test_a_damaged_file_is_named_and_only_it_is_written_again(
    built: Built, whole: Built, pattern: str, how: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    name = damaged(built, pattern, how)
    about = str(built.out / name).replace(".arrow", "") if "/shard-" in name else str(built.out / name)
    number = re.search(r"shard-00(\d)", name)
    told = [line for line in checked(built) if about in line or (number and f"shard {number[1]}:" in line)]
    assert told, checked(built)
    written, said = mended(built, whole, capsys)
    assert written == {name}
    assert set(told) <= set(said), "the damage is said before the version is called live"
    assert not [line for line in said if "built already" in line]


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "how"), HEAD, ids=lambda value: getattr(value, "__name__", value))
def test_a_damaged_manifest_or_plan_is_named_and_written_again(
    built: Built, whole: Built, pattern: str, how: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    name = damaged(built, pattern, how)
    assert any(str(built.out / name) in line for line in checked(built))
    written, said = mended(built, whole, capsys)
    assert written == {name}
    assert any(str(built.out / name) in line and line.endswith("it is written again") for line in said)


def test_everything_at_once(built: Built, whole: Built, capsys: pytest.CaptureFixture[str]) -> None:
    some = [*SHARD[::2], *OWN[:4], OWN[9], OWN[12], OWN[15], HEAD[4]]
    names = {damaged(built, pattern, how) for pattern, how in some}
    lines = checked(built)
    for name in names - {name for name in names if "/shard-" in name}:
        assert any(str(built.out / name) in line for line in lines), name
    assert mended(built, whole, capsys)[0] == names


def test_a_current_that_names_nothing_is_put_right(
    built: Built, whole: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    (built.out / "CURRENT").write_text("0123456789abcdef\n")
    assert ["names version '0123456789abcdef', which is not there" in line for line in checked(built)] == [True]
    written, _ = mended(built, whole, capsys)
    assert written - {"CURRENT.lock"} == {"CURRENT"}


def test_the_check_exits_with_1(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    name = damaged(built, "shards/*.rows", flipped)
    assert cli.main(["index", "check", "--index", str(built.out)]) == 1
    assert "likeness index check: shard " in (said := capsys.readouterr().err)
    assert str(built.out / name) in said


def test_every_damage_has_its_own_line(built: Built) -> None:
    names = [damaged(built, pattern, how) for pattern, how in SHARD[::2]]
    lines = checked(built)
    assert len(lines) == len(names)
    assert all(any(str(built.out / name) in line for line in lines) for name in names)
    assert all("build it again" in line or "start the job that built the index again" in line for line in lines)


def test_a_damaged_index_does_not_answer(built: Built) -> None:
    damaged(built, "shards/*.rows", flipped)
    with pytest.raises(Corrupt, match=r"\.rows"):
        Index.open(str(built.out))


def test_a_shard_cannot_be_mended_when_its_part_has_changed(built: Built) -> None:
    live, digest = (built.out / "CURRENT").read_text(), built.digest
    name = damaged(built, "shards/*.vectors", flipped)
    before = indexed.contents(built.out)
    parts = sorted(Path(built.embeddings).glob("part-*.parquet"))
    for path in parts:
        flipped(path)
    with pytest.raises(Corrupt, match=r"embeddings/part-00000\d\.parquet"):
        job.run(built.options())
    assert (built.out / "CURRENT").read_text() == live
    assert built.digest == digest
    assert indexed.contents(built.out) == before
    assert any(name in line for line in checked(built))


def test_embeddings_that_changed_make_another_version_and_the_live_one_stays_until_it_is_whole(built: Built) -> None:
    live = (built.out / "CURRENT").read_text()
    flipped(sorted(Path(built.embeddings).glob("part-*.parquet"))[3])
    with pytest.raises(Corrupt, match=r"part-000003\.parquet"):
        job.run(built.options(seed=1))
    assert (built.out / "CURRENT").read_text() == live
    assert not checked(built)
    assert len([path for path in (built.out / "versions").iterdir() if (path / manifest.NAME).exists()]) == 1


def test_another_result_than_the_manifest_describes_is_refused(built: Built, whole: Built) -> None:
    path = built.version / manifest.NAME
    body = json.loads(path.read_text())
    body["content"]["shards"][1]["digest"] = "0" * 32
    body["digest"] = Manifest.of("", "index", body["content"], {}).digest
    path.write_text(json.dumps(body))
    before = indexed.contents(built.out)
    with pytest.raises(IndexBuildError, match=r"differs from what its manifest describes.*another --seed"):
        job.run(built.options())
    assert indexed.contents(built.out) == before


def test_a_template_that_is_trained_to_another_one_replaces_nothing(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version still answers."""
    damaged(built, "versions/*/choice.json", flipped)
    before = indexed.contents(built.out)
    train_otherwise(monkeypatch)
    with pytest.raises(IndexBuildError, match=r"differs from what its manifest describes.*another --seed"):
        job.run(built.options())
    assert indexed.contents(built.out) == before
    assert Index.open(str(built.out)).rows == 800


def test_shards_of_another_template_are_built_again(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that was interrupted is continued where its template is trained to another one."""
    for name in (manifest.NAME, "choice.json"):
        (built.version / name).unlink()
    train_otherwise(monkeypatch)
    job.run(built.options())
    assert not checked(built)
