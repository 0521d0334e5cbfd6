from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric_core.artefacts.embeddings import Vectors
from metric_core.errors import ConfigError, Corrupt, IndexBuildError
from metric_core.index import build, codec, identities
from metric_core.index.engine import faiss
from metric_core.index.identities import Identities
from metric_core.index.spec import IndexSpec

FLAT = IndexSpec(16, "Flat")
IVF = IndexSpec(16, "IVF4,Flat", nprobe=1)


def _template(v: Vectors, spec: IndexSpec, seed: int = 0) -> bytes:
    return build.train_template(v.embedding_ND, spec, seed)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1), max_size=50), st.integers(1, 9))
def test_shard_of_puts_every_face_in_one_shard_whatever_the_company(ids, shards):
    ids = np.array(ids, np.int64)
    together = build.shard_of(ids, shards)
    assert ((together >= 0) & (together < shards)).all()
    assert together.tolist() == [build.shard_of(np.array([i]), shards)[0] for i in ids]


def test_shards_come_out_equally_full(people):
    v = people(1000, 4)
    assert np.bincount(build.shard_of(v.face_id_N, 8), minlength=8).min() > 0.85 * len(v) / 8
    assert np.bincount(build.shard_of(np.arange(80), 8)).tolist() == [10] * 8


def test_of_shard_loses_nothing_and_doubles_nothing(people, blocks_of):
    v = people()
    ids = [b.face_id_N for n in range(3) for b in build.of_shard(blocks_of(v, 37), n, 3)]
    assert sorted(np.concatenate(ids).tolist()) == sorted(v.face_id_N.tolist())


def test_sample_is_the_same_however_rows_are_ordered_and_cut(people, blocks_of):
    v = people()
    order = np.random.default_rng(3).permutation(len(v))
    mixed = Vectors(v.face_id_N[order], v.identity_N[order], v.embedding_ND[order])
    expected = build.sample([v], 50, 7, "t")
    for other in (build.sample(blocks_of(mixed, 11), 50, 7, "t"), build.sample(blocks_of(v, 100), 50, 7, "t")):
        np.testing.assert_array_equal(other.face_id_N, expected.face_id_N)
        np.testing.assert_array_equal(other.embedding_ND, expected.embedding_ND)
    assert len(expected) == 50
    assert set(build.sample([v], 50, 8, "t").face_id_N) != set(expected.face_id_N)
    assert len(build.sample([v], 10_000, 7, "t")) == len(v)
    assert build.sample(blocks_of(v, 100), 0, 7, "t").embedding_ND.shape == (0, 16)


def test_template_is_a_function_of_sample_and_seed(people):
    v = people()
    assert _template(v, IVF) == _template(v, IVF)
    assert codec.template_hash(_template(v, IVF)) != codec.template_hash(_template(v, IVF, seed=1))
    assert codec.template_hash(_template(v, FLAT)) == codec.template_hash(_template(v, FLAT, seed=1))
    assert codec.template_hash(_template(v, FLAT)) != codec.template_hash(_template(v, IVF))


def test_training_refuses_too_small_or_wrong_samples(people):
    v = people()
    with pytest.raises(ConfigError, match="at least 156 vectors"):
        build.train_template(v.embedding_ND[:155], IVF, 0)
    with pytest.raises(ValueError, match="expected"):
        build.train_template(v.embedding_ND[:, :8], IVF, 0)
    with pytest.raises(ValueError, match="not unit length"):
        build.train_template(2 * v.embedding_ND, IVF, 0)


@pytest.mark.parametrize("spec", [FLAT, IVF], ids=["flat", "ivf"])
def test_a_shard_holds_its_rows_under_their_face_ids(spec, people, blocks_of):
    v = people()
    template = _template(v, spec)
    built = build.build_shard(template, blocks_of(v, 90))
    build.check_shard(built, 0, 1, len(v), template)
    assert sorted(build.stored_ids(built.index)) == sorted(v.face_id_N)
    assert codec.trained_hash(built.index) == codec.template_hash(template)
    near = Identities.of([built.identities])
    assert near.names.take(near.codes(v.face_id_N)).to_pylist() == v.identity_N.tolist()


@pytest.mark.parametrize("spec", [FLAT, IVF], ids=["flat", "ivf"])
def test_an_empty_shard_passes(spec, people):
    template = _template(people(), spec)
    built = build.build_shard(template, [])
    build.check_shard(built, 0, 1, 0, template)
    assert built.index.ntotal == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("embedding_ND", np.nan, "not unit length"),
        ("embedding_ND", 10.0, "not unit length"),
        ("face_id_N", -1, "negative"),
    ],
)
def test_rows_that_would_spoil_the_index_are_refused(field, value, message, people):
    v = people()
    spoiled = getattr(v, field).copy()
    spoiled[5] = value
    with pytest.raises(IndexBuildError, match=message):
        build.build_shard(_template(v, FLAT), [v, replace(v, **{field: spoiled})])


def test_check_reports_every_fault(people):
    v = people()
    flat, ivf, other = _template(v, FLAT), _template(v, IVF), _template(v, IVF, seed=5)
    twice = build.build_shard(flat, [v, v])
    with pytest.raises(IndexBuildError, match=r"holds 600 vectors .* expected 300; 300 face_ids occur more than once"):
        build.check_shard(twice, 0, 1, len(v), flat)
    whole = build.build_shard(ivf, [v])
    with pytest.raises(IndexBuildError, match="another template"):
        build.check_shard(whole, 0, 1, len(v), other)
    with pytest.raises(IndexBuildError, match="rows belong to other shards"):
        build.check_shard(whole, 0, 2, len(v), ivf)
    lost = replace(whole, identities=identities.to_table(v.face_id_N[1:], v.identity_N[1:]))
    with pytest.raises(IndexBuildError, match="not those of its identity table"):
        build.check_shard(lost, 0, 1, len(v), ivf)
    swapped = replace(whole, probes=replace(whole.probes, embedding_ND=-whole.probes.embedding_ND))
    with pytest.raises(IndexBuildError, match="do not find themselves"):
        build.check_shard(swapped, 0, 1, len(v), ivf)


def test_many_copies_of_one_picture_are_no_fault(people):
    v = people()
    same = replace(v, embedding_ND=np.repeat(v.embedding_ND[:1], len(v), axis=0))
    template = _template(v, FLAT)
    build.check_shard(build.build_shard(template, [same]), 0, 1, len(v), template)


def test_a_flipped_byte_is_found_before_faiss_reads_the_file(people, tmp_path, monkeypatch):
    v = people()
    path = tmp_path / "shard.faiss"
    sha256 = codec.write_file(build.build_shard(_template(v, FLAT), [v]).index, path)
    assert codec.read_file(path, sha256, "here").ntotal == len(v)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("FAISS saw the damaged file"))
    with pytest.raises(Corrupt, match="here: its sha256"):
        codec.read_file(path, sha256, "here")


def test_reading_is_limited_by_the_size_there_is_and_limits_are_put_back(people):
    data = bytearray(_template(people(), IVF))
    before = faiss.get_deserialization_vector_byte_limit()
    # The quantizer's vector of 4 x 16 floats is preceded by its length: claim a million million instead.
    at = bytes(data).index((64).to_bytes(8, "little"))
    data[at : at + 8] = (10**12 // 4).to_bytes(8, "little")
    with pytest.raises(Corrupt, match="limit"):
        codec.load(bytes(data))
    with pytest.raises(Corrupt, match="cannot read"):
        codec.load(b"not an index at all, but long enough to have a header")
    assert faiss.get_deserialization_vector_byte_limit() == before


def test_identities_join_over_shards_and_refuse_doubles(people):
    v = people()
    parts = [np.arange(len(v)) % 3 == s for s in range(3)]
    tables = [identities.to_table(v.face_id_N[p], v.identity_N[p]) for p in parts]
    joined = Identities.of(tables)
    assert joined.names.to_pylist() == sorted(set(v.identity_N))
    assert joined.names.take(joined.codes(v.face_id_N)).to_pylist() == v.identity_N.tolist()
    assert joined.codes(np.array([[-1, v.face_id_N[0]]])).tolist()[0][0] == -1
    with pytest.raises(Corrupt, match="face_id 12 has no row"):
        joined.codes(np.array([12]))
    with pytest.raises(Corrupt, match="twice"):
        Identities.of([tables[0], tables[0]])
    empty = Identities.of([identities.to_table(np.empty(0, np.int64), np.empty(0, object))])
    assert empty.codes(np.array([-1])).tolist() == [-1]
