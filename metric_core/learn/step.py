"""One global loss per step: gather, mine, sum and normalise so that W workers train like one.

``global_loss`` does all of this; embedding the images, the optimiser and the logging are left to the caller.

The loss is L = (1/N) Σ over the anchors of the *global* batch. Worker r differentiates W·S_r/N. S_r is the sum
over its own anchors against all workers' references, and N the detached count over all workers. Averaging
gradients over workers, as DistributedDataParallel does, then yields exactly ∇L.

Shape letters: L local rows, R rows of all workers, D columns, A contributing anchors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from metric_core.learn.collective import World, all_gather_ids, all_gather_rows, all_reduce_sum, row_counts
from metric_core.learn.health import effective_rank, spread
from metric_core.learn.memory import CrossBatchMemory
from metric_core.learn.mining import GlobalBatch
from metric_core.learn.objective import Objective
from metric_core.learn.stream import BatchReferences
from metric_core.learn.terms import Terms, mine, selected_terms, streamed_terms

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _eager(function: _Function) -> _Function:
    """``torch.compiler.disable``, which says nothing of types: what it returns is called as the function is."""
    eager: _Function = torch.compiler.disable(function)
    return eager


@dataclass
class Outcome:
    """The loss of one step."""

    loss: Tensor
    """Call ``backward()`` on this, on every worker: W·S_r/N, 0-dim."""
    value: Tensor
    """The loss of the global batch, 0-dim, detached, the same on every worker."""
    health: dict[str, Tensor]
    """0-dim figures of the global batch, the same on every worker: see ``global_loss``."""
    asked: Tensor
    """How many workers called with ``asks``, 0-dim, the same on every worker."""


@_eager
def global_loss(
    objective: Objective,
    world: World,
    emb_LD: Tensor,
    label_L: Tensor,
    face_id_L: Tensor,
    *,
    seed: int,
    step: int,
    view_L: Tensor | None = None,
    memory: CrossBatchMemory | None = None,
    asks: bool = False,
) -> Outcome:
    """The loss of the global batch, of which this worker holds the rows ``emb_LD``; every worker calls it.

    ``emb_LD`` holds unit vectors. The loss is computed in float64 if they are float64, else in float32, also under
    autocast. ``label_L``, ``face_id_L`` and ``view_L`` are int64 (L,). Workers may hold different numbers of rows.
    An anchor without a positive or without a negative contributes nothing and is not counted in N. With a
    ``memory`` (from ``new_memory``), ``memory_weight`` times the loss of the same anchors against the memory is
    added, normalised by an N of its own. The batch is then added to the memory. ``asks`` is a question to all
    workers, such as whether to stop after this step; it travels with the sums of the loss, because an exchange of its
    own would make every step wait once more.

    health: ``anchors`` that contribute and ``anchors_without_positive``; ``embeddings_not_finite``, the number of
    embeddings that hold a NaN or an infinity (if there are any, the loss and the other figures mean nothing);
    ``active_fraction`` of triplets whose hinge is not 0, or of anchors whose farthest positive plus margin is
    beyond their nearest negative; ``d_ap_mean``, ``_q10``, ``_q50``, ``_q90`` of each contributing anchor's
    farthest selected positive and ``d_an_…`` of its nearest selected negative (NaN without contributing
    anchors); ``effective_rank`` of the centred embeddings; with a memory ``memory_loss`` and ``memory_rows``
    in use.

    Raises ValueError for multi-view without views. Runs eagerly inside ``torch.compile``d code, because the
    sizes in mining depend on the data.
    """
    if objective.loss != "multi-view":
        view_L = None
    elif view_L is None:
        raise ValueError("view_L is None; loss multi-view needs the view of every face")
    with torch.autocast(emb_LD.device.type, enabled=False):
        emb_LD = emb_LD if emb_LD.dtype == torch.float64 else emb_LD.float()
        counts = row_counts(len(emb_LD), world, emb_LD.device)
        columns = [label_L, face_id_L] if view_L is None else [label_L, face_id_L, view_L]
        label_R, face_id_R, *view_R = all_gather_ids(torch.stack(columns, 1), world, counts).unbind(1)
        batch = GlobalBatch(
            anchor_LD=emb_LD,
            label_L=label_L,
            face_id_L=face_id_L,
            reference_RD=all_gather_rows(emb_LD, counts, world),
            label_R=label_R,
            face_id_R=face_id_R,
            view_L=view_L,
            view_R=view_R[0] if view_R else None,
        )
        if objective.pairs in ("all", "multi-similarity"):
            terms = streamed_terms(objective, batch, BatchReferences(batch, objective.distance))
        else:
            terms = selected_terms(objective, batch, mine(objective, batch, seed, step))
        loss, value, figures = _normalised(terms, world, asks=asks)
        anchors, no_positive, active, considered, not_finite, asked = figures[2:].unbind()
        d_ap_A, d_an_A = all_gather_ids(torch.stack([terms.d_ap_A, terms.d_an_A], 1), world).unbind(1)
        health = {
            "anchors": anchors,
            "anchors_without_positive": no_positive,
            "embeddings_not_finite": not_finite,
            "active_fraction": active / considered.clamp(min=1.0),
            "effective_rank": effective_rank(batch.reference_RD),
            **spread("d_ap", d_ap_A),
            **spread("d_an", d_an_A),
        }
        if memory is not None:
            references = memory.references(batch, counts, objective.distance)
            memory_terms = streamed_terms(objective, memory.as_batch(batch, step), references)
            memory_loss, memory_value, _ = _normalised(memory_terms, world)
            loss = loss + objective.memory_weight * memory_loss
            value = value + objective.memory_weight * memory_value
            health |= {"memory_loss": memory_value, "memory_rows": memory.usable(step).sum()}
            memory.enqueue(batch.reference_RD, batch.label_R, batch.face_id_R, step, batch.view_R)
        return Outcome(loss, value, health, asked)


def new_memory(
    objective: Objective, dim: int, world: World, dtype: torch.dtype, device: torch.device | str
) -> CrossBatchMemory | None:
    """An empty memory for the objective, with ``dim`` columns; None if its ``memory_rows`` is 0."""
    if objective.memory_rows == 0:
        return None
    return CrossBatchMemory(
        objective.memory_rows,
        dim,
        world,
        max_age=objective.memory_max_age or None,
        dtype=dtype,
        device=device,
    )


def _normalised(terms: Terms, world: World, *, asks: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """W·S_r/N to differentiate, the global S/N, and the figures of ``terms`` and ``asks`` summed over workers."""
    figures = all_reduce_sum(torch.cat([terms.figures, terms.figures.new_tensor([float(asks)])]), world)
    n = figures[1].clamp(min=1.0)
    return terms.total * (world.size / n).to(terms.total.dtype), figures[0] / n, figures
