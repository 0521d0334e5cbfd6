"""Faces without a name in an index: each is somebody of its own, and its row is found like any other."""

# N: rows, Q: probes.

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import minted

from metric_core.artefacts import schema
from metric_core.artefacts.collection import Collection
from metric_core.index import choose, export, merging, sample, shard, template, tuning
from metric_core.index.choose import Wanted
from metric_core.index.corpus import Corpus, Rows
from metric_core.index.spec import IndexSpec
from metric_core.index.truth import Probes, Truth
from metric_core.index.tuning import Target

KINDS = pytest.mark.parametrize("named", [0, 3], ids=["nobody is named", "every third has a name"])
FAMILIES = pytest.mark.parametrize(
    "factory", ["Flat", "SQfp16", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ8x4fsr,Refine(SQfp16)", "IVF8,PQ8x4fsr,Refine(SQ8)"]
)


def without_names(v: Rows, named: int) -> Rows:
    """The rows, of which only each ``named``-th person keeps a name; 0: nobody."""
    names = [name if named and int(name[1:]) % named == 0 else None for name in v.identity.to_pylist()]
    return replace(v, identity=pa.array(names, pa.string()).dictionary_encode())


def groups(v: Rows, query_D: np.ndarray, exclude: int) -> list[tuple[str | None, int]]:
    """(name, face_id) of each person's or unnamed face's best row, best first."""
    score_N = v.embedding_ND @ query_D
    found: dict[object, tuple[str | None, int]] = {}
    for row in np.lexsort((v.face_id_N, -score_N)).tolist():
        name, face_id = v.identity[row].as_py(), int(v.face_id_N[row])
        if face_id != exclude:
            found.setdefault(name or face_id, (name, face_id))
    return list(found.values())


@KINDS
@pytest.mark.parametrize(("shards", "top"), [(1, 5), (3, 1), (3, 1000)])
@FAMILIES
def test_identify_finds_each_of_them(factory, top, shards, named, people, open_of):
    v = without_names(people(325, 2), named)
    index = open_of(v, factory, shards=shards, nprobe=8, depth=len(v))
    rows = index.identify(v.embedding_ND[:4], list("abcd"), top, exclude_face_id_Q=v.face_id_N[:4])
    assert rows.schema == schema.UNLABELLED_MATCHES == index.matches
    for q, name in enumerate("abcd"):
        mine = [row for row in rows.to_pylist() if row["query"] == name]
        expected = groups(v, v.embedding_ND[q], int(v.face_id_N[q]))[:top]
        got = [(row["identity"], row["face_id"]) for row in mine]
        assert [row["rank"] for row in mine] == list(range(1, len(expected) + 1))
        if factory in ("Flat", "IVF8,Flat"):  # what others store may change the order of what is alike
            assert got == expected
        elif top == 1000:
            assert {(who or face_id) for who, face_id in got} == {(who or face_id) for who, face_id in expected}


@KINDS
def test_filters(named, people, open_of):
    v = without_names(people(160, 2, views=True), named)
    index = open_of(v, "IVF8,Flat", shards=3, nprobe=8)
    known = sorted({name for name in v.identity.to_pylist() if name})
    assert index.only(identities=known).left == 2 * len(known), "no unnamed row meets a name"
    some = index.only(face_ids=v.face_id_N[:10])
    expected = {(name or face_id) for name, face_id in groups(v.take(np.arange(10)), v.embedding_ND[0], -1)}
    rows = some.identify(v.embedding_ND[:1], ["q"], 99).to_pylist()
    assert {row["identity"] or row["face_id"] for row in rows} == expected
    assert index.without(v.face_id_N[:310]).identify(v.embedding_ND[:1], ["q"], 99).num_rows <= 10


def test_firsts_of_each_row():
    code = np.array([[2, -1, 2, -1, 0], [-1, -1, -1, -1, -1]])
    face_id = np.array([[9, 8, 7, 6, -1], [1, 2, 3, -1, -1]])
    expected = [[True, True, False, True, True], [True, True, True, False, False]]
    assert merging.firsts(code, face_id).tolist() == expected


def test_a_shard_says_who_has_no_name(people, tmp_path):
    v = without_names(people(20, 2), 3)
    spec = IndexSpec(v.embedding_ND.shape[1], "Flat")
    built = shard.build(template.train(v.embedding_ND, spec, 1), spec, [v], len(v), tmp_path)
    rows = shard.read_rows(built.paths["rows"])
    by_id = dict(zip(rows["face_id"].to_pylist(), rows["identity"].to_pylist()))
    assert by_id == dict(zip(v.face_id_N.tolist(), v.identity.to_pylist()))
    assert built.people == len(v.identity.dictionary) == 7


def test_the_nearest_vector_of_an_unnamed_probe_is_whom_a_search_should_find(people, open_of):
    v = without_names(people(200), 2)
    index = open_of(v, "IVF16,Flat", shards=2)
    probes = Probes(v.face_id_N[::5], v.identity.to_pylist()[::5], v.embedding_ND[::5])
    near = probes.nearest()
    near.add(v.face_id_N, v.embedding_ND, v.identity)
    known = Truth(probes, near.best())
    unnamed_Q = np.array([name is None for name in probes.identity_Q])
    assert known.counted_Q[unnamed_Q].all()
    assert not known.counted_Q.all(), "of the named probes, those count whose person an exact search puts first"
    found = index.search(probes.query_QD, 1, nprobe=2, exclude_face_id_Q=probes.face_id_Q)
    names = [None if code < 0 else index.names[code].as_py() for code in found.code_QK[:, 0].tolist()]
    first_Q = found.face_id_QK[:, 0] == known.best.face_id_QW[:, 0]
    right_Q = np.where(unnamed_Q, first_Q, [a == b for a, b in zip(names, probes.identity_Q)])
    point = tuning.measure(index, known, 2, None)
    assert point.identity == pytest.approx(right_Q[known.counted_Q].mean())
    tuned = tuning.tune(index, known, Target(1.0))
    assert (tuned.identity, tuned.counted) == (1.0, int(known.counted_Q.sum()))


def sample_of(out: Path, names: list[str | None]) -> sample.Sample:
    uri = minted.embeddings(out, range(len(names)), minted.unit_vectors(len(names)), identities=names)
    return sample.draw(Corpus.of(Collection.open(uri)), len(names), seed=5)


def test_every_unnamed_row_is_a_probe_and_trains_as_somebody_of_its_own(tmp_path):
    nobody = sample_of(tmp_path / "nobody", [None] * 90)
    assert len(nobody.probes(50)) == 50
    assert len(nobody.probes(1000)) == 90
    assert len(nobody.training(1000, 2)) == 90
    mixed = sample_of(tmp_path / "mixed", ["many"] * 30 + [None] * 30 + [f"one {n}" for n in range(10)])
    chosen = mixed.rows.identity.take(mixed.probes(31)).to_pylist()
    assert (chosen.count("many"), chosen.count(None)) == (1, 30), "people with one picture come last"
    assert mixed.rows.identity.take(mixed.training(43, 3)).to_pylist().count("many") == 3


@pytest.mark.slow
@KINDS
def test_an_index_is_chosen(named, tmp_path):
    names = [f"p{n // 3}" if named and n // 3 % named == 0 else None for n in range(900)]
    drawn = sample_of(tmp_path / "e", names)
    choice = choose.choose(Wanted(rows=900, dim=8, target=Target(0.9)), drawn, 1)
    assert choice.chosen.tuned is not None
    assert choice.chosen.tuned.identity >= 0.9
    assert choice.chosen.tuned.counted > 0


@KINDS
def test_the_export_has_null_for_them(named, people, open_of, tmp_path):
    v = without_names(people(160, 2), named)
    written = export.export(open_of(v, "IVF8,Flat", shards=2), str(tmp_path / "x.faiss"))
    table = pq.read_table(written.identities)
    found = dict(zip(table["face_id"].to_pylist(), table["identity"].to_pylist()))
    assert found == dict(zip(v.face_id_N.tolist(), v.identity.to_pylist()))
