"""``likeness evaluate``: how good embeddings are, by the field's protocols: verification pairs or identification."""

from dataclasses import dataclass
from typing import Any

from metric_core import storage
from metric_core.embeddings import Embeddings
from metric_core.errors import ConfigError
from metric_core.evaluate import identification, pairs, verification


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure verification or identification."""

    embeddings: str
    """The Embeddings artefact to judge."""
    pairs: str | None = None
    """A pair list in LFW's format: accuracy with the threshold chosen on the other folds, AUC, EER, TAR@FAR."""
    key_prefix: str = ""
    """What the catalogue's keys have before the pair list's names, such as images/."""
    identification: bool = False
    """Closed-set search, one gallery picture a person: rank-1, rank-5, CMC."""

    def __post_init__(self) -> None:
        if bool(self.pairs) == self.identification:
            raise ConfigError("give either --pairs FILE or --identification")


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate.

    Returns:
        --pairs: {accuracy, accuracy_se, auc, eer, tar_at_far, pairs, pairs_skipped};
        --identification: {rank1, rank5, probes, gallery, cmc}
    """
    source = Embeddings.open(config.embeddings)
    if config.identification:
        return identification.report(*identification.split_gallery_probes(source.load()))
    address = storage.absolute(config.pairs or "")
    listed = pairs.read_pairs(storage.read_bytes(address).decode(), address)
    salts = source.manifest.content["salts"]
    scores = verification.score_pairs(listed, source.iter_vectors(), source.namespace, salts, config.key_prefix)
    return verification.report(scores)
