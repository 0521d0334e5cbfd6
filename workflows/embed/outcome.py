"""The content of the manifest that an embed job writes, and the result of the command."""

from typing import Any

from metric_core.errors import Corrupt
from workflows.embed.done import DoneUnits
from workflows.embed.plan import EmbedPlan
from workflows.embed.tally import Tally


def manifest_content(plan: EmbedPlan, done: DoneUnits, tally: Tally, gone: dict[str, Any] | None) -> dict[str, Any]:
    """The manifest's content, once all units are done; ``gone`` describes the file of faces that are gone.

    Raises:
        Corrupt: the number of faces that came out is not the number that went in.
    """
    if tally.done != plan.total:
        raise Corrupt(f"{plan.total} faces went in, {tally.embedded} vectors and {tally.rejected} rejects came out")
    faces, selection = plan.setup.faces, plan.setup.selection
    return {
        **plan.document,
        "plan_id": plan.id,
        "dim": plan.model.embedder.spec.backbone.dim,
        "namespace": faces.namespace,
        **({"unlabelled": True} if faces.unlabelled else {}),
        "salts": faces.manifest.content["salts"],
        **done.content(),
        "gone": gone,
        "unchanged": selection.unchanged,
        "inputs": plan.inputs,
        "embedded": tally.embedded,
        "quarantined": tally.rejected,
        "erased": len(selection.erased_M),
        "erased_digest": selection.erased_digest,
        "reasons": dict(sorted(tally.reasons.items())),
    }


def result(
    out: str, content: dict[str, Any], *, fresh: int = 0, seconds: float = 0.0, startup: float = 0.0
) -> dict[str, Any]:
    """The command's result for an artefact with this content. This run has done ``fresh`` faces in ``seconds`` seconds,
    after ``startup`` seconds."""
    gone = content["gone"]["rows"] if content["gone"] else 0
    return {
        "embeddings": out,
        "embedded": content["embedded"],
        "quarantined": content["quarantined"],
        **({"unchanged": content["unchanged"], "gone": gone} if content["since"] else {}),
        **({"erased": content["erased"]} if content["erased"] else {}),
        "reused": content["embedded"] + content["quarantined"] - fresh,
        "seconds": round(seconds, 2),
        "startup_seconds": round(startup, 2),
        "images_per_second": round(fresh / seconds, 1) if seconds else 0.0,
    }
