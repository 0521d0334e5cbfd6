"""``likeness verify A B``: do two pictures show one person, at a false accept rate that was measured?"""

from typing import Any

from metric_core.errors import ConfigError, ImageUnreadable
from metric_core.metrics import OperatingPoint
from metric_core.model.bundle import Model
from workflows.shared import models, probes
from workflows.verify.config import VerifyConfig


def run(config: VerifyConfig) -> dict[str, Any]:
    """Compare.

    Returns:
        {similarity, threshold, same, far}; ``far`` is the measured rate, at most the requested one.

    Raises:
        ConfigError: the model has no operating point for that rate.
        ImageUnreadable: a picture cannot be read.
    """
    model = models.load(config.model)
    point = _point(model, config.far)
    found = probes.embed(model, config.images)
    if found.unreadable:
        bad = found.unreadable[0]
        raise ImageUnreadable(f"{bad['query']}: {bad['reason']}")
    similarity = float(found.embedding_QD[0] @ found.embedding_QD[1])
    return {
        "similarity": similarity,
        "threshold": point.threshold,
        "same": similarity >= point.threshold,
        "far": point.far,
    }


def show(result: dict[str, Any]) -> str:
    """One sentence."""
    verdict = "the same person" if result["same"] else "different people"
    sign = ">=" if result["same"] else "<"
    threshold = f"threshold {result['threshold']:.4f} at FAR {result['far']:g}"
    return f"{verdict}: similarity {result['similarity']:.4f} {sign} {threshold}"


def _point(model: Model, far: float) -> OperatingPoint:
    """The most permissive point measured at a rate of at most ``far``."""
    fitting = [point for point in model.operating_points if point.far <= far * (1 + 1e-9)]
    if fitting:
        return max(fitting, key=lambda point: point.far)
    if not model.operating_points:
        raise ConfigError(
            f"{model.uri} has no operating points: it was trained without a validation split; catalogue with "
            f"--splits or --valid-fraction and train again"
        )
    lowest = min(point.far for point in model.operating_points)
    negatives = model.operating_points[0].negatives
    raise ConfigError(
        f"far {far:g} is below what this model was measured at: {negatives} validation impostor pairs support "
        f"{lowest:g} (10 accepted pairs at least); ask for --far {lowest:g} or validate on more people"
    )
