"""Erasing from an index: every family, every file, and after every kill."""

# Q: queries, K: results per query.

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import index_versions, indexed
from support.index_versions import FAMILIES

from metric_core import storage
from metric_core.artefacts import manifest
from metric_core.errors import ConfigError, Missing
from metric_core.index import check, codec, erase, erase_lists, erase_version, layout, template, truth
from metric_core.index import version as versions
from metric_core.index.corpus import Rows
from metric_core.index.search import Index, Neighbours
from metric_core.index.spec import IndexSpec
from metric_core.index.store import IndexStore
from metric_core.index.truth import Truth
from metric_core.index.version import Version

NONE = np.empty(0, np.int64)
DEFAULT = "IVF4,PQ8x4fsr,Refine(SQfp16)"
families = pytest.mark.parametrize("factory", FAMILIES)


@pytest.fixture(scope="module")
def crowd(people: Callable[..., Rows]) -> Rows:
    return people(130, views=True)


@pytest.fixture(scope="module")
def made(
    crowd: Rows, people: Callable[..., Rows], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Version]]:
    """A copy of an index of a family, which is live."""
    done: dict[str, tuple[Path, str]] = {}

    def copy(factory: str) -> tuple[Path, Version]:
        if factory not in done:
            folder = tmp_path_factory.mktemp("made")
            spec = IndexSpec(16, factory)
            trained = template.train(people(2000).embedding_ND, spec, 0)
            depth = 650 if spec.refine else None  # so that a removed candidate makes room for none
            version = index_versions.write(folder, crowd, factory, nprobe=4, depth=depth, trained=trained)
            IndexStore(str(folder)).publish(version)
            done[factory] = folder, version.id
        folder, name = done[factory]
        new = tmp_path_factory.mktemp("copy") / "index"
        shutil.copytree(folder, new)
        return new, Version(str(new), name)

    return copy


def _answers(index: Index, v: Rows, **how: int) -> Neighbours:
    """All rows, so that what is left must be in the same order."""
    return index.search(v.embedding_ND[::7], 40, nprobe=index.nlist and 4, **how)


def _left(before: Neighbours, gone: np.ndarray, count: int) -> list[list[tuple[int, float]]]:
    """Each query's answers without some faces."""
    rows = zip(before.face_id_QK.tolist(), before.score_QK.tolist())
    lost = set(gone.tolist())
    return [[(i, s) for i, s in zip(*row) if i not in lost and i >= 0][:count] for row in rows]


def _ids(v: Rows, *names: str) -> np.ndarray:
    return np.sort(v.face_id_N[[name in names for name in v.identity.to_pylist()]])


@pytest.mark.parametrize("which", ["one", "many", "a person", "a probe", "a shard"])
@families
def test_they_are_gone_and_all_other_answers_stay(factory, which, crowd, made):
    folder, version = made(factory)
    gone, names = NONE, []
    if which == "one":
        gone = crowd.face_id_N[[33]]
    elif which == "many":
        gone = np.sort(crowd.face_id_N[1::4])
    elif which == "a person":
        gone, names = _ids(crowd, "p017"), ["p017"]
    elif which == "a probe":
        gone = crowd.face_id_N[[0]]
    else:
        gone = np.sort(crowd.face_id_N[:217])
    was, old = _answers(Index.open(folder), crowd), version.content()
    erase.erase(str(folder), NONE if names else gone, names)
    index = Index.open(folder)
    expected = _left(was, gone, 10)
    now = _left(_answers(index, crowd), NONE, 10)
    assert [row for row in now if len(row) < 10] == []
    full = [len(row) == 10 for row in expected]
    if which != "a shard":
        assert all(full)
    assert [row for row, whole in zip(now, full) if whole] == [row for row, whole in zip(expected, full) if whole]
    content = version.content()
    assert content.rows == index.rows == index.left == len(crowd) - len(gone)
    assert content.masks == []
    assert content.problems() == []
    remaining = set(crowd.identity.take(pa.array(np.flatnonzero(~np.isin(crowd.face_id_N, gone)))).to_pylist())
    assert set(index.names.to_pylist()) == remaining
    assert content.people == len(remaining)
    known = Truth.parse(version.read_checked(content, layout.TRUTH))
    assert not np.isin(known.best.face_id_QW, gone).any()
    assert not np.isin(known.probes.face_id_Q, gone).any()
    assert (content.recall["probes"], content.recall.get("affected", 0)) == (len(known.probes), 0)
    assert list(check.damage(version, content, verify=True)) == []
    assert check.remeasured(index, content)[0] == content.recall["identity"]
    assert (content.nprobe, content.depth, content.spec) == (old.nprobe, old.depth, old.spec)
    assert version.manifest().predecessors[0] != version.manifest().digest


def test_only_files_that_hold_them_are_written(crowd, made):
    folder, version = made(DEFAULT)
    before, old = indexed.contents(folder), version.content()
    changes = erase.erase(str(folder), crowd.face_id_N[[100]], [])
    after = indexed.contents(folder)
    said = {c.address.removeprefix(f"{folder}/"): (c.before, c.after) for c in changes}
    differ = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert said == {name: (before.get(name), after.get(name)) for name in differ}
    new = version.content()
    assert [one != other for one, other in zip(old.shards, new.shards)] == [True, False, False]
    assert old.files[layout.NAMES] == new.files[layout.NAMES], "the person has other pictures"
    assert old.files[layout.TEMPLATE] == new.files[layout.TEMPLATE]


def test_nothing_is_done_where_they_are_not(made):
    folder, _ = made(DEFAULT)
    before = indexed.times(folder)
    assert erase.erase(str(folder), np.array([5], np.int64), ["nobody"]) == []
    assert indexed.times(folder) == before
    with pytest.raises(Missing):
        erase.erase(str(folder / "nothing"), NONE, ["nobody"])


def test_versions_that_share_shards_are_all_without_them(crowd, made):
    folder, version = made("IVF4,Flat")
    trained = version.read_checked(version.content(), layout.TEMPLATE)
    other = index_versions.write(folder, crowd, "IVF4,Flat", nprobe=2, seed=7, trained=trained)
    assert other.content().shards == version.content().shards
    told: list[str] = []
    erase.erase(str(folder), NONE, ["p003"], told.append)
    assert sum("rows are removed" in line for line in told) == 1
    assert other.content().shards == version.content().shards
    assert version.content().rows == other.content().rows == 645
    assert IndexStore(str(folder)).current() == version
    for one in (version, other):
        assert list(check.damage(one, one.content(), verify=True)) == []
        assert "p003" not in Index.open(folder, one.id).names.to_pylist()


def test_a_mask_of_other_faces_stays_and_lists_no_erased_one(crowd, tmp_path):
    masked = crowd.face_id_N[:6]
    version = index_versions.write(tmp_path, crowd, "IVF4,Flat", nprobe=4, masked=masked.tolist())
    erase.erase(str(tmp_path), np.sort(crowd.face_id_N[[2, 300]]), [])
    content = version.content()
    assert [mask["rows"] for mask in content.masks] == [5]
    assert content.rows == 650 - 6 - 1
    assert set(version.read_masks(content)[0].tolist()) == set(np.delete(masked, 2).tolist())
    assert Index.open(tmp_path, version.id).left == 643


def test_from_the_first_step_on_nobody_who_opens_finds_them(crowd, made, monkeypatch):
    folder, _ = made(DEFAULT)
    gone = _ids(crowd, "p017")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(erase._Erasure, "_shards", stop)
    with pytest.raises(KeyboardInterrupt):
        erase.erase(str(folder), NONE, ["p017"])
    near = _answers(Index.open(folder), crowd)
    assert not np.isin(near.face_id_QK, gone).any()


class _Killed(BaseException):
    pass


def _kill_at(number: int, patch: pytest.MonkeyPatch) -> list[str]:
    """Every write to storage before the given one is carried out; returns what was written, by and by."""
    done: list[str] = []
    for name in ("write_bytes", "put_file", "replace_if_match", "remove"):
        plain = getattr(storage, name)

        def counted(*args: object, plain: Callable[..., object] = plain, name: str = name, **how: object) -> object:
            if len(done) == number:
                raise _Killed
            done.append(name)
            return plain(*args, **how)

        patch.setattr(storage, name, counted)
    return done


def _stored(folder: Path) -> dict[str, str]:
    """sha256 of each file, and of manifests the digest alone: times are not covered."""
    found = indexed.contents(folder)
    for path in folder.glob("versions/*/manifest.json"):
        found[str(path.relative_to(folder))] = manifest.read(str(path.parent), "index").digest
    return found


@pytest.mark.slow
def test_killed_at_any_write_it_ends_as_if_undisturbed(crowd, made, monkeypatch, tmp_path):
    folder, version = made(DEFAULT)
    trained = version.read_checked(version.content(), layout.TEMPLATE)
    begun = index_versions.write(folder, crowd, DEFAULT, seed=9, until=2, trained=trained)
    _decide(begun, trained)
    gone, names = np.sort(crowd.face_id_N[[0, 100, 300]]), ["p017"]
    _same_after_kills(folder, gone, names, monkeypatch, tmp_path)


@pytest.mark.slow
def test_killed_at_any_write_with_other_centroids_it_ends_as_if_undisturbed(crowd, monkeypatch, tmp_path):
    spec = IndexSpec(16, "IVF4,SQfp16")
    index = codec.load(template.train(crowd.embedding_ND, spec, 0))
    template.centroids(index, copy=False)[2] = crowd.embedding_ND[400]
    index_versions.write(tmp_path / "made", crowd, spec.factory, shards=2, nprobe=4, trained=template.serialized(index))
    _same_after_kills(tmp_path / "made", crowd.face_id_N[[400]], [], monkeypatch, tmp_path)


def _same_after_kills(
    folder: Path, gone: np.ndarray, names: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = shutil.copytree(folder, tmp_path / "whole")
    with monkeypatch.context() as patch:
        done = _kill_at(-1, patch)
        erase.erase(str(whole), gone, names)
    expected, writes = _stored(whole), len(done)
    assert writes > 20
    for number in range(writes):
        copy = shutil.copytree(folder, tmp_path / "copy")
        with monkeypatch.context() as patch:
            _kill_at(number, patch)
            with pytest.raises(_Killed):
                erase.erase(str(copy), gone, names)
        erase.erase(str(copy), gone, names)
        assert _stored(copy) == expected, f"killed at write {number}, a {done[number]}"
        shutil.rmtree(copy)


def _decide(version: Version, trained: bytes) -> None:
    """Give an unfinished version the choice that a build continues from."""
    shared = Path(version.index_uri, "files")
    (probes,) = shared.glob("*.probes.arrow")
    choice = {"template": versions.digest(trained), "probes": versions.digest(probes.read_bytes())}
    version.put(layout.CHOICE, versions.choice_file(choice))


def test_an_unfinished_version_loses_what_holds_them_and_no_more(crowd, people, tmp_path):
    trained = template.train(people(2000).embedding_ND, IndexSpec(16, DEFAULT), 0)
    version = index_versions.write(tmp_path, crowd, DEFAULT, until=2, trained=trained)
    _decide(version, trained)
    own = np.flatnonzero(~np.isin(crowd.face_id_N, crowd.face_id_N[::32]))
    far = next(at for at in own if 217 <= at < 433 and not _is_near(version, crowd.face_id_N[at]))
    erase.erase(str(tmp_path), crowd.face_id_N[[far]], [])
    assert [version.receipt(number) is None for number in range(3)] == [False, True, True]
    assert version.read(layout.CHOICE) is not None
    assert len(list((tmp_path / "shards").iterdir())) == 3
    erase.erase(str(tmp_path), crowd.face_id_N[[0]], [])  # a probe
    assert {path.name for path in Path(version.uri).iterdir()} == {"plan.json"}
    assert list((tmp_path / "shards").iterdir()) == list((tmp_path / "files").iterdir()) == []


def _is_near(version: Version, face_id: int) -> bool:
    return any(
        (versions_near == face_id).any()
        for number in (0, 1)
        for versions_near in [truth.parse_best(version.read(versions.near_name(number))).face_id_QW]
    )


def test_files_that_no_version_lists_are_removed(crowd, made):
    folder, version = made(DEFAULT)
    stray = folder / "shards" / f"{'a' * 32}.rows"
    shutil.copy(version.address(version.content().shards[0], "rows"), stray)
    (folder / "shards" / ".x.rows.0123.unfinished").write_bytes(b"x")
    (folder / "shards" / "notes.txt").write_bytes(b"mine")
    erase.erase(str(folder), crowd.face_id_N[[33]], [])
    assert not stray.exists()
    assert (folder / "shards" / "notes.txt").exists()
    assert not list((folder / "shards").glob(".*"))


def test_a_version_whose_files_are_in_its_own_folder(crowd, made):
    folder, version = made(DEFAULT)
    content = version.content()
    own = asdict(content) | {"shared": False}
    for name in content.files:
        shutil.move(version.place(content, name), version.file(name))
    choice = version.read(layout.CHOICE)
    own["files"][layout.CHOICE] = {"bytes": len(choice), "sha256": versions.digest(choice)}
    found = version.manifest()
    manifest.replace(found, own, found.provenance)
    was = _answers(Index.open(folder), crowd)
    erase.erase(str(folder), crowd.face_id_N[[33]], [])
    assert version.content().shared
    assert list(check.damage(version, version.content(), verify=True)) == []
    assert sorted(path.name for path in Path(version.uri).glob("*.arrow")) == [f"shard-00{n}.arrow" for n in range(3)]
    assert _left(_answers(Index.open(folder), crowd), NONE, 10) == _left(was, crowd.face_id_N[[33]], 10)


@pytest.mark.parametrize("factory", ["IVF4,Flat", "IVF4,SQfp16", DEFAULT, "IVF4,RaBitQfs4,Refine(SQfp16)"])
def test_no_centroid_of_an_erased_face_stays(factory, crowd, tmp_path):
    """One list has one face only, which is its centroid; another one's centroid is a face of several."""
    spec = IndexSpec(16, factory)
    trained = template.train(crowd.embedding_ND, spec, 0)
    index = codec.load(trained)
    centroid_MD = template.centroids(index, copy=False)
    lone = crowd.embedding_ND[10]
    centroid_MD[1], centroid_MD[2] = lone, crowd.embedding_ND[400]
    trained = template.serialized(index)
    list_N = (crowd.embedding_ND @ centroid_MD.T).argmax(axis=1)
    alone = crowd.face_id_N[list_N == 1]
    depth = 650 if spec.refine else None
    version = index_versions.write(tmp_path, crowd, factory, nprobe=4, depth=depth, trained=trained)
    was = _answers(Index.open(tmp_path, version.id), crowd)
    gone = np.sort(np.append(alone, crowd.face_id_N[400]))
    told: list[str] = []
    erase.erase(str(tmp_path), gone, [], told.append)
    found = Index.open(tmp_path, version.id)
    assert sum("other centroids" in line for line in told) == 3
    assert not erase_lists.near(crowd.embedding_ND[[10, 400]], found.centroid_MD).any()
    assert not found.centroid_MD[1].any()
    assert any((found.centroid_MD[2] == found.centroid_MD[n]).all() for n in (0, 3))
    content = version.content()
    assert (
        {shard.template for shard in content.shards} == {content.template} == {content.files["template.faiss"].sha256}
    )
    assert list(check.damage(version, content, verify=True)) == []
    now, expected = _left(_answers(found, crowd), NONE, 10), _left(was, gone, 10)
    if factory != "IVF4,SQfp16":
        assert now == expected
    else:  # rows of the second list were encoded again
        same = [len({i for i, _ in one} & {i for i, _ in other}) for one, other in zip(now, expected)]
        assert sum(same) >= 0.99 * 10 * len(now)
        scores, others = ([[s for _, s in row] for row in rows] for rows in (now, expected))
        np.testing.assert_allclose(scores, others, atol=1e-3)


def test_recall_stays_as_measured_until_one_probe_in_a_hundred_is_affected(crowd, made, monkeypatch):
    monkeypatch.setattr(erase_version, "_FEW", 0.2)
    folder, version = made("IVF4,Flat")
    before = version.content().recall
    erase.erase(str(folder), crowd.face_id_N[[0]], [])
    recall = version.content().recall
    assert (recall["probes"], recall["identity"]) == (20, before["identity"]), "of 21"
    assert 1 <= recall["affected"] < 5
    erase.erase(str(folder), np.sort(crowd.face_id_N[32:200:32]), [])
    recall = version.content().recall
    assert recall["affected"] == 0
    assert recall["identity"] == check.remeasured(Index.open(folder), version.content())[0]


def test_the_first_format_is_refused_before_anything_is_touched(tmp_path):
    frozen = Path(__file__).parents[2] / "frozen"
    found = list(frozen.rglob("identities-000.parquet"))
    assert found
    folder = shutil.copytree(found[0].parents[2], tmp_path / "index")
    version = Version(str(folder), found[0].parent.name)
    face_id = pq.read_table(found[0])["face_id"].to_numpy()[:1]
    before = indexed.contents(folder)
    with pytest.raises(ConfigError, match="of the first format"):
        erase.erase(str(folder), face_id, [])
    assert indexed.contents(folder) == before
    assert version.finished


def test_the_provenance_tells_what_was_done_and_not_to_whom(crowd, made):
    folder, version = made(DEFAULT)
    changes = erase.erase(str(folder), NONE, ["p017"], request="r" * 64, finished="2025-01-01T00:00:00+00:00")
    (entry,) = version.manifest().provenance["erasures"]
    assert (entry["request"], entry["rows"]) == ("r" * 64, {"shards": 5})
    assert "p017" not in json.dumps(entry)
    again = erase.erase(str(folder), NONE, ["p017"], request="r" * 64)
    assert {c.address for c in again} <= {c.address for c in changes}
    assert len(again) == len(entry["files"])
