"""``likeness embeddings compare``: how scores move when faces are embedded anew by another model, beside the old."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from metric_core import counter, ids, storage
from metric_core.collection import Collection
from metric_core.data import faces
from metric_core.errors import ConfigError, DataError
from metric_core.evaluate import upgrade
from workflows.parts import erasures, pictures
from workflows.parts.options import too_low


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Show how scores move with a new model."""

    old: str
    """Embeddings by the model in use, A or A,B read as one."""
    new: str
    """Embeddings of the same faces by the new model."""
    faces: int = 10_000
    """Faces to look at, all pictures of people drawn by a seed, of those that both have."""
    threshold: float | None = None
    """A similarity in use as a threshold; the report says which one of the new model has the same FAR."""
    picture: str | None = None
    """PNG to write: genuine and impostor scores of both."""
    seed: int = 0
    """Of who is drawn."""

    def __post_init__(self) -> None:
        problems = too_low(self, faces=4)
        if self.threshold is not None and not -1 < self.threshold < 1:
            problems.append(f"threshold is {self.threshold}; it must lie between -1 and 1")
        if problems:
            raise ConfigError.of(problems)


def run(config: CompareConfig) -> dict[str, Any]:
    """Compare.

    Returns:
        {faces, people, models: {old, new}, old, new, operating_points, rank1[, threshold][, picture]}, as
        ``upgrade.compare``.

    Raises:
        DataError: they have no faces in common.
    """
    old, new = (erasures.left_out(Collection.open(address)) for address in (config.old, config.new))
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
        pictures.score_distributions({"old": found.old, "new": found.new}, answer["picture"])
    return answer


def _drawn(old: Collection, new: Collection, config: CompareConfig) -> np.ndarray:
    """int64, sorted: the faces that both have of as many people, drawn by their names, as have ``config.faces``."""
    there_M = np.sort(np.concatenate([ids.NONE, *(t["face_id"].to_numpy() for t in old.iter_columns(["face_id"]))]))
    found, draws = [ids.NONE], [np.empty(0)]
    for table in new.iter_columns(["face_id", "identity"]):
        table = table.filter(ids.within(table["face_id"].to_numpy(), there_M))
        people = table["identity"].combine_chunks().dictionary_encode()
        names = np.array([faces.face_id("identity", name) for name in people.dictionary.to_pylist()], np.int64)
        draw_P = counter.uniform(config.seed, 0, names, "compare", 1)[:, 0]
        found.append(table["face_id"].to_numpy())
        draws.append(draw_P[people.indices.to_numpy()])
    id_N, draw_N = np.concatenate(found), np.concatenate(draws)
    if not len(id_N):
        raise DataError(f"{old.uri} and {new.uri} have no faces in common; embed the same catalogue with both models")
    last = np.partition(draw_N, min(config.faces, len(draw_N)) - 1)[min(config.faces, len(draw_N)) - 1]
    return np.sort(id_N[draw_N <= last])
