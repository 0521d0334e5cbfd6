"""Closed-set identification: every probe's person is in the gallery; at which rank are they found?

The cumulative match characteristic (CMC) gives the share of probes found within the first r ranks (Phillips, Grother
and Micheals 2011, "Evaluation methods in face recognition").
"""

# P: probes, G: gallery, D: components, B: probes of a block.

from typing import Any

import numpy as np

from metric_core.artefacts.embeddings import Vectors
from metric_core.errors import TooFewImages

CMC_RANKS = 20
_BLOCK = 1024
_TIE = 1e-6  # float32 sums of equal vectors may differ by this much


def split_gallery_probes(vectors: Vectors) -> tuple[Vectors, Vectors]:
    """One picture per person as the gallery, and all others as probes.

    The gallery has each identity's smallest face_id. This is as good as a random choice, because ids are hashes, and
    does not depend on the order of rows. A person's only picture is in the gallery and makes the search harder.

    Returns:
        (gallery, probes), each sorted by face_id.

    Raises:
        TooFewImages: there are fewer than two people, or nobody has two pictures.
    """
    order = np.argsort(vectors.face_id_N, kind="stable")
    names, first = np.unique(vectors.identity_N[order].astype(str), return_index=True)
    if len(names) < 2 or len(names) == len(order):
        raise TooFewImages(
            f"identification needs at least 2 people, one of them with 2 pictures; there are {len(names)} people with "
            f"{len(order)} pictures"
        )
    in_gallery = np.zeros(len(order), bool)
    in_gallery[first] = True
    gallery, probes = (
        Vectors(vectors.face_id_N[at], vectors.identity_N[at], vectors.embedding_ND[at])
        for at in (order[in_gallery], order[~in_gallery])
    )
    return gallery, probes


def ranks(gallery: Vectors, probes: Vectors) -> np.ndarray:
    """int64 (P,): the rank of each probe's person, from 1; computed in blocks of probes, never P x G at once.

    Ties count as errors: a rank is 1 + the number of *other* people who score at least as high, within float32
    rounding (1e-6). So a model that gives everybody the same vector is never right by chance.

    Raises:
        ValueError: a person is in the gallery twice, or a probe's person is not in it.
    """
    name_G = gallery.identity_N.astype(str)
    order = np.argsort(name_G)
    if (name_G[order][1:] == name_G[order][:-1]).any():
        raise ValueError("the gallery must have one picture per person")
    name_P = probes.identity_N.astype(str)
    at_P = order[np.minimum(np.searchsorted(name_G[order], name_P), len(order) - 1)]
    if (name_G[at_P] != name_P).any():
        raise ValueError(f"{str(name_P[name_G[at_P] != name_P][0])!r} is among the probes but not in the gallery")
    out = np.empty(len(name_P), np.int64)
    for start in range(0, len(name_P), _BLOCK):
        at_B = at_P[start : start + _BLOCK]
        sim_BG = probes.embedding_ND[start : start + _BLOCK] @ gallery.embedding_ND.T
        own_B = sim_BG[np.arange(len(at_B)), at_B]
        out[start : start + _BLOCK] = (sim_BG >= own_B[:, None] - _TIE).sum(axis=1)  # counts the person too
    return out


def report(gallery: Vectors, probes: Vectors) -> dict[str, Any]:
    """The report of closed-set identification.

    Returns:
        {rank1, rank5, probes, gallery, cmc}: shares of the probes, counts, and the CMC at ranks 1, 2, ... up to 20 or
        the size of the gallery.

    Raises:
        TooFewImages: there are no probes.
        ValueError: as ``ranks``.
    """
    if not len(probes):
        raise TooFewImages("identification needs at least one probe")
    rank_P = ranks(gallery, probes)
    return {
        "rank1": float(np.mean(rank_P <= 1)),
        "rank5": float(np.mean(rank_P <= 5)),
        "probes": len(probes),
        "gallery": len(gallery),
        "cmc": [float(np.mean(rank_P <= r)) for r in range(1, min(CMC_RANKS, len(gallery)) + 1)],
    }
