"""A Model from wherever it is named: a folder, an object store, or MLflow, which is only imported when asked for."""

from metric_core.model import bundle
from metric_core.model.bundle import Model


def load(uri: str) -> Model:
    """A Model by its address, or by an MLflow model URI (``models:/NAME@ALIAS``, ``models:/NAME/3``), which is
    resolved once, to a fingerprint.

    Raises:
        Missing: nothing is there, or MLflow knows no such model; else as ``bundle.load``.
    """
    if not uri.startswith(("models:/", "runs:/")):
        return bundle.load(uri)
    from workflows.shared import tracking  # MLflow takes seconds to import

    return tracking.load_model(uri)
