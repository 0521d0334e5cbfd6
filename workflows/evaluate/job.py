"""``likeness evaluate``: how good embeddings are, by the field's protocols, from verification to clustering.

Protocols and their figures are described in ``metric_core.evaluate``, one module per protocol.
"""

from typing import Any

from metric_core import storage
from metric_core.artefacts.collection import Collection
from metric_core.evaluate import all_pairs, classification, clustering, identification, pairs, retrieval, verification
from workflows.evaluate.config import EvaluateConfig
from workflows.shared import erasures


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate.

    Returns:
        --pairs and --verification: {accuracy, accuracy_se, auc, eer, tar_at_far, pairs, pairs_skipped};
        --identification: {rank1, rank5, probes, gallery, cmc};
        --retrieval: {precision_at_1, r_precision, map_at_r, queries, queries_skipped};
        --clustering: {nmi, bcubed: {precision, recall, f}, pairwise: {precision, recall, f}, clusters, people,
        pictures, threshold};
        --classification: {accuracy, neighbours, queries, queries_skipped}

    Raises:
        DataError: faces have no name, or a protocol does not work with those that there are.
    """
    source = erasures.without_erased(Collection.open(config.embeddings))
    if not config.pairs:  # a list of pairs says itself who is the same
        source.require_named("evaluation")
    if config.identification:
        return identification.report(*identification.split_gallery_probes(source.load()))
    if config.verification:
        return verification.report(all_pairs.balanced_scores(source.load(), all_pairs.BALANCED_PAIRS, seed=0))
    if config.retrieval:
        return retrieval.report(source.load())
    if config.clustering:
        return clustering.report(source.load(), config.threshold)
    if config.classification:
        return classification.report(source.load(), config.neighbours)
    listed = pairs.load(storage.absolute(config.pairs or ""))
    scores = verification.score_pairs(listed, source.iter_vectors(), source.namespace, source.salts, config.key_prefix)
    return verification.report(scores)
