"""The template of a version: what it depends on, and which samples it refuses."""

import numpy as np
import pytest

from metric_core.errors import ConfigError, Corrupt
from metric_core.index import codec, template
from metric_core.index.engine import faiss
from metric_core.index.spec import IndexSpec

FACTORIES = ["Flat", "SQfp16", "SQ8", "IVF4,Flat", "IVF4,SQ8", "IVF4,PQ8x4fsr,Refine(SQ8)", "IVF4,RaBitQfs4"]
IVF = IndexSpec(16, "IVF4,Flat")


@pytest.mark.parametrize("factory", FACTORIES)
def test_it_is_empty_trained_and_a_function_of_sample_and_seed(factory, people):
    v, spec = people(130), IndexSpec(16, factory)
    data = template.train(v.embedding_ND, spec, 0)
    index = codec.load(data)
    assert index.is_trained
    assert index.ntotal == 0
    assert template.train(v.embedding_ND, spec, 0) == data
    other = template.train(v.embedding_ND, spec, 1)
    assert (other == data) == (spec.nlist is None), "only lists depend on the seed"


@pytest.mark.parametrize("factory", FACTORIES)
def test_its_centroids_are_those_of_its_lists(factory, people):
    v, spec = people(130), IndexSpec(16, factory)
    index = codec.load(template.train(v.embedding_ND, spec, 3))
    if spec.nlist is None:
        assert template.centroids(index) is None
        return
    centroid_MD = template.lists(v.embedding_ND, spec, 3)
    np.testing.assert_array_equal(template.centroids(index), centroid_MD)
    np.testing.assert_array_equal(template.centroids(template.for_search(index, spec)), centroid_MD)
    given = template.train(v.embedding_ND, spec, 99, centroid_MD)
    np.testing.assert_array_equal(template.centroids(codec.load(given)), centroid_MD)


def test_codes_are_trained_as_well_as_by_faiss(people):
    v, spec = people(400), IndexSpec(16, "IVF4,PQ8x4fsr")
    centroid_MD = template.lists(v.embedding_ND, spec, 0)
    theirs = faiss.index_factory(16, spec.coarse_factory, faiss.METRIC_INNER_PRODUCT)
    theirs.quantizer.add(centroid_MD)
    theirs.train(v.embedding_ND)
    errors = []
    for index in (codec.load(template.train(v.embedding_ND, spec, 0, centroid_MD)), theirs):
        index.add(v.embedding_ND)
        index.make_direct_map()
        errors.append(float(((index.reconstruct_n(0, len(v)) - v.embedding_ND) ** 2).sum(axis=1).mean()))
    assert errors[0] <= errors[1] * 1.05


def test_too_few_equal_or_wrong_vectors_are_refused(people):
    v = people()
    with pytest.raises(ConfigError, match=r"IVF4,Flat needs at least 156 vectors .* got 155; ask for fewer lists"):
        template.train(v.embedding_ND[:155], IVF, 0)
    with pytest.raises(ConfigError, match=r"all 200 sampled vectors are equal.*give --spec Flat"):
        template.train(np.repeat(v.embedding_ND[:1], 200, axis=0), IVF, 0)
    with pytest.raises(ValueError, match=r"shape \(300, 8\), expected \(N, 16\)"):
        template.train(v.embedding_ND[:, :8], IVF, 0)
    with pytest.raises(ValueError, match="not unit length"):
        template.train(2 * v.embedding_ND, IVF, 0)


def test_reading_is_limited_by_the_size_there_is_and_limits_are_put_back(people):
    data = bytearray(template.train(people().embedding_ND, IVF, 0))
    before = faiss.get_deserialization_vector_byte_limit()
    # The quantizer's vector of 4 x 16 floats is preceded by its length: claim a million million instead.
    at = bytes(data).index((64).to_bytes(8, "little"))
    data[at : at + 8] = (10**12 // 4).to_bytes(8, "little")
    with pytest.raises(Corrupt, match="limit"):
        codec.load(bytes(data))
    with pytest.raises(Corrupt, match="cannot read"):
        codec.load(b"not an index at all, but long enough to have a header")
    assert faiss.get_deserialization_vector_byte_limit() == before
