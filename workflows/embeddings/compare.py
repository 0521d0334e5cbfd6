"""``likeness embeddings compare``: how scores move when faces are embedded anew by another model, beside the old."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from metric_core import counter, storage
from metric_core.artefacts import ids
from metric_core.artefacts.collection import Collection
from metric_core.errors import ConfigError, DataError
from metric_core.evaluate import upgrade
from metric_core.evaluate.pairs import PairScores
from workflows.embeddings.config import CompareConfig
from workflows.shared import erasures


def run(config: CompareConfig) -> dict[str, Any]:
    """Compare.

    Returns:
        {faces, people, models: {old, new}, old, new, operating_points, rank1[, threshold][, picture]}, as
        ``upgrade.compare``.

    Raises:
        DataError: they have no faces in common.
    """
    old, new = (erasures.without_erased(Collection.open(address)) for address in (config.old, config.new))
    if old.namespace != new.namespace:
        raise ConfigError(f"--old has faces of {old.namespace}, --new of {new.namespace}; give the same faces twice")
    drawn_M = _drawn(old, new, config)
    before, after = old.take(drawn_M), new.take(drawn_M)
    found = upgrade.compare(before, after, config.threshold, config.seed)
    answer = {
        "faces": len(after),
        "people": len(set(after.identity_N.tolist())),
        "models": {"old": old.fingerprint, "new": new.fingerprint},
        **found.report,
    }
    if config.picture:
        answer["picture"] = storage.absolute(config.picture)
        _draw({"old": found.old, "new": found.new}, answer["picture"])
    return answer


def _drawn(old: Collection, new: Collection, config: CompareConfig) -> np.ndarray:
    """int64, sorted: the faces that both have of as many people, drawn by their names, as have ``config.faces``."""
    there_M = np.sort(np.concatenate([ids.NONE, *(t["face_id"].to_numpy() for t in old.iter_columns(["face_id"]))]))
    found, draws = [ids.NONE], [np.empty(0)]
    for table in new.iter_columns(["face_id", "identity"]):
        table = table.filter(ids.within(table["face_id"].to_numpy(), there_M))
        people = table["identity"].combine_chunks().dictionary_encode()
        names = np.array([counter.hash63("identity", name, 0) for name in people.dictionary.to_pylist()], np.int64)
        draw_P = counter.uniform(config.seed, 0, names, "compare", 1)[:, 0]
        found.append(table["face_id"].to_numpy())
        draws.append(draw_P[people.indices.to_numpy()])
    id_N, draw_N = np.concatenate(found), np.concatenate(draws)
    if not len(id_N):
        raise DataError(f"{old.uri} and {new.uri} have no faces in common; embed the same catalogue with both models")
    last = np.partition(draw_N, min(config.faces, len(draw_N)) - 1)[min(config.faces, len(draw_N)) - 1]
    return np.sort(id_N[draw_N <= last])


def _draw(models: Mapping[str, PairScores], out: str) -> None:
    """Write a PNG with a panel a model: how often genuine and impostor pairs have which cosine similarity."""
    from matplotlib.figure import Figure  # takes a second to import, and few ask for it

    figure = Figure(figsize=(7, 2.4 * len(models)), layout="constrained")
    panels = figure.subplots(len(models), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, scores) in zip(panels, models.items()):
        for kind, of_kind_N in (("impostor", ~scores.same_N), ("genuine", scores.same_N)):
            panel.hist(scores.score_N[of_kind_N], bins=100, range=(-1, 1), density=True, alpha=0.6, label=kind)
        panel.set(ylabel="density", title=name)
        panel.legend()
    panels[-1].set_xlabel("cosine similarity")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    storage.write_bytes(out, buffer.getvalue())
