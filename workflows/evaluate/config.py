"""The options of ``likeness evaluate``."""

from dataclasses import dataclass
from typing import ClassVar

from metric_core.options import Options, out_of_range


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Options):
    """Measure embeddings by one protocol."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "input": ("embeddings",),
        "protocols": ("pairs", "verification", "identification", "retrieval", "clustering", "classification"),
        "settings of a protocol": ("key_prefix", "threshold", "neighbours"),
    }

    embeddings: str
    """The Embeddings artefact to evaluate, or several read as one: A,B."""
    pairs: str | None = None
    """Verification by a pair list in LFW's format, or by the InsightFace .bin that was catalogued: accuracy with the
    threshold chosen on the other folds, AUC, EER, TAR@FAR."""
    key_prefix: str = ""
    """Prefix of the catalogue's keys, such as images/, that the names in the pair list do not have."""
    verification: bool = False
    """Verification without a list: as many impostor as genuine pairs, drawn with a fixed seed."""
    identification: bool = False
    """Closed-set identification with one gallery picture per person: rank-1, rank-5, CMC."""
    retrieval: bool = False
    """Every picture as a query for all other pictures of its person: P@1, R-precision, MAP@R."""
    clustering: bool = False
    """Clusters by Chinese Whispers, compared with the identities: NMI, B-cubed and pairwise F."""
    threshold: float | None = None
    """Similarity from which --clustering links two pictures, between 0 and 1, such as a model's operating point;
    default: the one whose links agree best with the identities."""
    classification: bool = False
    """Leave-one-out classification of every picture by a weighted vote of its nearest neighbours: accuracy."""
    neighbours: int = 5
    """Number of neighbours that vote in --classification."""

    def problems(self) -> list[str]:
        protocols = ("verification", "identification", "retrieval", "clustering", "classification")
        problems = out_of_range(self, threshold="(0, 1)", neighbours="[1, inf)")
        if [bool(self.pairs), *(getattr(self, name) for name in protocols)].count(True) != 1:
            names = ", ".join(f"--{name}" for name in protocols[:-1])
            problems.append(f"give exactly one of --pairs FILE, {names} and --{protocols[-1]}")
        if self.threshold is not None and not self.clustering:
            problems.append(f"threshold is {self.threshold}, but only --clustering takes one")
        return problems
