"""From the locator of a Faces row to the bytes of its image."""

from collections.abc import Mapping
from typing import Any

from metric_core import storage
from metric_core.data.readers import parquet, recordio
from metric_core.data.readers.found import resolve
from metric_core.errors import Missing

LOCATOR = ("kind", "uri", "offset", "length", "row_group", "row", "column")
"""The columns of Faces that say where an image is."""


def fetch(root: str, row: Mapping[str, Any]) -> bytes:
    """The image bytes that a Faces row points at.

    Raises:
        Missing: the file is not there, or ends before the image does.
        ImageUnreadable: what holds the image is damaged.
    """
    address = resolve(root, row["uri"])
    if row["kind"] == "parquet":
        return parquet.fetch(address, row["row_group"], row["row"], row["column"])
    if row["length"] is None:
        return storage.read_bytes(address)
    data = storage.read_bytes(address, row["offset"], row["length"])
    if len(data) < row["length"]:
        raise Missing(
            f"{address}: it ends before byte {row['offset'] + row['length']}, where the catalogue has a face; it was "
            f"changed since: write the catalogue again"
        )
    return recordio.payload(data, address) if row["kind"] == recordio.PARTS else data
