"""What a check of an index finds: every kind of damage, by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metric_core.errors import Corrupt, IndexBuildError
from metric_core.index import check, layout, shard, template
from metric_core.index.corpus import Rows
from metric_core.index.search import Index
from metric_core.index.spec import IndexSpec
from metric_core.index.version import Version

REFINED = "IVF4,PQ8x4fsr,Refine(SQfp16)"
FACTORIES = ["Flat", "SQfp16", "SQ8", "IVF4,Flat", "IVF4,SQfp16", "IVF4,SQ8", "IVF4,RaBitQfs4,Refine(SQ8)", REFINED]
OWN = [layout.TEMPLATE, layout.PROBES, layout.TRUTH, layout.NAMES, layout.CODES]


@pytest.fixture
def version(people: Callable[..., Rows], write_index: Callable[..., Version], tmp_path: Path) -> Version:
    return write_index(tmp_path, people(130), REFINED, nprobe=2, depth=30)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_a_whole_version_has_no_damage(version):
    content = version.content()
    assert list(check.damage(version, content)) == list(check.damage(version, content, verify=True)) == []
    assert [check.sound_receipt(version, n, content.template)[0] for n in range(3)] == content.shards
    assert check.sound_receipt(version, 3, content.template) is None


@pytest.mark.parametrize("ending", ["faiss", "rows", "vectors"])
def test_damage_to_a_shard_is_told(ending, version):
    content = version.content()
    path = Path(version.address(content.shards[1], ending))
    _flip(path)
    (line,) = check.damage(version, content)
    assert line.startswith(f"shard 1: {path}: its sha256")
    assert check.sound_receipt(version, 1, content.template) is None
    path.unlink()
    (line,) = check.damage(version, content)
    assert line.startswith("shard 1: ")
    assert str(path) in line
    assert check.sound_receipt(version, 1, content.template) is None
    assert check.sound_receipt(version, 0, content.template) is not None


@pytest.mark.parametrize("name", OWN)
def test_damage_to_a_file_of_the_version_is_told(name, version):
    content = version.content()
    path = Path(version.place(content, name))
    path.write_bytes(path.read_bytes() + b" ")
    (line,) = check.damage(version, content)
    assert line.startswith(f"{path} has another sha256 than its manifest says")
    path.unlink()
    (line,) = check.damage(version, content)
    assert line.startswith(f"{path} is missing")


def test_damage_to_receipts_is_told(version):
    content = version.content()
    Path(version.file("shard-000.arrow")).unlink()
    _flip(Path(version.file("shard-001.arrow")))
    two, one = (Path(version.file(f"shard-{n:03d}.json")) for n in (2, 1))
    assert one != two
    lines = list(check.damage(version, content))
    absent = f"its receipt in {version.uri} is missing or is not the manifest's; start the job"
    assert lines[0].startswith(f"shard 0: {absent}")
    assert lines[1].startswith(f"shard 1: {one} is damaged")
    assert len(lines) == 2
    assert (
        check.sound_receipt(version, 0, content.template) is check.sound_receipt(version, 1, content.template) is None
    )
    for ending in ("json", "arrow"):  # those of another shard
        Path(version.file(f"shard-001.{ending}")).write_bytes(Path(version.file(f"shard-002.{ending}")).read_bytes())
    assert any(line.startswith(f"shard 1: {absent}") for line in check.damage(version, content))


@pytest.mark.parametrize("factory", FACTORIES)
def test_rows_find_themselves(factory, people, open_of):
    index = open_of(people(130, views=True), factory, shards=3, nprobe=1, depth=1)
    lost, looked = check.lookup(index)
    assert (lost, looked) == (0, 650)
    check.require_found(index, "here")


@pytest.mark.parametrize("factory", ["Flat", "IVF4,SQ8", REFINED])
def test_copies_of_one_picture_and_empty_shards_are_no_fault(factory, people, open_of):
    v = people(130)
    trained = template.train(v.embedding_ND, IndexSpec(16, factory), 0)
    same = Rows(v.face_id_N, v.identity, None, np.repeat(v.embedding_ND[:1], len(v), axis=0))
    assert check.lookup(open_of(same, factory, trained=trained, depth=1))[0] == 0
    assert check.lookup(open_of(v.take(np.arange(2)), factory, trained=trained, depth=1)) == (0, 2)
    assert check.lookup(open_of(v.take(np.arange(0)), factory, trained=trained, depth=1)) == (0, 0)


def test_rows_in_lists_of_other_centroids_are_lost(people, tmp_path):
    v, spec = people(260), IndexSpec(16, "IVF32,SQ8")
    built = shard.build(template.train(v.embedding_ND, spec, 0), spec, [v], len(v), tmp_path)
    other_MD = template.lists(v.embedding_ND, spec, 1)
    strange = replace(Index.single(built.paths, spec), centroid_MD=other_MD)
    lost, looked = check.lookup(strange)
    assert lost > 0.2 * looked
    with pytest.raises(IndexBuildError, match=rf"shard 7: {lost} of {looked} sampled vectors do not find themselves"):
        check.require_found(strange, "shard 7")


def test_the_stored_probes_find_what_they_did(version, people):
    content = version.content()
    index = Index.load(version, content)
    now, then = check.remeasured(index, content)
    assert now == then == content.recall["identity"]
    less = index.without(people(130).face_id_N[:300])
    assert check.remeasured(less, content)[0] < then
    _flip(Path(version.place(content, layout.TRUTH)))
    with pytest.raises(Corrupt, match=r"truth\.arrow has another sha256"):
        check.remeasured(index, content)
