"""``likeness embeddings compare``: how scores change when the same faces are embedded by a new model."""

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
        DataError: the two have no faces in common, or faces have no name.
        ConfigError: their faces are of different namespaces.
    """
    old, new = (erasures.without_erased(Collection.open(address)) for address in (config.old, config.new))
    if old.namespace != new.namespace:
        raise ConfigError(f"--old has faces of {old.namespace}, --new of {new.namespace}; both need the same faces")
    new.require_named("a comparison of models")
    drawn_M = _sample(old, new, config)
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
        _plot({"old": found.old, "new": found.new}, answer["picture"])
    return answer


def _sample(old: Collection, new: Collection, config: CompareConfig) -> np.ndarray:
    """int64 (M,), sorted: the faces in both of some people, who are drawn by their names until they have
    ``config.faces`` faces."""
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


def _plot(models: Mapping[str, PairScores], out: str) -> None:
    """Write a PNG with one panel per model: histograms of the similarity of genuine and impostor pairs."""
    from matplotlib.figure import Figure  # takes a second to import, and is rarely needed

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
