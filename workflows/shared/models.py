"""Loads a Model from a folder, an object store, or MLflow, which is imported only when needed."""

from metric_core.model import bundle
from metric_core.model.bundle import Model


def load(uri: str) -> Model:
    """Load a Model by its address or by an MLflow model URI (``models:/NAME@ALIAS``, ``models:/NAME/3``).

    Raises:
        Missing: nothing is there, or MLflow has no such model; else as ``bundle.load``.
    """
    if not uri.startswith(("models:/", "runs:/")):
        return bundle.load(uri)
    from workflows.shared import tracking  # MLflow takes seconds to import

    return tracking.load_model(uri)
