"""Adding deltas to an index: what it finds then is what an index of everything finds."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from support import indexed, minted

from metric_core.artefacts import manifest, tombstones
from metric_core.artefacts.collection import Collection
from metric_core.index.layout import Content
from metric_core.index.search import Index
from metric_core.index.store import IndexStore
from workflows import cli
from workflows.index import add, check, export, job
from workflows.index.config import AddConfig, CheckConfig, ExportConfig

ROWS = 800


def vectors(first: int, people: int, each: int = 5) -> np.ndarray:
    """float32 (people * each, 16): people who are easy to tell apart."""
    random = np.random.default_rng(first + 1)
    centre_ND = np.repeat(random.standard_normal((people, indexed.DIM)), each, axis=0)
    vector_ND = centre_ND + 0.2 * random.standard_normal((people * each, indexed.DIM))
    return (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype(np.float32)


def delta(out: Path, ids: list[int], since: list[str], vector_ND: np.ndarray | None = None, **more: Any) -> str:
    """Write a delta of the artefacts with these names; people have five faces each unless ``identities`` are given."""
    if vector_ND is None:
        vector_ND = vectors(ids[0] if ids else 0, len(ids))[: len(ids)]
    names = more.pop("identities", [f"p{number // 5:04d}" for number in ids])
    plans = [{"plan_id": name} for name in since]
    return minted.embeddings(out, ids, vector_ND, identities=names, unit=40, since=plans, **more)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """A folder with Embeddings ``A`` and an index of them for each of two specs; to be copied."""
    root = tmp_path_factory.mktemp("bases")
    source = indexed.crowd(root / "A")
    for name, spec in (("flat", "Flat"), ("lists", indexed.SPEC)):
        job.run(indexed.options(source, root / name, spec=spec))
    return root


@pytest.fixture
def work(bases: Path, tmp_path: Path) -> Path:
    """A copy."""
    return Path(shutil.copytree(bases, tmp_path / "work"))


def added(index: Path, *deltas: str, **more: Any) -> dict[str, Any]:
    return add.run(AddConfig(index=str(index), embeddings=",".join(deltas), **more))


def content(index: Path) -> Content:
    """Of the live version."""
    return IndexStore(str(index)).current().content()


def require_equal_answers(one: Path, other: Path, probe_QD: np.ndarray) -> None:
    """Exactly, with everything scanned."""
    found = []
    for uri in (one, other):
        index = Index.open(str(uri))
        near = index.search(probe_QD, 10, nprobe=index.nlist, depth=2 * ROWS)
        names = index.identify(probe_QD, [str(n) for n in range(len(probe_QD))], 3).drop_columns(["score"])
        found.append((near.score_QK, near.face_id_QK, names if index.nlist is None else None))
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][2] == found[1][2]


CHANGED, NEW, GONE = list(range(100, 130)), list(range(900, 960)), list(range(200, 215))


@pytest.mark.parametrize("name", ["flat", "lists"])
def test_an_index_that_was_added_to_answers_as_one_of_everything(
    work: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    index, source = work / name, str(work / "A")
    first = content(index)
    files = indexed.times(index)
    change_ND = np.concatenate([-vectors(100, 6), vectors(900, 12)])
    one = delta(work / "D", CHANGED + NEW, ["A"], change_ND, gone=GONE)
    found = added(index, one)
    assert (found["added"], found["replaced"], found["gone"], found["erased"]) == (90, 30, 15, 0)
    assert (found["rows"], found["people"]) == (ROWS + 60 - 15, 160 + 12 - 3)
    assert f"version {found['version']} of {index} is live" in capsys.readouterr().err
    assert indexed.lasting(files).items() <= indexed.times(index).items(), "nothing else is written"

    now = content(index)
    assert now.shards[: len(first.shards)] == first.shards
    assert (now.template, now.spec, now.nprobe, now.depth) == (first.template, first.spec, first.nprobe, first.depth)
    assert now.files["template.faiss"] == first.files["template.faiss"]
    assert now.files["probes.arrow"] == first.files["probes.arrow"]
    assert now.inputs == {**first.inputs, "plans": ["A", "D"], "added": [manifest.read(one, "embeddings").digest]}
    assert {mask["why"]: (mask["rows"], mask["shards"]) for mask in now.masks} == {"replaced": (30, 3), "gone": (15, 3)}

    job.run(indexed.options(f"{source},{one}", work / "whole", spec=first.spec.factory))
    probe_QD = np.concatenate([Collection.open(source).load().embedding_ND[::9], change_ND[::4]]).astype(np.float32)
    require_equal_answers(index, work / "whole", probe_QD)
    assert check.run(CheckConfig(index=str(index), verify=True))["rows"] == now.rows


def test_the_same_command_again_finds_its_own_version(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = work / "lists"
    one = delta(work / "D", CHANGED + NEW, ["A"])
    first = added(index, one)
    before = indexed.times(index)
    again = added(index, one)
    assert again | {"seconds": 0} == first | {"seconds": 0}
    assert indexed.times(index) == before
    assert f"version {first['version']} is built already" in capsys.readouterr().err


def test_deltas_are_added_one_after_the_other_or_together(work: Path) -> None:
    one = delta(work / "D1", CHANGED + NEW, ["A"], gone=GONE)
    two = delta(work / "D2", [*NEW[:20], *range(1000, 1030), 201], ["A", "D1"], gone=NEW[20:25])
    together = Path(shutil.copytree(work / "lists", work / "together"))
    added(work / "lists", one)
    middle = content(work / "lists")
    last = added(work / "lists", two)
    both = added(together, one, two)
    assert last["rows"] == both["rows"] == ROWS - 15 + 60 + 30 + 1 - 5
    assert last["people"] == both["people"]
    now = content(work / "lists")
    assert now.inputs["plans"] == content(together).inputs["plans"] == ["A", "D1", "D2"]
    assert [mask["shards"] for mask in now.masks] == [3, 3, 4, 4]
    assert now.masks[:2] == middle.masks
    assert now.drift is not None
    assert (now.drift["rows"], now.drift["added"], now.drift["masked"]) == (ROWS, 90 + 51, 45 + 25)
    job.run(indexed.options(f"{work / 'A'},{one},{two}", work / "whole", spec=indexed.SPEC))
    probe_QD = np.concatenate([vectors(900, 80), vectors(100, 30)]).astype(np.float32)
    for index in (work / "lists", together):
        require_equal_answers(index, work / "whole", probe_QD)
        check.run(CheckConfig(index=str(index), verify=True))


def test_what_is_in_the_index_already_may_be_listed_first(work: Path) -> None:
    one = delta(work / "D1", NEW, ["A"])
    two = delta(work / "D2", [1000, 1001], ["A", "D1"])
    added(work / "flat", one)
    assert added(work / "flat", str(work / "A"), one, two)["added"] == 2


def test_erased_faces_are_neither_added_nor_found_any_more(work: Path) -> None:
    index = work / "lists"
    one = delta(work / "D", CHANGED + NEW, ["A"])
    tombstones.add(str(work / "tombstones"), "n", face_ids=[NEW[0], 3], identities=["p0021", "p0050", "p0181"])
    found = added(index, one)
    # p0021 is faces 105 to 109, which are replaced as well; p0181 is new.
    assert (found["added"], found["erased"], found["replaced"]) == (90 - 1 - 5 - 5, 5 + 5 + 1, 30 - 5)
    near = Index.open(str(index)).search(vectors(0, 200)[:, :], ROWS + 60, nprobe=4, depth=2 * ROWS)
    assert not np.isin(near.face_id_QK, [3, *range(105, 110), *range(250, 255), NEW[0], *range(905, 910)]).any()
    out = export.run(ExportConfig(index=str(index), out=str(work / "all.faiss")))
    assert out["rows"] == found["rows"] == Index.open(str(index)).left
    check.run(CheckConfig(index=str(index), verify=True))


def test_what_was_erased_after_a_delta_was_added_is_hidden_by_the_same_command(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = work / "lists"
    one = delta(work / "D", NEW, ["A"])
    first = added(index, one)
    tombstones.add(str(work / "tombstones"), "n", identities=["p0000", "p0180"])
    before = content(index)
    second = added(index, one)
    assert (second["base"], second["added"], second["erased"]) == (first["version"], 0, 10)
    now = content(index)
    assert now.shards == before.shards
    assert {name: now.files[name] for name in ("names.arrow", "codes.npy")} == {
        name: before.files[name] for name in ("names.arrow", "codes.npy")
    }
    assert now.people == before.people - 2
    assert added(index, one)["version"] == second["version"], "again, it is there already"
    check.run(CheckConfig(index=str(index), verify=True))


def test_nothing_new_and_nothing_gone_is_nothing_to_add(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = work / "lists"
    before = indexed.times(index)
    given = delta(work / "D", [], ["A"])
    assert cli.main(["index", "add", "--index", str(index), "--embeddings", given, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["version"] == IndexStore(str(index)).current().id
    assert "there is nothing to add" in said.err
    assert indexed.times(index) == before


def test_a_delta_in_which_faces_are_only_gone_needs_no_shard(work: Path) -> None:
    found = added(work / "flat", delta(work / "D", [], ["A"], gone=GONE))
    assert (found["added"], found["gone"], found["shards"], found["rows"]) == (0, 15, 3, ROWS - 15)
    assert not np.isin(Index.open(str(work / "flat")).search(vectors(0, 40), 800).face_id_QK, GONE).any()


def test_plain_embeddings_of_new_faces_are_added(work: Path) -> None:
    found = added(work / "lists", indexed.crowd(work / "B", 10, first=2000))
    assert (found["added"], found["rows"], found["people"]) == (50, ROWS + 50, 170)


def test_a_version_that_is_not_to_be_live_is_published_later(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = work / "lists"
    live = (index / "CURRENT").read_text()
    one = delta(work / "D", NEW, ["A"])
    found = added(index, one, publish=False)
    assert (index / "CURRENT").read_text() == live
    assert "is finished and not published" in capsys.readouterr().err
    assert added(index, one)["version"] == found["version"]
    assert (index / "CURRENT").read_text().strip() == found["version"]
    again = added(index, delta(work / "E", [1000], ["A"]), version=live.strip(), publish=False)
    assert again["base"] == live.strip()


def test_the_build_itself_may_be_left_unpublished(work: Path) -> None:
    live = (work / "flat" / "CURRENT").read_text()
    job.run(indexed.options(str(work / "A"), work / "flat", spec="SQ8", publish=False))
    assert (work / "flat" / "CURRENT").read_text() == live


def test_a_full_build_is_advised_with_the_figures(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = delta(work / "D", list(range(1000, 1200)), ["A"], minted.unit_vectors(200, indexed.DIM, seed=5))
    found = added(work / "lists", one)
    assert found["advice"].startswith("rebuild advised: ")
    assert "200 rows were added and 0 masked since the last full build of 800 (bound: 20%)" in found["advice"]
    assert found["advice"] in capsys.readouterr().err
    assert added(work / "lists", delta(work / "E", [900], ["A", "D"]))["drift"]["added"] == 201


Refusal = tuple[Callable[[Path], str], str, int]
REFUSALS: dict[str, Refusal] = {
    "another model": (
        lambda work: delta(work / "D", NEW, ["A"], fingerprint="e" * 64),
        "belongs to model e+, but the index was built from vectors of model f+",
        2,
    ),
    "another namespace": (
        lambda work: delta(work / "D", NEW, ["A"], namespace="m"),
        "namespace is m in .*/D and n in version",
        2,
    ),
    "another dimension": (
        lambda work: delta(work / "D", [900], ["A"], minted.unit_vectors(1, 8)),
        "dim is 8 in .*/D and 16 in version",
        2,
    ),
    "a delta of something else": (
        lambda work: delta(work / "D", NEW, ["Z"]),
        r"D is a delta of .*\(plan Z\), and version .* consists of the plans A; list those",
        2,
    ),
    "faces that are there, without a delta": (
        lambda work: indexed.crowd(work / "B", 3, first=790),
        "B is no delta and has 10 faces that are in version .* already, such as face_id 790; embed again with --since",
        2,
    ),
    "everything gone": (
        lambda work: delta(work / "D", [], ["A"], gone=list(range(ROWS))),
        "nothing would be left to find with 0 erased, 0 replaced, 800 gone faces of version .* hidden",
        2,
    ),
    "nearly everything gone": (
        lambda work: delta(work / "D", [], ["A"], gone=list(range(1, ROWS))),
        "no stored probe would be left to measure the index by",
        2,
    ),
    "no embeddings": (lambda work: str(work / "none"), "none does not exist; a finished embeddings", 2),
    "a face twice": (
        lambda work: delta(work / "D", [*range(900, 941), 900], ["A"]),
        "face_id 900 is in two rows",
        1,
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_added_is_one_line_and_touches_nothing(
    work: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message, code = REFUSALS[case]
    given, before = make(work), indexed.times(work / "lists")
    assert cli.main(["index", "add", "--index", str(work / "lists"), "--embeddings", given]) == code
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("likeness index add: ")
    assert re.search(message, line), line
    assert indexed.times(work / "lists") == before


def test_a_delta_that_is_in_the_index_behind_others_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = delta(work / "D1", NEW, ["A"]), delta(work / "D2", [1000], ["A", "D1"])
    added(work / "flat", one, two)
    before = indexed.times(work / "flat")
    for given in (one, str(work / "A")):
        assert cli.main(["index", "add", "--index", str(work / "flat"), "--embeddings", given]) == 2
        assert "already, and what was added after it as well" in capsys.readouterr().err
    assert indexed.times(work / "flat") == before


def test_an_index_that_does_not_know_what_it_consists_of(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As those that were built before plan ids were recorded."""
    path = next((work / "flat" / "versions").iterdir()) / "manifest.json"
    body = json.loads(path.read_text())
    del body["provenance"]["plans"]
    body["provenance"]["embeddings"] = str(work / "A")
    path.write_text(json.dumps(body))
    assert added(work / "flat", delta(work / "D", NEW, ["A"]), publish=False)["added"] == 60
    (work / "A").rename(work / "elsewhere")
    args = ["index", "add", "--index", str(work / "flat"), "--embeddings", delta(work / "E", NEW, ["A"])]
    assert cli.main(args) == 2
    assert "it is not known which Embeddings version" in capsys.readouterr().err


def test_a_version_of_the_first_format_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frozen = Path(__file__).parents[2] / "frozen" / "1" / "index"
    given = delta(work / "D", NEW, ["A"])
    assert cli.main(["index", "add", "--index", str(frozen), "--embeddings", given]) == 2
    assert "has format 1, which nothing can be added to; build the index again" in capsys.readouterr().err


def test_an_unknown_version_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["index", "add", "--index", str(work / "flat"), "--embeddings", str(work / "A"), "--version", "0" * 16]
    assert cli.main(args) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_delta_that_the_embed_job_wrote(tmp_path: Path, ray_session: None) -> None:
    frozen = Path(shutil.copytree(Path(__file__).parents[2] / "frozen" / "1", tmp_path / "frozen"))
    first, one = str(frozen / "embeddings"), str(frozen / "delta")
    job.run(indexed.options(first, tmp_path / "index", spec="Flat"))
    job.run(indexed.options(f"{first},{one}", tmp_path / "whole", spec="Flat"))
    found = added(tmp_path / "index", one)
    assert found["added"] > 0
    together = Collection.open(f"{first},{one}").without_erased()
    assert found["rows"] == together.rows
    assert content(tmp_path / "index").inputs["plans"] == together.plan_ids
    require_equal_answers(tmp_path / "index", tmp_path / "whole", together.load().embedding_ND)


def test_a_corpus_without_names_is_added_to(tmp_path: Path, ray_session: None) -> None:
    ids, more = list(range(ROWS)), list(range(ROWS, ROWS + 30))
    source = minted.embeddings(tmp_path / "A", ids, vectors(0, 160), identities=[None] * ROWS, unit=100)
    one = delta(tmp_path / "D", more, ["A"], vectors(7, 6), identities=[None] * 29 + ["ann"], gone=[4])
    job.run(indexed.options(source, tmp_path / "index", spec="IVF4,SQfp16", target_identity_recall=0.5))
    found = added(tmp_path / "index", one)
    assert (found["rows"], found["people"]) == (ROWS + 29, 1)
    check.run(CheckConfig(index=str(tmp_path / "index"), verify=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        "SQfp16",
        "SQ8",
        "IVF4,Flat",
        "IVF4,SQ8",
        "IVF4,RaBitQfs4,Refine(SQ8)",
        "IVF4,PQ8x4fsr",
        "IVF4,PQ8x4fsr,Refine(SQ8)",
    ],
)
def test_every_family_finds_what_was_added_and_nothing_that_is_hidden(bases: Path, tmp_path: Path, spec: str) -> None:
    index, near_all = tmp_path / "index", {"depth": 2 * ROWS}
    job.run(indexed.options(str(bases / "A"), index, spec=spec, target_identity_recall=0.5))
    new_ND = np.concatenate([-vectors(100, 6), vectors(900, 12)])
    found = added(index, delta(tmp_path / "D", CHANGED + NEW, ["A"], new_ND, gone=GONE))
    assert check.run(CheckConfig(index=str(index), verify=True))["rows"] == found["rows"]
    opened = Index.open(str(index))
    own = opened.search(new_ND, 5, nprobe=opened.nlist, **near_all)
    assert (own.face_id_QK == np.array([CHANGED + NEW]).T).any(axis=1).mean() >= 0.9
    old_ND = Collection.open(str(bases / "A")).load().embedding_ND[[*CHANGED, *GONE]]
    near = opened.search(old_ND, 5, nprobe=opened.nlist, **near_all)
    assert not np.isin(near.face_id_QK, GONE).any()
    assert not np.isin(near.face_id_QK[: len(CHANGED)], CHANGED).any(), "what was replaced is not found there"

    export.run(ExportConfig(index=str(index), out=str(tmp_path / "all.faiss")))
    plain = faiss.read_index(str(tmp_path / "all.faiss"))
    assert plain.ntotal == found["rows"]
    _, face_id_QK = plain.search(new_ND, 1)
    ours = opened.search(new_ND, 1)
    assert (face_id_QK == ours.face_id_QK).mean() >= 0.95
    assert not np.isin(faiss.vector_to_array(plain.id_map), GONE).any()
