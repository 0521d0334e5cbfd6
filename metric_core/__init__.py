"""The Likeness library: from faces to vectors, from vectors to matches. It uses neither Ray nor MLflow.

The names below are for use in a notebook. Each is imported from its module when it is first used, so importing the
package takes no time. ``__init__.pyi`` has the same names for type checkers.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "metric_core.artefacts.collection": ("Collection",),
    "metric_core.artefacts.embeddings": ("Embeddings", "Vectors"),
    "metric_core.artefacts.faces": ("Faces",),
    "metric_core.errors": ("LikenessError",),
    "metric_core.index.search": ("Index",),
    "metric_core.learn.collective": ("World",),
    "metric_core.learn.mining": ("GlobalBatch", "batch_hard", "distance_weighted", "easy_positive", "semi_hard"),
    "metric_core.learn.objective": ("Objective",),
    "metric_core.learn.step": ("global_loss",),
    "metric_core.model.bundle": ("Model",),
    "metric_core.model.embedder": ("Embedder",),
    "metric_core.sources.fetching": ("fetch",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
