"""Face verification: do two pictures show one person? Scores of a list of pairs, and the report on them.

A pair's score is the cosine of its unit vectors. The metrics are in ``metrics``; lists are read in ``pairs``;
``all_pairs`` computes scores without a list.
"""

# N: scored pairs, K: distinct pictures of a list, D: components, F: folds.

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from metric_core import counter, metrics
from metric_core.artefacts.embeddings import Vectors
from metric_core.artefacts.faces import face_id
from metric_core.errors import DataError
from metric_core.evaluate.all_pairs import measurable
from metric_core.evaluate.pairs import Pairs, PairScores

FARS = (1e-1, 1e-2, 1e-3)
_SPLITS = 10  # folds that a list with a single fold is divided into


def score_pairs(
    pairs: Pairs,
    blocks: Iterable[Vectors],
    namespace: str,
    salts: Mapping[str, int] | None = None,
    key_prefix: str = "",
) -> PairScores:
    """Cosine similarities of the pairs whose pictures are both among the embeddings.

    Args:
        pairs: which pictures to compare.
        blocks: the embeddings, e.g. ``Embeddings.iter_vectors()``; only rows that are in a pair are kept.
        namespace: the namespace of the face_ids.
        salts: the catalogue's collisions, key -> salt.
        key_prefix: the prefix that turns the pair list's keys into the catalogue's, such as ``images/``.

    Raises:
        DataError: no pair could be scored.
    """
    keys, at_N2 = np.unique(np.stack([pairs.a_key_N, pairs.b_key_N], axis=1).astype(str), return_inverse=True)
    at_N2 = at_N2.reshape(-1, 2)
    full = [key_prefix + key for key in keys.tolist()]
    wanted_K = np.array([face_id(namespace, key, (salts or {}).get(key, 0)) for key in full], dtype=np.int64)
    vector_KD: np.ndarray | None = None
    found_K = np.zeros(len(wanted_K), bool)
    for block in blocks:
        _, at_K, at_block = np.intersect1d(wanted_K, block.face_id_N, return_indices=True)
        if vector_KD is None:
            vector_KD = np.zeros((len(wanted_K), block.embedding_ND.shape[1]), np.float64)
        vector_KD[at_K] = block.embedding_ND[at_block]
        found_K[at_K] = True
    scored_N = found_K[at_N2].all(axis=1)
    if vector_KD is None or not scored_N.any():
        raise DataError(
            f"none of the {len(pairs)} pairs has both pictures among the embeddings: {int(found_K.sum())} of the "
            f"{len(full)} pictures were found; an example of a wanted key is {full[0]!r} in namespace {namespace!r}; "
            f"check the namespace and the key prefix"
        )
    a_N, b_N = at_N2[scored_N, 0], at_N2[scored_N, 1]
    score_N = np.einsum("nd,nd->n", vector_KD[a_N], vector_KD[b_N])
    return PairScores(score_N, pairs.same_N[scored_N], pairs.fold_N[scored_N], int((~scored_N).sum()))


def report(scores: PairScores, *, fars: Sequence[float] = FARS, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """The verification report of scored pairs.

    ``accuracy`` is the mean over folds, each evaluated at the threshold that is best on the *other* folds (Huang et al.
    2007, "Labeled Faces in the Wild"). A list with one fold is first divided into 10 seeded, stratified folds.

    ``accuracy_se`` is the standard error of that mean: std(ddof=1)/sqrt(folds) over the list's folds. If there are
    fewer than 5, it is the standard deviation over ``resamples`` bootstrap samples of the pairs (Efron and Tibshirani
    1993, ch. 6), each with its own thresholds. Genuine and impostor pairs are drawn separately. Every pair keeps its
    fold, so that copies of a pair are never both in a fold and outside it.

    ``tar_at_far`` is None for a FAR below 10/(number of impostor pairs), where too few pairs determine the threshold.

    Returns:
        {accuracy, accuracy_se, auc, eer, tar_at_far: {"1e-1": ...}, pairs (scored), pairs_skipped}

    Raises:
        DataError: there are fewer than 2 genuine or 2 impostor pairs, or all pairs outside a fold are of one kind.
    """
    score_N, same_N, fold_N = scores.score_N, scores.same_N, scores.fold_N
    genuine, impostor = int(same_N.sum()), int((~same_N).sum())
    if min(genuine, impostor) < 2:
        raise DataError(f"{genuine} genuine and {impostor} impostor pairs were scored; at least 2 of each are needed")
    folds = len(np.unique(fold_N))
    if folds == 1:
        fold_N = _stratified(same_N, seed)
    if any(len(np.unique(same_N[fold_N != fold])) < 2 for fold in np.unique(fold_N)):
        raise DataError("a fold has all genuine or all impostor pairs, so the others cannot give a threshold")
    accuracy_F = metrics.fold_accuracies(score_N, same_N, fold_N)
    if folds >= 5:
        se = float(accuracy_F.std(ddof=1) / np.sqrt(folds))
    else:
        se = _bootstrap_se(score_N, same_N, fold_N, resamples, seed)
    return {
        "accuracy": float(accuracy_F.mean()),
        "accuracy_se": se,
        "auc": metrics.auc(score_N, same_N),
        "eer": metrics.eer(score_N, same_N),
        "tar_at_far": {
            far_name(far): metrics.operating_point(score_N, same_N, far).tar if measurable(far, impostor) else None
            for far in fars
        },
        "pairs": len(score_N),
        "pairs_skipped": scores.skipped,
    }


def far_name(far: float) -> str:
    """The name of a false accept rate in results: ``1e-2`` for 0.01, ``2.5e-4`` for 0.00025."""
    digits, exponent = f"{far:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def _stratified(same_N: np.ndarray, seed: int) -> np.ndarray:
    """int64 (N,): up to 10 folds, each with an equal share of genuine and of impostor pairs, in seeded order."""
    fold_N = np.empty(len(same_N), np.int64)
    folds = min(_SPLITS, int(same_N.sum()), int((~same_N).sum()))
    random = counter.generator(seed, "verification-folds")
    for kind in (True, False):
        at = np.flatnonzero(same_N == kind)
        fold_N[at] = random.permutation(np.arange(len(at)) % folds)
    return fold_N


def _bootstrap_se(score_N: np.ndarray, same_N: np.ndarray, fold_N: np.ndarray, resamples: int, seed: int) -> float:
    order = np.argsort(score_N, kind="stable")  # sorted input makes the sorts in the loop fast
    score_N, same_N, fold_N = score_N[order], same_N[order], fold_N[order]
    random = counter.generator(seed, "verification-bootstrap")
    kinds = [np.flatnonzero(same_N), np.flatnonzero(~same_N)]
    accuracies: list[float] = []
    while len(accuracies) < resamples:
        at = np.sort(np.concatenate([random.choice(kind, len(kind)) for kind in kinds]))
        drawn = fold_N[at]
        if any(len(np.unique(same_N[at][drawn != fold])) < 2 for fold in np.unique(drawn)):
            continue  # a small list can lose all pairs of one kind outside a fold; then there is no threshold
        accuracies.append(float(metrics.fold_accuracies(score_N[at], same_N[at], drawn).mean()))
    return float(np.std(accuracies, ddof=1))
