"""The losses and miners as plain loops over float64 scalars, with autograd for the gradient."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from metric_core import counter
from metric_core.errors import ConfigError
from metric_core.learn.objective import Distance, Form, Loss, Miner, Objective, Reduction

SEED, STEP = 3, 5
TIE = 2e-12  # squared distances that differ by no more than this count as equal


def distance(x_D: Tensor, y_D: Tensor, kind: str) -> Tensor:
    if kind == "cosine":
        return 1.0 - x_D @ y_D
    square = (x_D - y_D) @ (x_D - y_D)
    if kind == "squared-euclidean":
        return square
    return square.sqrt() if square > 1e-27 else square * 0.0


def mined(miner: str, emb_BD: Tensor, label: list[int], face_id: list[int]) -> list[tuple[int, int, int]]:
    """Every (anchor, positive, negative) that the miner selects."""

    def farthest(a: int, among: list[int], sign: float = 1.0) -> int:
        far = {j: sign * square(a, j) for j in among}
        return min((j for j in among if far[j] >= max(far.values()) - TIE), key=lambda j: face_id[j])

    def square(i: int, j: int) -> float:
        return float(((emb_BD[i] - emb_BD[j]) ** 2).sum())

    triplets = []
    for a in range(len(label)):
        # in the order of face_id, which determines a positive's draw
        same = sorted((j for j in range(len(label)) if label[j] == label[a]), key=lambda j: (face_id[j], j))
        positives = [j for j in same if face_id[j] != face_id[a]]
        negatives = [j for j in range(len(label)) if label[j] != label[a]]
        if not positives or not negatives:
            continue
        nearest_negative = farthest(a, negatives, -1.0)
        if miner == "batch-hard":
            triplets.append((a, farthest(a, positives), nearest_negative))
        elif miner == "easy-positive":
            triplets.append((a, farthest(a, positives, -1.0), nearest_negative))
        elif miner == "all":
            triplets += [(a, p, n) for p in positives for n in negatives]
        elif miner == "semi-hard":
            for p in positives:
                beyond = [n for n in negatives if square(a, n) > square(a, p) + TIE]
                chosen = farthest(a, beyond, -1.0) if beyond else farthest(a, negatives)
                triplets.append((a, p, chosen))
        elif miner == "distance-weighted":
            dim = emb_BD.shape[1]
            draws = counter.uniform(SEED, STEP, np.array([face_id[a]]), "distance-weighted", len(same))[0]
            weights = {}
            for n in negatives:
                d = max(0.5, math.sqrt(square(a, n)))
                log_q = (dim - 2) * math.log(d) + (dim - 3) / 2 * math.log(max(1e-300, 1 - d * d / 4))
                weights[n] = math.exp(-log_q) if d <= 1.4 else 0.0
            if not any(weights.values()):
                weights = dict.fromkeys(negatives, 1.0)
            for p in positives:
                left = draws[same.index(p)] * sum(weights.values())
                for chosen in negatives:
                    left -= weights[chosen]
                    if left < 0:
                        break
                triplets.append((a, p, chosen))
    return triplets


def loss(objective: Objective, emb_BD: Tensor, label: list[int], face_id: list[int]) -> Tensor:
    """The loss of the whole batch, differentiable in ``emb_BD``. A face's view is its face_id's parity."""
    if objective.loss == "triplet":
        return triplet_loss(objective, emb_BD, label, face_id)
    terms = []
    for a in range(len(label)):
        positives = [j for j in range(len(label)) if label[j] == label[a] and face_id[j] != face_id[a]]
        if objective.loss == "multi-view":
            positives = [j for j in positives if face_id[j] % 2 != face_id[a] % 2]
        negatives = [j for j in range(len(label)) if label[j] != label[a]]
        if not positives or not negatives:
            continue
        d_ap = [distance(emb_BD[a], emb_BD[p], objective.distance) for p in positives]
        d_an = [distance(emb_BD[a], emb_BD[n], objective.distance) for n in negatives]
        terms.append(anchor_loss(objective, d_ap, d_an))
    return torch.stack(terms).mean() if terms else (emb_BD * 0.0).sum()


def memory_loss(
    o: Objective,
    emb_BD: Tensor,
    label: list[int],
    face_id: list[int],
    rows: list[tuple[Tensor, int, int, int]],
) -> Tensor:
    """The loss of the batch's anchors against remembered (embedding, label, face_id, step)."""
    terms = []
    for a in range(len(label)):
        positives = [row for row in rows if row[1] == label[a] and row[2] != face_id[a]]
        if o.loss == "multi-view":
            positives = [row for row in positives if row[2] % 2 != face_id[a] % 2]
        negatives = [row for row in rows if row[1] != label[a]]
        if not positives or not negatives:
            continue
        d_ap = [distance(emb_BD[a], row[0], o.distance) for row in positives]
        d_an = [distance(emb_BD[a], row[0], o.distance) for row in negatives]
        if o.pairs == "batch-hard":
            terms.append((max(d_ap) - min(d_an) + o.margin).clamp(min=0.0))
        elif o.loss == "triplet":
            costs = [(p - n + o.margin).clamp(min=0.0) for p in d_ap for n in d_an]
            terms.append(sum(costs) / len(costs))
        else:
            terms.append(anchor_loss(o, d_ap, d_an))
    return torch.stack(terms).mean() if terms else (emb_BD * 0.0).sum()


def anchor_loss(o: Objective, d_ap: list[Tensor], d_an: list[Tensor]) -> Tensor:
    if o.loss == "contrastive":
        pull = [0.5 * (d - o.positive_margin).clamp(min=0) ** 2 for d in d_ap]
        push = [0.5 * (o.margin - d).clamp(min=0) ** 2 for d in d_an]
        if o.reduction == "active":
            pull = [term for term in pull if term > 0] or [0 * d_ap[0]]
            push = [term for term in push if term > 0] or [0 * d_an[0]]
        return sum(pull) / len(pull) + sum(push) / len(push)
    if o.loss == "multi-similarity":
        if o.pairs == "multi-similarity":
            farthest, nearest = max(d_ap), min(d_an)
            d_ap = [d for d in d_ap if d > nearest - o.epsilon]
            d_an = [d for d in d_an if d < farthest + o.epsilon]
        pull = sum((o.alpha * (d - o.base)).exp() for d in d_ap)
        push = sum((-o.beta * (d - o.base)).exp() for d in d_an)
        return torch.as_tensor(1 + pull).log() / o.alpha + torch.as_tensor(1 + push).log() / o.beta
    return (1 + sum(((p - n) / o.temperature).exp() for p in d_ap for n in d_an)).log()


def triplet_loss(objective: Objective, emb_BD: Tensor, label: list[int], face_id: list[int]) -> Tensor:
    triplets = mined(objective.pairs, emb_BD.detach(), label, face_id)
    terms: dict[int, list[Tensor]] = {}
    for a, p, n in triplets:
        d_ap = distance(emb_BD[a], emb_BD[p], objective.distance)
        d_an = distance(emb_BD[a], emb_BD[n], objective.distance)
        if objective.form == "soft":
            term = torch.logaddexp(d_ap - d_an, emb_BD.new_zeros(()))
        else:
            term = (d_ap - d_an + objective.margin).clamp(min=0.0)
        terms.setdefault(a, []).append(term)
    if objective.reduction == "active":
        active = [term for parts in terms.values() for term in parts if term > 0]
        return torch.stack(active).mean() if active else (emb_BD * 0.0).sum()
    means = [torch.stack(parts).mean() for parts in terms.values()]
    return torch.stack(means).mean() if means else (emb_BD * 0.0).sum()


def objectives() -> list[Objective]:
    """Every valid combination of loss, distance, miner, form and reduction, without those that differ in name only."""
    found = []
    grid = itertools.product(*(get_args(part) for part in (Loss, Distance, Miner, Form, Reduction)))
    for loss, distance, miner, form, reduction in grid:
        try:
            objective = Objective(
                loss=loss, distance=distance, miner=miner, form=form, reduction=reduction, margin=0.37,
                positive_margin=0.03, temperature=0.2, beta=10.0,
            )  # fmt: skip
        except ConfigError:
            continue
        uses_form = loss == "triplet" or form == "hinge"
        uses_reduction = loss in ("triplet", "contrastive") or reduction == "anchors"
        if miner != "auto" and uses_form and uses_reduction:
            found.append(objective)
    return found


def name(o: Objective) -> str:
    return f"{o.loss}-{o.miner}-{o.distance}-{o.form}-{o.reduction}"


Labelled = tuple[Tensor, list[int], list[int]]


def batches(seed: int = 0) -> dict[str, Labelled]:
    """Unit vectors in float64, labels and face_ids: a random batch and every special case."""
    draw = torch.Generator().manual_seed(seed)

    def random(n: int, d: int = 5) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(n, d, generator=draw, dtype=torch.float64))

    def ids(n: int) -> list[int]:
        return torch.randperm(1000, generator=draw)[:n].tolist()

    plain = random(12)
    copied = random(12)
    copied[5], copied[8], copied[9] = copied[0], copied[0], copied[3]
    again = ids(12)
    again[1] = again[0]  # the same image drawn twice
    copied[1] = copied[0]
    signs = torch.tensor([[1 - 2 * (i >> b & 1) for b in range(4)] for i in range(16)], dtype=torch.float64)
    lattice = signs[torch.randint(16, (12,), generator=draw)] / 2
    return {
        "random": (plain, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3], ids(12)),
        "uneven identities": (random(11), [7, 2, 7, 7, 2, 9, 7, 5, 5, 7, 2], ids(11)),
        "duplicates": (copied, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3], again),
        "singletons": (random(6), [0, 1, 2, 3, 4, 5], ids(6)),
        "one singleton": (random(7), [0, 0, 1, 2, 2, 1, 3], ids(7)),
        "single identity": (random(6), [4] * 6, ids(6)),
        "all identical": (plain[:1].repeat(8, 1), [0, 0, 1, 1, 2, 2, 3, 3], ids(8)),
        "tie-heavy": (lattice, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3], ids(12)),
        "one row": (random(1), [0], ids(1)),
    }


def close(actual: Tensor, expected: Tensor, relative: float = 1e-12) -> bool:
    scale = max(1.0, float(expected.abs().max()) if expected.numel() else 1.0)
    return bool(torch.isfinite(actual).all()) and math.isclose(
        float((actual - expected).abs().max()) if expected.numel() else 0.0, 0.0, abs_tol=relative * scale
    )
