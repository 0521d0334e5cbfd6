import numpy as np
import pytest

from metric_core.artefacts.embeddings import Vectors
from metric_core.evaluate import neighbours, retrieval


def _of_one_query(right: list[bool]) -> tuple[float, float, float]:
    """P@1, R-precision and MAP@R of a query; ``right``: whether each other picture, best first, is correct."""
    r = sum(right)
    precision_at = [sum(right[:i]) / i for i in range(1, r + 1)]
    return float(right[0]), sum(right[:r]) / r, sum(p for p, yes in zip(precision_at, right) if yes) / r


@pytest.mark.parametrize(
    ("at", "expected"),
    [([1], (1, 0.1, 0.1)), ([1, 10], (1, 0.2, 0.12)), ([1, 2], (1, 0.2, 0.2)), (range(1, 11), (1, 1, 1))],
)
def test_the_oracle_gives_the_papers_figures(at, expected):
    """Musgrave et al. 2020, section 3.2: of ten correct answers, those at ranks ``at`` are among the first ten."""
    right = [rank in at for rank in range(1, 11)] + [True] * (10 - len(at))
    assert _of_one_query(right) == pytest.approx(expected)


@pytest.mark.parametrize(("sizes", "block"), [([1, 2, 3, 4] * 6, 1024), ([1, 2, 40, 7, 1, 15], 8), ([2, 2], 1024)])
def test_report_equals_a_loop(sizes, block, people, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    v = people(sizes, noise=1.0)
    figures = []
    for row, (emb_D, name) in enumerate(zip(v.embedding_ND, v.identity_N)):
        others = [i for i in np.argsort(-(v.embedding_ND @ emb_D)) if i != row]
        if name in v.identity_N[others]:
            figures.append(_of_one_query([v.identity_N[i] == name for i in others]))
    report = retrieval.report(v)
    means = (report["precision_at_1"], report["r_precision"], report["map_at_r"])
    assert means == pytest.approx(np.mean(figures, axis=0))
    assert 0 < report["map_at_r"] <= report["r_precision"] <= 1
    assert (report["queries"], report["queries_skipped"]) == (len(figures), sizes.count(1))


def test_separate_people_are_perfect_and_equal_vectors_are_chance(people):
    v = people([2, 3, 4, 1] * 5, noise=0.0, dim=64)
    figures = ("precision_at_1", "r_precision", "map_at_r")
    assert [retrieval.report(v)[name] for name in figures] == [1, 1, 1]
    alike = Vectors(v.face_id_N, v.identity_N, np.repeat(v.embedding_ND[:1], len(v), axis=0))
    assert all(retrieval.report(alike)[name] < 0.3 for name in figures)
