"""How alike the scores of two sets of labelled vectors are, and the law whose vectors have the scores of a given set.

Genuine scores are cosines of two pictures of one person, impostor scores of two people.
"""

# P: people, N: pictures, D: components, G: genuine pairs, I: impostor pairs, Q: quantiles.

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import real_vectors
from matplotlib.figure import Figure
from population import LAWS, Law, Population
from scipy.optimize import minimize

from metric_core import counter, metrics
from metric_core.artefacts.embeddings import Embeddings, Vectors

MOST_PICTURES = 8
"""Pictures per person that count: pairs grow with their square, and a few people would have nearly all of them."""
BINS = np.linspace(-1, 1, 101)
SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
"""Quantiles in the table."""
JUDGED = range(100, 110)
"""Random seeds of the populations in the table, which no law is fitted to."""
REAL: dict[str, Callable[[str], str]] = {
    "lfw": partial(real_vectors.lfw, split="valid"),
    "drawn": partial(real_vectors.people_drawn, people=200, pictures=8),
}
"""What each of ``LAWS`` is fitted to, made in a work folder."""
FITTED = ("mean", "between", "within", "decay", "noise", "spread", "freedom")
"""Fields of a law that are fitted."""


@dataclass(frozen=True)
class Scores:
    """Scores of all pairs of a set, and how well it identifies."""

    genuine_G: np.ndarray
    impostor_I: np.ndarray
    rank1: float
    """Share of pictures whose most similar picture is of the same person, of people with two or more."""

    @property
    def eer(self) -> float:
        """Equal error rate of all pairs."""
        same = np.arange(len(self.genuine_G) + len(self.impostor_I)) < len(self.genuine_G)
        return metrics.eer(np.concatenate([self.genuine_G, self.impostor_I]), same)


def people_of(labelled: Vectors, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """int64 (N,) and float32 (N, D): numbers of people and vectors, without what is beyond ``MOST_PICTURES``. People
    are in random order, as ``Population`` expects them."""
    _, person_N = np.unique(labelled.identity_N.astype(str), return_inverse=True)
    person_N = counter.generator(seed, "order of people").permutation(person_N.max() + 1)[person_N]
    order_N = np.lexsort((labelled.face_id_N, person_N))
    person_N, emb_ND = person_N[order_N], labelled.embedding_ND[order_N]
    nth_N = np.arange(len(person_N)) - np.searchsorted(person_N, person_N)
    return person_N[nth_N < MOST_PICTURES], emb_ND[nth_N < MOST_PICTURES]


def of(person_N: np.ndarray, emb_ND: np.ndarray) -> Scores:
    """The scores of all pairs."""
    sim_NN = emb_ND @ emb_ND.T
    same_NN = person_N[:, None] == person_N[None, :]
    upper = np.triu_indices(len(sim_NN), k=1)
    score_N, same_N = sim_NN[upper], same_NN[upper]
    np.fill_diagonal(sim_NN, -2)
    right_N = person_N[sim_NN.argmax(axis=1)] == person_N
    several_N = np.bincount(person_N)[person_N] > 1
    return Scores(score_N[same_N], score_N[~same_N], float(right_N[several_N].mean()))


def minted(pictures_P: np.ndarray, dim: int, law: Law, seeds: range) -> Scores:
    """The scores of synthetic people with these numbers of pictures, of several populations together."""
    found = []
    for seed in seeds:
        (person_N, emb_ND), *_ = Population(pictures_P, dim, seed, law).blocks()
        found.append(of(person_N, emb_ND))
    genuine_G, impostor_I = (np.concatenate([getattr(s, f) for s in found]) for f in ("genuine_G", "impostor_I"))
    return Scores(genuine_G, impostor_I, float(np.mean([s.rank1 for s in found])))


def histogram(score_N: np.ndarray) -> np.ndarray:
    """Share of the scores in each bin of ``BINS``."""
    share: np.ndarray = np.histogram(score_N, BINS)[0] / len(score_N)
    return share


def overlap(a_N: np.ndarray, b_N: np.ndarray) -> float:
    """Common area of two histograms of scores: 1 when they are equal."""
    return float(np.minimum(histogram(a_N), histogram(b_N)).sum())


def fit(person_N: np.ndarray, emb_ND: np.ndarray, start: Law, *, seeds: range = range(2), steps: int = 200) -> Law:
    """The law, beginning at ``start``, whose scores have the quantiles of a set's scores, by Nelder-Mead's method.

    Args:
        person_N: int64 (N,), as from ``people_of``.
        emb_ND: float32 (N, D), unit length.
        start: where to begin; it also gives the fields that are not fitted.
        seeds: populations whose scores are compared; always the same ones, so that the distance is smooth.
        steps: number of laws to try.
    """
    pictures_P, real = np.bincount(person_N), of(person_N, emb_ND)
    share_Q = np.concatenate([np.arange(0.005, 1, 0.01), [0.999, 0.9999]])
    wanted = [np.quantile(score_N, share_Q) for score_N in (real.genuine_G, real.impostor_I)]

    def law_at(logs: np.ndarray) -> Law:
        return replace(start, **dict(zip(FITTED, np.exp(logs).tolist())))

    def distance(logs: np.ndarray) -> float:
        try:
            found = minted(pictures_P, emb_ND.shape[1], law_at(logs), seeds)
        except ValueError:  # so many dimensions are not to be had: far from any fit
            return 10.0
        reached = [np.quantile(score_N, share_Q) for score_N in (found.genuine_G, found.impostor_I)]
        off = [np.abs(a - b) / a.std() for a, b in zip(wanted, reached)]
        # Searches of large galleries meet the few most similar strangers.
        return float(off[0].mean() + off[1].mean() + 0.5 * off[1][-4:].mean()) + abs(found.rank1 - real.rank1)

    begin = np.log([getattr(start, name) for name in FITTED])
    simplex = np.vstack([begin, begin + 0.2 * np.eye(len(begin))])
    best = minimize(distance, begin, method="Nelder-Mead", options={"maxfev": steps, "initial_simplex": simplex})
    return law_at(best.x)


def compare(law_name: str, work: str, *, picture: str | None, refit: bool) -> None:
    """Print the scores of real vectors beside those of a law, without and with its twins and wrong labels, of which
    the real sets have few; optionally draw them, and fit the law again."""
    person_N, emb_ND = people_of(Embeddings.open(REAL[law_name](work)).load())
    real, law, pictures_P = of(person_N, emb_ND), LAWS[law_name], np.bincount(person_N)
    clean = replace(law, twins=0.0, wrong=0.0)
    if refit:
        clean = fit(person_N, emb_ND, clean)
        print(clean)
        law = replace(clean, twins=law.twins, wrong=law.wrong)
    found = {
        name: minted(pictures_P, emb_ND.shape[1], one, JUDGED) for name, one in (("clean", clean), ("minted", law))
    }
    print(f"{len(person_N)} pictures of {len(pictures_P)} people; {len(JUDGED)} minted populations of the same sizes")
    print(table({"real": real, **found}))
    if picture:
        draw(picture, real, found["clean"], f"{law_name}, {emb_ND.shape[1]} components")


def table(scores: dict[str, Scores]) -> str:
    """All side by side: quantiles, overlap of the histograms with those of the first, and error rates."""
    lines = [f"{'':<28}" + "".join(f"{name:>10}" for name in scores)]

    def line(name: str, values: Iterable[float]) -> None:
        lines.append(f"{name:<28}" + "".join(f"{value:>10.3f}" for value in values))

    for kind in ("genuine", "impostor"):
        of_kind = [s.genuine_G if kind == "genuine" else s.impostor_I for s in scores.values()]
        for share in SHARES:
            line(f"{kind}, quantile {share:g}", (float(np.quantile(score_N, share)) for score_N in of_kind))
        line(f"{kind}, overlap", (overlap(of_kind[0], score_N) for score_N in of_kind))
    line("equal error rate", (s.eer for s in scores.values()))
    line("rank-1", (s.rank1 for s in scores.values()))
    return "\n".join(lines)


def draw(path: str, real: Scores, other: Scores, title: str) -> None:
    """Draw both histograms into a file."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, colour, a_N, b_N in (
        ("genuine", "tab:green", real.genuine_G, other.genuine_G),
        ("impostor", "tab:red", real.impostor_I, other.impostor_I),
    ):
        axes.stairs(histogram(a_N), BINS, fill=True, alpha=0.35, color=colour, label=f"{name}, real")
        axes.stairs(histogram(b_N), BINS, color=colour, label=f"{name}, minted")
    axes.set(title=title, xlabel="cosine", ylabel="share of pairs")
    axes.legend()
    figure.savefig(path)
