"""``likeness evaluate``: how good embeddings are, by the field's protocols: verification or identification."""

from dataclasses import dataclass
from typing import Any

from metric_core import storage
from metric_core.embeddings import Embeddings
from metric_core.errors import ConfigError
from metric_core.evaluate import all_pairs, identification, pairs, verification

MAX_PAIRS = 12_000


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure verification or identification."""

    embeddings: str
    """The Embeddings artefact to judge."""
    pairs: str | None = None
    """A pair list in LFW's format, or the InsightFace .bin that was catalogued: accuracy with the threshold chosen on
    the other folds, AUC, EER, TAR@FAR."""
    key_prefix: str = ""
    """What the catalogue's keys have before the pair list's names, such as images/."""
    verification: bool = False
    """Verification without a list: as many impostor as genuine pairs, drawn from the embeddings by a fixed seed."""
    identification: bool = False
    """Closed-set search, one gallery picture a person: rank-1, rank-5, CMC."""

    def __post_init__(self) -> None:
        if [bool(self.pairs), self.verification, self.identification].count(True) != 1:
            raise ConfigError("give one of --pairs FILE, --verification and --identification")


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate.

    Returns:
        --pairs and --verification: {accuracy, accuracy_se, auc, eer, tar_at_far, pairs, pairs_skipped};
        --identification: {rank1, rank5, probes, gallery, cmc}
    """
    source = Embeddings.open(config.embeddings)
    if config.identification:
        return identification.report(*identification.split_gallery_probes(source.load()))
    if config.verification:
        return verification.report(all_pairs.balanced_scores(source.load(), MAX_PAIRS, seed=0))
    listed = pairs.load(storage.absolute(config.pairs or ""))
    salts = source.manifest.content["salts"]
    scores = verification.score_pairs(listed, source.iter_vectors(), source.namespace, salts, config.key_prefix)
    return verification.report(scores)
