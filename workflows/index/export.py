"""``likeness index export``: a version of an index as one file for plain FAISS, and beside it the identities."""

from typing import Any

from metric_core import storage
from metric_core.index import export
from metric_core.index.search import Index
from workflows.index.config import ExportConfig


def run(config: ExportConfig) -> dict[str, Any]:
    """Export.

    Returns:
        {faiss, identities, version, rows, spec, nprobe, depth}

    Raises:
        Missing, Unfinished: there is no such index or version, or no version is live.
        Corrupt: a file of the index is damaged.
        StorageFull: the disk is full.
    """
    index = Index.open(config.index, config.version)
    written = export.export(index, storage.absolute(config.out))
    return {
        "faiss": written.faiss,
        "identities": written.identities,
        "version": index.version.id,
        "rows": written.rows,
        "spec": index.spec.factory,
        "nprobe": index.nprobe,
        "depth": index.depth,
    }


def show(result: dict[str, Any]) -> str:
    """The result as lines."""
    return "\n".join(f"{name}: {value}" for name, value in result.items() if value is not None)
