"""The template of a version: an empty trained index, which every shard starts as a copy of.

Lists of different centroids, or codes of different codebooks, cannot be searched together, and FAISS does not notice.
"""

# N: training rows, D: components, M: lists.

from typing import Any

import numpy as np

from metric_core.artefacts.embeddings import check_unit
from metric_core.errors import ConfigError
from metric_core.index.engine import faiss
from metric_core.index.kmeans import kmeans
from metric_core.index.products import nearest
from metric_core.index.spec import IndexSpec

_CODE_ROWS = 16_384
"""Rows that codes are trained with; FAISS's product quantizer uses 256 for each of its 16 centroids."""


def train(sample_ND: np.ndarray, spec: IndexSpec, seed: int, centroid_MD: np.ndarray | None = None) -> bytes:
    """An empty trained index, serialized.

    Args:
        sample_ND: float32 (N, D), unit length, spread over the corpus; unused by ``Flat`` and ``SQfp16``.
        spec: what to build.
        seed: random seed of k-means.
        centroid_MD: lists that are trained already; None to train them.

    Raises:
        ConfigError: fewer rows than the lists need, or all of them are equal.
        ValueError: the sample does not have ``spec.dim`` components or unit length.
    """
    if sample_ND.ndim != 2 or sample_ND.shape[1] != spec.dim:
        raise ValueError(f"the sample has shape {sample_ND.shape}, expected (N, {spec.dim})")
    check_unit(sample_ND, "training sample")
    index = faiss.index_factory(spec.dim, spec.coarse_factory, faiss.METRIC_INNER_PRODUCT)
    if spec.nlist is None:
        if not index.is_trained:
            index.train(np.ascontiguousarray(sample_ND, dtype=np.float32))
        return serialized(index)
    if centroid_MD is None:
        centroid_MD = lists(sample_ND, spec, seed)
    index.quantizer.add(centroid_MD)
    if spec.M is not None:
        # an order of the codebook that nothing here makes use of, at 15 times the cost
        index.do_polysemous_training = False
    some_ND = np.ascontiguousarray(sample_ND[:: max(1, len(sample_ND) // _CODE_ROWS)], dtype=np.float32)
    list_N, _ = nearest(some_ND, centroid_MD)
    if index.by_residual:
        some_ND = some_ND - centroid_MD[list_N]
    # FAISS's own ``train`` would search the lists again, at five times the cost.
    index.train_encoder(len(some_ND), faiss.swig_ptr(some_ND), faiss.swig_ptr(list_N))
    index.is_trained = True
    return serialized(index)


def lists(sample_ND: np.ndarray, spec: IndexSpec, seed: int) -> np.ndarray:
    """float32 (M, D): the centroids of the lists. Raises ConfigError as ``train``."""
    if len(sample_ND) < spec.min_train_rows:
        raise ConfigError(
            f"{spec.factory} needs at least {spec.min_train_rows} vectors to train its lists, got {len(sample_ND)}; "
            f"ask for fewer lists or for 'Flat'"
        )
    if len(sample_ND) > 1 and (np.ptp(sample_ND, axis=0) == 0).all():
        raise ConfigError(all_equal(len(sample_ND)))
    return kmeans(sample_ND, spec.nlist or 1, seed=seed)


def all_equal(count: int) -> str:
    """The message for so many vectors that are all equal."""
    return (
        f"all {count} sampled vectors are equal, so they cannot be told apart; look at the pictures and at the model "
        f"that embedded them, or give --spec Flat"
    )


def serialized(index: Any) -> bytes:
    """The index as bytes."""
    data: bytes = faiss.serialize_index(index).tobytes()
    return data


def centroids(index: Any, *, copy: bool = True) -> np.ndarray | None:
    """float32 (M, D): the centroids of an index's lists; None if it has no lists.

    Args:
        index: an index that has its centroids.
        copy: False for its own memory, which must not be used when the index is gone.
    """
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is None:
        return None
    flat = faiss.downcast_index(ivf.quantizer)
    centroid_MD: np.ndarray = faiss.rev_swig_ptr(flat.get_xb(), ivf.nlist * ivf.d).reshape(ivf.nlist, ivf.d)
    return centroid_MD.copy() if copy else centroid_MD


def for_search(index: Any, spec: IndexSpec) -> Any:
    """The filled index in the form that is searched: codes for fast scan are interleaved, which FAISS cannot do while
    rows are added to lists that were found before."""
    if not spec.fast_scan:
        return index
    kind = {"PQ": faiss.IndexIVFPQFastScan, "RaBitQ": faiss.IndexIVFRaBitQFastScan}[spec.code]
    return kind(index)
