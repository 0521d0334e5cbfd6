"""What a change of the model does to scores and answers, and which faces left the source with a full build."""

from typing import Any

import numpy as np

from metric_core.artefacts import ids
from metric_core.artefacts.embeddings import Embeddings
from metric_core.artefacts.faces import Faces
from metric_core.errors import ArtefactError, DataError
from metric_core.index.version import Version
from workflows.embeddings.config import CompareConfig
from workflows.index.config import DiffConfig
from workflows.pipeline.planning import Live
from workflows.shared.console import one_line, say


def not_listed(live: Live, faces: Faces, more_M: np.ndarray = ids.NONE) -> np.ndarray:
    """int64, sorted: the faces of the live version that a catalogue does not list any more, and ``more_M``. Of a live
    version that is damaged nothing is known."""
    from metric_core.index import gate
    from metric_core.index.search import Index

    listed = [t["face_id"].to_numpy() for t in faces.iter_columns(["face_id"])]
    listed_M = np.sort(np.concatenate([ids.NONE, *listed]))
    try:
        index = Index.open(live.version.index_uri, live.version.id)
        there = [id_N for id_N, _ in gate.visible(index)]
    except ArtefactError as error:
        say(f"it is not known what left the source since version {live.version.id}, which is damaged: {error}")
        return more_M
    gone = [id_N[~ids.within(id_N, listed_M)] for id_N in there]
    return np.unique(np.concatenate([more_M, *gone]))


def compared(old: list[Embeddings], new: list[Embeddings], live: Live, version: Version) -> dict[str, Any]:
    """How the scores and the answers of two models differ.

    Returns:
        {scores, answers}: the results of ``embeddings compare`` and of ``index diff``; ``scores`` is {why} if they
        cannot be compared.
    """
    from workflows.embeddings import compare
    from workflows.index import diff

    addresses = [",".join(one.manifest.uri for one in some) for some in (old, new)]
    try:
        if len(old) < len(live.plans):
            raise DataError("the embeddings of the live version are not in --work any more")
        scores = compare.run(CompareConfig(old=addresses[0], new=addresses[1]))
    except DataError as error:  # nobody is named, or nobody has two pictures
        scores = {"why": one_line(error)}
    answers = diff.run(DiffConfig(index=version.index_uri, a=live.version.id, b=version.id))
    return {"scores": scores, "answers": answers}


def summary(found: dict[str, Any]) -> str:
    """The comparison in a sentence."""
    answers = found["answers"]
    return (
        f"{answers['differ']:,} of {answers['probes']:,} probes find another person first; their own: "
        f"{answers['right_b']:,} beside {answers['right_a']:,}"
    )


def figures(found: dict[str, Any]) -> dict[str, float]:
    """The numbers of the comparison."""
    answers = {name: found["answers"][name] for name in ("probes", "differ", "right_a", "right_b")}
    rank1 = found["scores"].get("rank1", {})
    return answers | {f"rank1 {name}": value for name, value in rank1.items()}


def text(found: dict[str, Any]) -> str:
    """The comparison as a table of plain text, without the people whose answers differ."""
    scores = found["scores"]
    if "why" in scores:
        lines = [f"scores are not compared: {scores['why']}"]
    else:
        lines = [f"{'FAR':>8} {'old threshold':>14} {'TAR':>8} {'new threshold':>14} {'TAR':>8}"]
        for point in scores["operating_points"]:
            old, new = point["old"], point["new"]
            lines.append(
                f"{point['far']:>8.0e} {old['threshold']:>14.4f} {old['tar']:>8.4f} {new['threshold']:>14.4f} "
                f"{new['tar']:>8.4f}"
            )
        rank1 = scores["rank1"]
        lines.append(f"rank-1 of {scores['faces']:,} faces: {rank1['old']:.4f} and {rank1['new']:.4f}")
    return "\n".join([*lines, summary(found), "`likeness index diff` shows whose answers differ"])
