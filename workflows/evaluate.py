"""``likeness evaluate``: how good embeddings are, by the field's protocols, from verification to clustering.

What a protocol asks and what its figures mean is said in ``metric_core.evaluate``, one module a protocol.
"""

from dataclasses import dataclass
from typing import Any

from metric_core import storage
from metric_core.collection import Collection
from metric_core.errors import ConfigError
from metric_core.evaluate import all_pairs, classification, clustering, identification, pairs, retrieval, verification
from workflows.parts import erasures
from workflows.parts.options import too_low


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure embeddings by one protocol."""

    embeddings: str
    """The Embeddings artefact to judge, or several read as one: A,B."""
    pairs: str | None = None
    """A pair list in LFW's format, or the InsightFace .bin that was catalogued: accuracy with the threshold chosen on
    the other folds, AUC, EER, TAR@FAR."""
    key_prefix: str = ""
    """What the catalogue's keys have before the pair list's names, such as images/."""
    verification: bool = False
    """Verification without a list: as many impostor as genuine pairs, drawn from the embeddings by a fixed seed."""
    identification: bool = False
    """Closed-set search, one gallery picture a person: rank-1, rank-5, CMC."""
    retrieval: bool = False
    """Every picture asks for all others of its person: P@1, R-precision, MAP@R."""
    clustering: bool = False
    """Groups made without names, by Chinese Whispers, against the people: NMI, B-cubed and pairwise F."""
    threshold: float | None = None
    """Similarity from which on --clustering links two pictures, such as a model's operating point, in (0, 1); default:
    the one with the best links by the labels."""
    classification: bool = False
    """Every picture is named by a weighted vote of its nearest others: accuracy."""
    neighbours: int = 5
    """Pictures that vote in --classification."""

    def __post_init__(self) -> None:
        protocols = ("verification", "identification", "retrieval", "clustering", "classification")
        problems = []
        if [bool(self.pairs), *(getattr(self, name) for name in protocols)].count(True) != 1:
            names = ", ".join(f"--{name}" for name in protocols[:-1])
            problems.append(f"give exactly one of --pairs FILE, {names} and --{protocols[-1]}")
        if self.threshold is not None and not self.clustering:
            problems.append(f"threshold is {self.threshold}, but only --clustering takes one")
        if self.threshold is not None and not 0 < self.threshold < 1:
            problems.append(f"threshold is {self.threshold}; it must lie between 0 and 1")
        problems += too_low(self, neighbours=1)
        if problems:
            raise ConfigError.of(problems)


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate.

    Returns:
        --pairs and --verification: {accuracy, accuracy_se, auc, eer, tar_at_far, pairs, pairs_skipped};
        --identification: {rank1, rank5, probes, gallery, cmc};
        --retrieval: {precision_at_1, r_precision, map_at_r, queries, queries_skipped};
        --clustering: {nmi, bcubed: {precision, recall, f}, pairwise: {precision, recall, f}, clusters, people,
        pictures, threshold};
        --classification: {accuracy, neighbours, queries, queries_skipped}
    """
    source = erasures.left_out(Collection.open(config.embeddings))
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
