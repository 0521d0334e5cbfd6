"""An index build on few embeddings, with inverted lists, which would not be chosen for so few rows."""

import json
import shutil
from pathlib import Path

import pytest
from support import indexed
from support.indexed import Built
from support.tiny import Chain

from metric_core.artefacts import manifest
from metric_core.artefacts.collection import Collection
from metric_core.errors import Unfinished
from metric_core.index.corpus import Corpus
from metric_core.index.search import Index
from metric_core.index.store import IndexStore
from metric_core.index.version import Version
from workflows.index import job
from workflows.index.build import Build

SHARDS = 3


def in_order_of_writing(built: Built) -> list[Path]:
    """The files of the index: what was decided, the shards one by one, what is made of all, the end."""
    content = json.loads((built.version / "manifest.json").read_bytes())["content"]
    shared = {name: built.out / "files" / f"{file['sha256'][:32]}.{name}" for name, file in content["files"].items()}
    files = [built.version / "plan.json", shared["template.faiss"], shared["probes.arrow"]]
    files.append(built.version / "choice.json")
    for number in range(SHARDS):
        receipt = built.version / f"shard-{number:03d}.json"
        digest = json.loads(receipt.read_bytes())["digest"]
        files += [built.out / "shards" / f"{digest}.{ending}" for ending in ("faiss", "rows", "vectors")]
        files += [receipt.with_suffix(".arrow"), receipt]
    files += [shared[name] for name in ("names.arrow", "codes.npy", "truth.arrow")]
    return [*files, built.version / "manifest.json", built.out / "CURRENT", built.out / "HISTORY"]


def test_the_steps_follow_one_another_and_each_continues(chain: Chain, tmp_path: Path) -> None:
    source = Collection.open(chain.embeddings)
    config = indexed.options(chain.embeddings, tmp_path, spec="IVF2,SQfp16", target_identity_recall=0.9)
    store = IndexStore(config.out)
    version, _ = store.begin({"seed": 0})
    work = Build(config, Corpus.of(source), version)
    plan = work.plan()
    assert sorted(work.shards(plan)) == sorted(sum(part.rows for part in run) for run in work.corpus.runs(3))
    with pytest.raises(Unfinished):
        store.publish(version)

    Path(version.uri, "shard-001.json").unlink()
    before = indexed.times(tmp_path)
    again = work.plan()
    assert (again.template, again.choice) == (plan.template, plan.choice)
    assert sum(work.shards(again)) == source.rows
    after = indexed.times(tmp_path)
    assert {name for name in after if after[name] != before.get(name)} == {f"versions/{version.id}/shard-001.json"}

    content = work.tune(work.content(plan))
    assert content.nprobe in (1, 2)
    assert content.recall["identity"] >= 0.9
    version.finish(content, {})
    store.publish(version)
    index = Index.open(store.uri)
    assert (index.version, index.rows, index.nlist, index.nprobe) == (version, source.rows, 2, content.nprobe)


def test_the_files_are_those_that_the_manifest_lists(whole: Built) -> None:
    assert set(map(str, in_order_of_writing(whole))) == {str(whole.out / name) for name in indexed.times(whole.out)}
    sizes = Version(str(whole.out), whole.version.name).sizes()
    assert set(sizes) < set(map(str, in_order_of_writing(whole)))
    assert all(Path(name).stat().st_size == size for name, size in sizes.items())


def test_the_same_command_again_is_built_already(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    before = indexed.times(built.out)
    answer = job.run(built.options())
    assert indexed.times(built.out) == before
    lines = capsys.readouterr().err.splitlines()
    assert f"version {answer['version']} is built already" in lines
    assert (answer["rows"], answer["people"], answer["shards"]) == (800, 160, SHARDS)


@pytest.mark.slow
@pytest.mark.parametrize("written", [0, 2, 3, 4, 6, 8, 9, 14, 20, 22, 23])
def test_after_any_interruption_the_rest_is_written_and_the_digest_is_equal(
    built: Built, whole: Built, written: int
) -> None:
    """``written``: the number of files that are there when the command is run again."""
    for path in in_order_of_writing(built)[written:]:
        path.unlink()
    before = indexed.times(built.out)
    job.run(built.options())
    after = indexed.times(built.out)
    assert before.items() <= after.items(), "what was written is kept"
    assert built.digest == whole.digest
    kept, expected = indexed.contents(built.out), indexed.contents(whole.out)
    assert kept.pop("HISTORY") == expected.pop("HISTORY") or written < 25, "it has the time"
    ours, theirs = (found.pop(f"versions/{whole.version.name}/manifest.json") for found in (kept, expected))
    assert kept == expected
    assert written < 23 or ours == theirs


def test_other_options_make_another_version_that_shares_equal_shards(built: Built) -> None:
    first, before = built.digest, indexed.times(built.out)
    answer = job.run(built.options(target_identity_recall=0.9, force=True))
    after = indexed.times(built.out)
    assert {name for name in after if name.startswith("shards/")} == {n for n in before if n.startswith("shards/")}
    switched = {"CURRENT", "HISTORY"}
    assert {name: before[name] for name in before.keys() - switched}.items() <= after.items()
    assert (built.out / "CURRENT").read_text().strip() == answer["version"]
    one, two = (manifest.read(str(path), "index") for path in sorted((built.out / "versions").iterdir()))
    assert first in (one.digest, two.digest)
    assert one.content["shards"] == two.content["shards"]


def test_the_number_of_shards_changes_no_answer(whole: Built, tmp_path: Path) -> None:
    job.run(indexed.options(whole.embeddings, tmp_path / "one", shards=1))
    one, three = (Index.open(str(uri)) for uri in (tmp_path / "one", whole.out))
    probe_QD = Collection.open(whole.embeddings).load().embedding_ND[::7].astype("float32")
    found = [index.search(probe_QD, 5, nprobe=4, depth=800) for index in (one, three)]
    assert (found[0].face_id_QK == found[1].face_id_QK).all()
    assert (found[0].score_QK == found[1].score_QK).all()


def test_a_dry_run_writes_nothing_and_does_not_need_ray(
    whole: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = job.run(indexed.options(whole.embeddings, tmp_path / "none", dry_run=True))
    assert not list(tmp_path.iterdir())
    assert (answer["spec"], answer["rows"], answer["shards"]) == (indexed.SPEC, 800, SHARDS)
    assert answer["task_memory"] > answer["bytes"] > 0
    assert "chosen" in capsys.readouterr().err


def test_a_picture_shows_the_recalls(built: Built, tmp_path: Path) -> None:
    job.run(built.options(picture=str(tmp_path / "curve.png")))
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_of_a_copy_elsewhere_the_index_is_the_same(whole: Built, built: Built) -> None:
    shutil.rmtree(built.out)
    job.run(built.options())
    assert built.digest == whole.digest
