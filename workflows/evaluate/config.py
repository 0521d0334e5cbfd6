"""The options of ``likeness evaluate``."""

from dataclasses import dataclass

from metric_core.options import Options, out_of_range


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Options):
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

    def problems(self) -> list[str]:
        protocols = ("verification", "identification", "retrieval", "clustering", "classification")
        problems = out_of_range(self, threshold="(0, 1)", neighbours="[1, inf)")
        if [bool(self.pairs), *(getattr(self, name) for name in protocols)].count(True) != 1:
            names = ", ".join(f"--{name}" for name in protocols[:-1])
            problems.append(f"give exactly one of --pairs FILE, {names} and --{protocols[-1]}")
        if self.threshold is not None and not self.clustering:
            problems.append(f"threshold is {self.threshold}, but only --clustering takes one")
        return problems
